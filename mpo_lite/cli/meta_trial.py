"""The trial meta step of ``try`` and ``doctor``, as JSON and as lines."""

from __future__ import annotations

from typing import Any

from mpo_lite.meta.step import StepOutcome
from mpo_lite.rubric import Rubric, rubric_changes

WIDTH = 100
"""Characters shown of a text."""
_SIGNS = {"added": "+", "changed": "~", "dropped": "-"}


def shorten(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"


def build_meta_row(rubric: Rubric, outcome: StepOutcome) -> dict[str, Any]:
    """What a meta step proposed.

    Args:
        rubric: The rubric before the step.
        outcome: The step's outcome, without a gate.

    Returns:
        ``failed``; ``reason``, why nothing is proposed, or empty; ids of criteria ``added``, ``changed`` and
        ``dropped``; ``descriptions`` of these by id.
    """
    new = outcome.rubric
    differences = rubric_changes(rubric, new or rubric)
    criteria = (*rubric.criteria, *(new.criteria if new else ()))
    descriptions = {criterion.id: criterion.description for criterion in criteria}
    return {
        "failed": outcome.status == "failed",
        "reason": outcome.reason,
        **differences,
        "descriptions": {name: descriptions[name] for names in differences.values() for name in names},
    }


def format_meta_row(row: dict[str, Any]) -> list[str]:
    """The proposal, one criterion per line; or why there is none."""
    if row["reason"]:
        return [row["reason"]]
    return [
        f"{sign} {name}: {shorten(row['descriptions'][name])}"
        for kind, sign in _SIGNS.items()
        for name in row[kind]
    ] or ["only weights, guidelines or the order change"]
