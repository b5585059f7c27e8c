"""Rule gates: what can be decided about a completion without asking a judge. They run first and cost
nothing.
"""

from __future__ import annotations

import re

from mpo_lite.tasks.spec import Rules
from mpo_lite.types import Verdict

# Scripts that set no space between words: a character counts as one.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


def rule_results(completion: str, rules: Rules) -> dict[str, bool]:
    """Each rule's name, and whether the completion keeps it."""
    enough = any(count >= rules.min_words for count, _ in enumerate(_WORD.finditer(completion), start=1))
    results = {"min_words": enough}
    if rules.must_match is not None:
        results["must_match"] = re.search(rules.must_match, completion) is not None
    return results


def rule_verdict(completion: str, set_hash: str, rules: Rules) -> Verdict | None:
    """The verdict of the rules, or None where a judge must decide.

    A completion that breaks a rule earns 0. There is always one: an empty completion, or one of a few words
    where the task asks for more, fools even good judges (":", "Thought process:").

    Args:
        completion: The policy's answer.
        set_hash: Identity of the rubric in force.
        rules: The task's.
    """
    if all(rule_results(completion, rules).values()):
        return None
    return Verdict(0.0, set_hash, source="rule")
