"""The series that a report draws. A chart is data; ``report.js`` hands it to the charting library."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from math import isfinite
from statistics import fmean, pstdev
from typing import Any

from mpo_lite.jsonl import JsonRow
from mpo_lite.types import Rollout

Track = dict[float, float | None]
"""Batch → value; None makes a gap in the line."""

HEALTH = {
    "kl": ("KL to the initial policy", "A steep, steady climb goes with hacking."),
    "entropy": ("Entropy of the policy", "Near 0 it says the same each time and cannot learn any more."),
    "tokens": ("Length of answers, tokens", "A sudden rise or fall often is what the reward pays for."),
    "clipped": ("Share of answers cut at the token limit", "Answers that never end are judged as cut."),
    "spread": ("Spread of rewards within groups", "Standard deviation; at 0 there is nothing to learn from."),
    "disagreement": ("Disagreement of the judges", "Largest minus smallest reward, mean over answers."),
    "grad_norm": ("Gradient norm", "Spikes tell of unstable training."),
    "step_seconds": ("Seconds per batch", "Generation, judging and update together."),
    "judge_failures": ("Answers without a reward", "Judgements that failed; they are never scored as 0."),
}  # fmt: skip
"""Column of ``metrics.jsonl`` → its title and what to look for."""


def all_charts(known: JsonRow, rollouts: Sequence[Rollout], tops: Mapping[int, Mapping[str, int]]) -> JsonRow:
    """Every chart of a run by name; those without data are left out."""
    metrics: list[JsonRow] = known["metrics"]
    made = {
        "reward": reward_chart(known),
        "gap": _gap(known),
        "spend": _spend(metrics),
        "zero_spread": chart([line("share", known["zero_spread"])], unit=True),
        **{name: chart([line(title, column(metrics, name))]) for name, (title, _) in HEALTH.items()},
        **{f"criterion-{name}": chart([line(name, track)], unit=True)
           for name, track in _levels(rollouts, tops).items()},
    }  # fmt: skip
    return {name: one for name, one in made.items() if one}


def chart(lines: Iterable[JsonRow], unit: bool = False) -> JsonRow | None:
    """Lines over one axis of batches.

    Args:
        lines: As ``line`` makes them.
        unit: Whether the values lie between 0 and 1 and are shown against all of that.

    Returns:
        ``x`` (batches, ascending), ``lines`` with ``y`` for each x, ``unit``; None without any value.
    """
    told = [one for one in lines if any(value is not None for value in one["track"].values())]
    if not told:
        return None
    x = sorted({batch for one in told for batch in one["track"]})
    drawn = [{**one, "y": [_round(one["track"].get(batch)) for batch in x]} for one in told]
    for one in drawn:
        del one["track"]
    return {"x": x, "lines": drawn, "unit": unit}


def line(label: str, track: Track, colour: int = 0, dots: bool = False) -> JsonRow:
    """One line.

    Args:
        label: Its name in the legend.
        track: Its values.
        colour: Which of the page's colours.
        dots: Whether it is measured now and then: points, joined over what is missing between.
    """
    return {"label": label, "track": track, "colour": colour, "dots": dots}


def reward_chart(known: JsonRow) -> JsonRow | None:
    """Reward, broken where the rubric changes, beside the measures that stay the same."""
    rewards, bands = column(known["metrics"], "reward"), _bands(known)
    # Rewards by different rubrics are not comparable: no line joins them.
    rewards |= {band["from"]: None for band in bands[1:]}
    made = chart(
        [
            line("reward, by the rubric in force", rewards, 0),
            line("fixed answers, by the first rubric", known["probes"], 2, dots=True),
            line("gold", column(known["gold"], "gold"), 1, dots=True),
        ],
        unit=True,
    )
    if made:
        made |= {"bands": bands, "marks": sorted({row["batch"] for row in known["alarms"]})}
    return made


def first_rubric(lineage: Sequence[JsonRow]) -> Track:
    """What the policy's answers to fixed prompts earn under the first rubric, over time."""
    measured = {row["began"]: row["probes"] for row in lineage if row.get("probes")}
    now: Track = {batch: one["now"] for batch, one in measured.items()}
    return {0: next(iter(measured.values()))["before"], **now} if measured else now


def column(rows: Sequence[JsonRow], name: str) -> Track:
    """Batch → the value of a column, where it has one."""
    return {row["batch"]: row[name] for row in rows if row.get(name) is not None}


def zero_spread(rollouts: Sequence[Rollout]) -> Track:
    """Batch → share of its prompt groups whose rewards are all equal, which teach nothing."""
    shares: Track = {}
    for batch, rows in groupby(rollouts, key=lambda one: one.batch):
        groups: defaultdict[str, list[float]] = defaultdict(list)
        for one in rows:
            if one.reward is not None:
                groups[one.prompt].append(one.reward)
        flat = [pstdev(group) == 0 for group in groups.values() if len(group) > 1]
        shares[batch] = fmean(flat) if flat else None
    return shares


def _gap(known: JsonRow) -> JsonRow | None:
    """Reward minus gold where both were measured."""
    rewards = column(known["metrics"], "reward")
    gap: Track = {
        row["batch"]: reward - row["gold"]
        for row in known["gold"]
        if (reward := rewards.get(row["batch"])) is not None
    }
    made = chart([line("reward minus gold", gap, 3, dots=True)])
    if made:
        made |= {"zero": True, "bands": _bands(known)}
    return made


def _bands(known: JsonRow) -> list[JsonRow]:
    """From which batch each rubric version judges."""
    accepted = [row for row in known["history"] if row["accepted"]]
    return [{"from": row["batch"] + 0.5, "label": f"v{row['version']}"} for row in accepted]


def _spend(metrics: Sequence[JsonRow]) -> JsonRow | None:
    """USD so far where all is priced, else calls so far."""
    if metrics and metrics[-1].get("usd"):
        return chart([line("USD so far", column(metrics, "usd"), 0)])
    purposes = ("judge", "gate", "meta")
    return chart([line(f"{purpose} calls so far", column(metrics, f"{purpose}_calls"), colour)
                  for colour, purpose in enumerate(purposes)])  # fmt: skip


def _levels(rollouts: Sequence[Rollout], tops: Mapping[int, Mapping[str, int]]) -> dict[str, Track]:
    """Criterion → mean level per batch, from 0 (worst) to 1 (best)."""
    tracks: defaultdict[str, Track] = defaultdict(dict)
    for batch, rows in groupby(rollouts, key=lambda one: one.batch):
        levels: defaultdict[str, list[float]] = defaultdict(list)
        for one in rows:
            for name, assessment in one.verdict.assessments.items():
                if top := tops.get(one.version, {}).get(name):
                    levels[name].append(assessment.level / top)
        for name, found in levels.items():
            tracks[name][batch] = fmean(found)
    return tracks


def _round(value: Any) -> float | None:
    return round(float(value), 5) if value is not None and isfinite(value) else None
