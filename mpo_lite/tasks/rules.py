"""Rule gates: what can be decided about a completion without asking a judge. They run first and cost
nothing.
"""

from __future__ import annotations

import re

from mpo_lite.types import Verdict

_WORD = re.compile(r"\w")


def rule_verdict(completion: str, set_hash: str) -> Verdict | None:
    """The verdict of the rules, or None where a judge must decide.

    A completion without a single letter or digit earns 0: such near-empty texts fool even good judges.

    Args:
        completion: The policy's answer.
        set_hash: Identity of the rubric in force.
    """
    return None if _WORD.search(completion) else Verdict(0.0, set_hash, source="rule")
