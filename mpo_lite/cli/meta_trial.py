"""One meta step tried out by ``try`` and ``doctor``, as JSON and as lines."""

from __future__ import annotations

from typing import Any

from mpo_lite.meta.meta_judge import rubric_changes
from mpo_lite.meta.step import StepOutcome
from mpo_lite.rubric import Rubric

WIDTH = 100
"""Characters that are shown of a text."""
_SIGNS = {"added": "+", "changed": "~", "dropped": "-"}


def one_line(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"


def meta_row(rubric: Rubric, outcome: StepOutcome) -> dict[str, Any]:
    """What a meta step proposed.

    Args:
        rubric: What it set out from.
        outcome: How it ended, without a gate.

    Returns:
        ``failed``; ``reason``, why nothing is proposed, or empty; ids of criteria ``added``, ``changed`` and
        ``dropped``; ``descriptions`` of these by id.
    """
    new = outcome.rubric
    differences = rubric_changes(rubric, new or rubric)
    known = {each.id: each.description for each in (*rubric.criteria, *(new.criteria if new else ()))}
    return {
        "failed": outcome.status == "failed",
        "reason": outcome.reason,
        **differences,
        "descriptions": {name: known[name] for names in differences.values() for name in names},
    }


def meta_lines(row: dict[str, Any]) -> list[str]:
    """The proposal for a person, a criterion a line; or why there is none."""
    if row["reason"]:
        return [row["reason"]]
    return [
        f"{sign} {name}: {one_line(row['descriptions'][name])}"
        for kind, sign in _SIGNS.items()
        for name in row[kind]
    ] or ["only weights, guidelines or the order change"]
