"""The history of a run's rubric, as a report tells it: each meta step with what it changed and why."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Any, cast

from mpo_lite.jsonl import JsonRow
from mpo_lite.report.figures import changes_in_words, reason_in_words
from mpo_lite.rubric import Criterion, Rubric
from mpo_lite.run_dir import RunDir

Marked = list[tuple[str, bool]]
"""A text in pieces, each with whether the other version lacks it."""


def history(run: RunDir, lineage: list[JsonRow]) -> list[JsonRow]:
    """The first rubric and every step after it, in order.

    Args:
        run: The run.
        lineage: Its lineage.

    Returns:
        Rows for the page: ``batch``, ``version`` in force afterwards, ``accepted``, ``author``, ``words``,
        ``reason``, ``alarms``, ``figures`` of the gate, ``diff`` by criterion, and ``refused`` proposals.
    """
    first = run.version(0)
    told = [
        {
            "kind": "first",
            "batch": 0,
            "version": 0,
            "accepted": True,
            "author": first.author,
            "diff": whole(first.rubric),
            "guidelines": [(first.rubric.guidelines, False)] if first.rubric.guidelines else [],
            "refused": [],
        }
    ]
    return told + [_step(run, row) for row in lineage]


def whole(rubric: Rubric) -> list[JsonRow]:
    """A rubric in the form of ``diff``, compared with itself."""
    return diff(rubric, rubric)


def diff(old: Rubric, new: Rubric) -> list[JsonRow]:
    """Two rubrics criterion by criterion, in the new one's order, what was dropped last.

    Returns:
        Rows of ``id``, ``state`` (same, added, changed, dropped), ``old`` and ``new``: the criterion's texts
        in marked pieces, or None.
    """
    before = {one.id: one for one in old.criteria}
    after = {one.id: one for one in new.criteria}
    return [_compared(name, before.get(name), after.get(name))
            for name in [*after, *(name for name in before if name not in after)]]  # fmt: skip


def _step(run: RunDir, row: JsonRow) -> JsonRow:
    parent = run.version(row["parent"]).rubric
    new = Rubric.model_validate(row["rubric"]) if row["status"] == "accepted" else None
    return {
        "kind": row["kind"],
        "batch": row["batch"],
        "version": row["version"],
        "accepted": row["status"] == "accepted",
        "author": row["author"],
        "words": changes_in_words(row) if new else "",
        "reason": reason_in_words(row),
        "alarms": row.get("alarms", []),
        "figures": _figures(row.get("gate", {})),
        "objections": [each["text"] for each in row.get("recheck", {}).get("objections", [])],
        "diff": diff(parent, new) if new else [],
        "guidelines": _marks(parent.guidelines, new.guidelines)[1] if new else [],
        "refused": [_refused(one, parent) for one in row.get("refused", [])],
    }


def _refused(one: JsonRow, parent: Rubric) -> JsonRow:
    """A proposal that was not taken; where it is the rubric in force unchanged, nothing is shown of it."""
    proposed = Rubric.model_validate(one["rubric"]) if one["rubric"] else None
    changed = [row for row in diff(parent, proposed) if row["state"] != "same"] if proposed else []
    return {
        "reasons": [each["text"] for each in one.get("objections", [])] or [one["reason"]],
        "status": one["status"],
        "figures": _figures(one["figures"]),
        "diff": changed,
    }


def _figures(measured: JsonRow) -> list[tuple[str, float]]:
    return [(name.replace("_", " "), cast(float, value)) for name, value in measured.items()]


def _compared(name: str, old: Criterion | None, new: Criterion | None) -> JsonRow:
    same = old is not None and new is not None and _texts(old) == _texts(new)
    state = "same" if same else "added" if old is None else "dropped" if new is None else "changed"
    pairs = [_marks(*each) for each in _aligned(old, new)]
    return {
        "id": name,
        "state": state,
        "old": _told(old, [pair[0] for pair in pairs]),
        "new": _told(new, [pair[1] for pair in pairs]),
        "provenance": list(new.provenance) if new else [],
    }


def _told(criterion: Criterion | None, texts: list[Marked]) -> JsonRow | None:
    if criterion is None:
        return None
    levels = texts[1 : 1 + len(criterion.levels)]
    return {"kind": criterion.kind, "weight": criterion.weight, "description": texts[0], "levels": levels}


def _texts(criterion: Criterion) -> dict[str, Any]:
    return criterion.model_dump(exclude={"provenance"})


def _aligned(old: Criterion | None, new: Criterion | None) -> list[tuple[str, str]]:
    """Description and levels of both, side by side; one that is not there is put beside itself."""
    before = [one.description, *one.levels] if (one := old or new) else []
    after = [two.description, *two.levels] if (two := new or old) else []
    longest = max(len(before), len(after))
    return list(zip(*([*texts, *[""] * (longest - len(texts))] for texts in (before, after)), strict=True))


def _marks(old: str, new: str) -> tuple[Marked, Marked]:
    """Both texts in pieces, with the words marked that the other lacks."""
    left, right = (re.findall(r"\s+|\S+", text) for text in (old, new))
    marked: tuple[Marked, Marked] = ([], [])
    for kind, a, b, c, d in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        for side, piece in enumerate(("".join(left[a:b]), "".join(right[c:d]))):
            if piece:
                marked[side].append((piece, kind != "equal"))
    return marked
