"""Rules: what can be decided about a completion without a judge. They run first and cost nothing."""

from __future__ import annotations

import re

from mpo_lite.tasks.spec import Rules
from mpo_lite.types import Verdict

# In scripts without spaces between words, each character counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


def count_words(text: str) -> int:
    """Number of words; in scripts without spaces, of characters."""
    return sum(1 for _ in _WORD.finditer(text))


def rule_results(completion: str, rules: Rules) -> dict[str, bool]:
    """Rule name → whether the completion follows it."""
    # Stops at the minimum: a completion may be long.
    enough = any(count >= rules.min_words for count, _ in enumerate(_WORD.finditer(completion), start=1))
    results = {"min_words": enough}
    if rules.must_match is not None:
        results["must_match"] = re.search(rules.must_match, completion) is not None
    return results


def rule_verdict(completion: str, set_hash: str, rules: Rules) -> Verdict | None:
    """The verdict of the rules, or None if a judge must decide.

    A completion that breaks a rule gets 0. There is always a minimum length: empty completions, or a few
    words where the task asks for more, fool even good judges (":", "Thought process:").

    Args:
        completion: The policy's answer.
        set_hash: Identity of the current rubric.
        rules: The task's rules.
    """
    if all(rule_results(completion, rules).values()):
        return None
    return Verdict(0.0, set_hash, source="rule")
