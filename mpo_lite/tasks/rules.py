"""Rule gates: what can be decided about a completion without asking a judge. They run first and cost
nothing.
"""

from __future__ import annotations

import re

from mpo_lite.types import Verdict

# Scripts that set no space between words: a character counts as one.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


def rule_verdict(completion: str, set_hash: str, min_words: int = 1) -> Verdict | None:
    """The verdict of the rules, or None where a judge must decide.

    An empty completion, or one of a few words where the task asks for more, earns 0: such texts (":",
    "Thought process:") fool even good judges.

    Args:
        completion: The policy's answer.
        set_hash: Identity of the rubric in force.
        min_words: Fewest words that are judged.
    """
    for count, _ in enumerate(_WORD.finditer(completion), start=1):
        if count >= min_words:
            return None
    return Verdict(0.0, set_hash, source="rule")
