"""Reasons to refuse a rubric: an id that programs go by, and the words for meta-judge and people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpo_lite.jsonl import JsonRow
from mpo_lite.judge.base import Sample
from mpo_lite.types import Verdict


@dataclass(frozen=True)
class Objection:
    """One reason of the gate.

    Attributes:
        id: The kind of planted answer that the rubric rewards, or the threshold that it misses
            (``agreement``, ``consensus``, ``varied``, ``vetoed``, ``labels``).
        text: What was seen, with figures and thresholds, for people.
        complaint: The same without figures, for the meta-judge: told a threshold, it would write for the
            threshold.
        example: A planted answer that was rewarded, with the judge's verdict; None for thresholds.
    """

    id: str
    text: str
    complaint: str
    example: tuple[Sample, Verdict] | None = None

    def to_row(self) -> JsonRow:
        """The objection as it is recorded."""
        return {"id": self.id, "text": self.text, "complaint": self.complaint}


def join_complaints(objections: Sequence[Objection]) -> str:
    """All of them on one line, for the meta-judge."""
    return "; ".join(objection.complaint for objection in objections)


def join_objections(objections: Sequence[Objection]) -> str:
    """All of them on one line."""
    return "; ".join(objection.text for objection in objections)
