"""The history of a run's rubric: each meta step with what it changed and why."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any

from mpo_lite.jsonl import JsonRow
from mpo_lite.records import Refused, Step
from mpo_lite.report.figures import describe_step, describe_step_reason
from mpo_lite.report.run_data import RunData
from mpo_lite.rubric import Criterion, Rubric

Marked = list[tuple[str, bool]]
"""A text in pieces, each with whether the other version lacks it."""


def build_history(data: RunData) -> list[JsonRow]:
    """The first rubric and every step after it, in order.

    Returns:
        Rows for the page: ``batch``, ``version`` in use afterwards, ``accepted``, ``author``, ``words``,
        ``reason``, ``alarms``, ``figures`` of the gate, ``diff`` by criterion, and ``refused`` proposals.
    """
    first = data.versions[0]
    beginning: JsonRow = {
        "kind": "first",
        "batch": 0,
        "version": 0,
        "accepted": True,
        "author": first.author,
        "diff": list_criteria(first.rubric),
        "guidelines": [(first.rubric.guidelines, False)] if first.rubric.guidelines else [],
        "refused": [],
    }
    return [beginning, *(_build_step(step, data.versions[step.parent].rubric) for step in data.lineage)]


def list_criteria(rubric: Rubric) -> list[JsonRow]:
    """A rubric in the form of ``diff``, without differences."""
    return diff(rubric, rubric)


def diff(old: Rubric, new: Rubric) -> list[JsonRow]:
    """Two rubrics criterion by criterion, in the new one's order, what was dropped last.

    Returns:
        Rows of ``id``, ``state`` (same, added, changed, dropped), ``old`` and ``new``: the criterion's texts
        in marked pieces, or None.
    """
    before = {criterion.id: criterion for criterion in old.criteria}
    after = {criterion.id: criterion for criterion in new.criteria}
    dropped = [name for name in before if name not in after]
    return [_compare_criteria(name, before.get(name), after.get(name)) for name in [*after, *dropped]]


def _build_step(step: Step, parent: Rubric) -> JsonRow:
    new = step.rubric if step.status == "accepted" else None
    return {
        "kind": step.kind,
        "batch": step.batch,
        "version": step.version,
        "accepted": step.status == "accepted",
        "author": step.author,
        "words": describe_step(step) if new else "",
        "reason": describe_step_reason(step),
        "alarms": step.alarms,
        "figures": _label_figures(step.gate),
        "objections": [objection.text for objection in step.recheck.objections],
        "diff": diff(parent, new) if new else [],
        "guidelines": _mark_differences(parent.guidelines, new.guidelines)[1] if new else [],
        "refused": [_build_refused(proposal, parent) for proposal in step.refused],
    }


def _build_refused(proposal: Refused, parent: Rubric) -> JsonRow:
    """A proposal that was not taken, with the criteria in which it differs from its parent."""
    rows = diff(parent, proposal.rubric) if proposal.rubric else []
    return {
        "reasons": [objection.text for objection in proposal.objections] or [proposal.reason],
        "status": proposal.status,
        "figures": _label_figures(proposal.figures),
        "diff": [row for row in rows if row["state"] != "same"],
    }


def _label_figures(figures: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(name.replace("_", " "), value) for name, value in figures.items()]


def _compare_criteria(name: str, old: Criterion | None, new: Criterion | None) -> JsonRow:
    same = old is not None and new is not None and _dump(old) == _dump(new)
    state = "same" if same else "added" if old is None else "dropped" if new is None else "changed"
    pairs = [_mark_differences(*texts) for texts in _pair_texts(old, new)]
    return {
        "id": name,
        "state": state,
        "old": _build_criterion(old, [pair[0] for pair in pairs]),
        "new": _build_criterion(new, [pair[1] for pair in pairs]),
        "provenance": list(new.provenance) if new else [],
    }


def _build_criterion(criterion: Criterion | None, texts: list[Marked]) -> JsonRow | None:
    if criterion is None:
        return None
    levels = texts[1 : 1 + len(criterion.levels)]
    return {"kind": criterion.kind, "weight": criterion.weight, "description": texts[0], "levels": levels}


def _dump(criterion: Criterion) -> dict[str, Any]:
    return criterion.model_dump(exclude={"provenance"})


def _pair_texts(old: Criterion | None, new: Criterion | None) -> list[tuple[str, str]]:
    """Description and levels of both, side by side."""
    # A criterion that was added or dropped is paired with itself, so that no word of it is marked.
    left, right = old or new, new or old
    before = [left.description, *left.levels] if left else []
    after = [right.description, *right.levels] if right else []
    return list(zip_longest(before, after, fillvalue=""))


def _mark_differences(old: str, new: str) -> tuple[Marked, Marked]:
    """Both texts in pieces, with the words marked that the other lacks."""
    left, right = (re.findall(r"\s+|\S+", text) for text in (old, new))
    marked: tuple[Marked, Marked] = ([], [])
    for kind, a, b, c, d in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        for side, piece in enumerate(("".join(left[a:b]), "".join(right[c:d]))):
            if piece:
                marked[side].append((piece, kind != "equal"))
    return marked
