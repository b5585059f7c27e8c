"""The past of a run as its meta-judge is shown it; read from the run's files, so a resumed run shows the
same.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from mpo_lite.jsonl import JsonRow
from mpo_lite.loop.session import Session
from mpo_lite.meta.history import PastVersion, RefusedProposal, describe_history
from mpo_lite.rubric import Rubric

ENDS = 3
"""Batches whose mean reward stands for the beginning, and for the end, of a version."""


def run_history(session: Session, batch: int) -> str:
    """Rubric versions and refused proposals of the first ``batch`` batches, and what became of them."""
    run = session.run
    metrics = [row for row in run.rows(run.metrics) if row["batch"] <= batch]
    alarms = [row for row in run.rows(run.alarms) if row["batch"] <= batch]
    steps = [row for row in run.rows(run.lineage) if row["batch"] <= batch]
    starts = {row["version"]: row for row in steps if row["status"] == "accepted"}
    versions: list[PastVersion] = []
    for number in range(session.state.version.number + 1):
        came_from = _describe_origin(starts[number]) if number in starts else "the first rubric"
        rubric = run.version(number).rubric
        versions.append(PastVersion(f"v{number}", rubric, came_from, _describe_fate(number, metrics, alarms)))
    refused = [
        RefusedProposal(
            f"after batch {row['began']}",
            Rubric.model_validate(attempt["rubric"]),
            run.version(row["parent"]).rubric,
            _describe_refusal(attempt),
        )
        for row in steps
        for attempt in row.get("refused", [])
        if attempt["status"] == "refused" and attempt["rubric"]
    ]
    return describe_history(versions, refused)


def _describe_origin(row: JsonRow) -> str:
    names = {"meta": "your proposal", "rollback": "an earlier version restored", "pin": "pinned by a person"}
    origin = f"{names.get(row['kind'], row['kind'])} after batch {row['began']}"
    details = [row["reason"]] if row["reason"] else []
    figures: dict[str, float] = row.get("gate", {})
    if margins := {name: value for name, value in figures.items() if name.startswith("margin_")}:
        name = min(margins, key=lambda name: margins[name])
        details.append(f"its smallest margin below honest answers: {margins[name]:.2f} ({name[7:]})")
    if gains := {name: value for name, value in figures.items() if name.startswith("gain_")}:
        name = max(gains, key=lambda name: gains[name])
        details.append(f"the largest gain by a shortcut: {gains[name]:.2f} ({name[5:]})")
    return f"{origin} ({'; '.join(details)})" if details else origin


def _describe_refusal(attempt: JsonRow) -> str:
    complaints = [each.get("complaint", each["text"]) for each in attempt["objections"]]
    return "; ".join(complaints) or attempt["reason"]


def _describe_fate(number: int, metrics: Sequence[JsonRow], alarms: Sequence[JsonRow]) -> str:
    """Rewards and alarms under a version."""
    judged = [row for row in metrics if row["version"] == number and row["reward"] is not None]
    judged = [row for row in judged if row.get("judge")]  # the task's verifier scored the others
    if not judged:
        return "No batch was judged by it yet."
    first, last = judged[0]["batch"], judged[-1]["batch"]
    rewards = [row["reward"] for row in judged]
    early, late = statistics.fmean(rewards[:ENDS]), statistics.fmean(rewards[-ENDS:])
    raised = [row for row in alarms if first <= row["batch"] <= last]
    listed = "; ".join(dict.fromkeys(f"{row['name']} ({row['detail']})" for row in raised))
    return (
        f"In batches {first} to {last} the mean reward went from {early:.2f} to {late:.2f}. "
        f"Alarms: {listed or 'none'}."
    )
