"""Reasons to refuse a rubric: an id that programs go by, and the words for meta-judge and people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Objection:
    """One reason of the gate.

    Attributes:
        id: The kind of sentinel that the rubric rewards, or the threshold that it misses (``agreement``,
            ``varied``, ``vetoed``, ``labels``).
        text: What was seen.
    """

    id: str
    text: str


def join_objections(objections: Sequence[Objection]) -> str:
    """All of them on one line."""
    return "; ".join(objection.text for objection in objections)
