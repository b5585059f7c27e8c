"""The series that a report draws. A chart is data; ``report.js`` hands it to the charting library."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from statistics import fmean, pstdev
from typing import Any, NotRequired, TypedDict

from mpo_lite.records import Gold, Metrics, Step
from mpo_lite.report.run_data import RunData

Track = dict[float, float | None]
"""Batch → value; None makes a gap in the line."""

HEALTH = {
    "kl": ("KL to the initial policy", "A steep, steady rise often comes with hacking."),
    "entropy": ("Entropy of the policy", "Near 0 all its answers are the same, and it no longer learns."),
    "logprob_gap": ("Log-probability of rewarded minus other tokens", "Above 0, likely answers are paid."),
    "tokens": ("Length of answers, tokens", "A sudden rise or fall is often what is being rewarded."),
    "clipped": ("Share of answers truncated at the token limit", "They are judged in their truncated form."),
    "spread": ("Spread of rewards within groups", "Standard deviation; at 0 there is nothing to learn from."),
    "audit_gap": ("Rise of the reward minus that of the audit score", "Above 0, it rises without the task."),
    "audit_preferred": ("Share of answers better than before training", "By the audit judge; ties half."),
    "disagreement": ("Disagreement of the judges", "Largest minus smallest reward, averaged over answers."),
    "grad_norm": ("Gradient norm", "Spikes indicate unstable training."),
    "step_seconds": ("Seconds per batch", "Generation, judging and update together."),
    "judge_failures": ("Answers without a reward", "Failed judgements; they never count as 0."),
}  # fmt: skip
"""Column of ``metrics.jsonl`` → its title and what to look for."""


class Line(TypedDict):
    """One line of a chart.

    Attributes:
        label: Its name in the legend.
        colour: Index of one of the page's colours.
        dots: Whether it is measured only now and then: drawn as points, and joined across batches without a
            value.
        y: Its values, one per batch of the chart's ``x``.
    """

    label: str
    colour: int
    dots: bool
    y: list[float | None]


Band = TypedDict("Band", {"from": float, "label": str})
"""A rubric version, and from where on it judges."""


class Chart(TypedDict):
    """Lines over one axis of batches.

    Attributes:
        x: Batches, ascending.
        lines: The lines.
        unit: Whether the axis shows the whole range [0, 1] of the values.
        bands: Rubric versions, drawn behind the lines.
        marks: Batches at which alarms were raised.
        zero: Whether a line is drawn at 0.
    """

    x: list[float]
    lines: list[Line]
    unit: bool
    bands: NotRequired[list[Band]]
    marks: NotRequired[list[int]]
    zero: NotRequired[bool]


def build_charts(data: RunData) -> dict[str, Chart]:
    """Every chart of a run by name; those without data are left out."""
    charts = {
        "reward": _chart_reward(data),
        "gap": _chart_gap(data),
        "spend": _chart_spend(data.metrics),
        "zero_spread": build_chart([line("share", measure_zero_spread(data))], unit=True),
        **{name: build_chart([line(title, select_column(data.metrics, name))])
           for name, (title, _) in HEALTH.items()},
        **{f"criterion-{name}": build_chart([line(name, track)], unit=True)
           for name, track in _measure_levels(data).items()},
    }  # fmt: skip
    return {name: chart for name, chart in charts.items() if chart}


def line(label: str, track: Track, colour: int = 0, dots: bool = False) -> tuple[Line, Track]:
    """A line whose values ``build_chart`` fills in, and its track."""
    return {"label": label, "colour": colour, "dots": dots, "y": []}, track


def build_chart(lines: Iterable[tuple[Line, Track]], unit: bool = False) -> Chart | None:
    """Puts lines on one axis of batches.

    Args:
        lines: As ``line`` makes them; those without any value are left out.
        unit: Whether the axis shows the whole range [0, 1] of the values.

    Returns:
        The chart; None without any value.
    """
    drawn = [pair for pair in lines if any(value is not None for value in pair[1].values())]
    if not drawn:
        return None
    x = sorted({batch for _, track in drawn for batch in track})
    filled: list[Line] = [{**empty, "y": [_round(track.get(batch)) for batch in x]} for empty, track in drawn]
    return {"x": x, "lines": filled, "unit": unit}


def measure_first_rubric(lineage: Sequence[Step]) -> Track:
    """What the policy's answers to fixed prompts earn under the first rubric, over time."""
    measured = {step.began: step.probes for step in lineage if step.probes}
    track: Track = {batch: rewards["now"] for batch, rewards in measured.items()}
    return {0: next(iter(measured.values()))["before"], **track} if measured else track


def select_column(rows: Sequence[Metrics | Gold], name: str) -> Track:
    """Batch → the value of a column, where it has one."""
    return {row.batch: value for row in rows if (value := getattr(row, name)) is not None}


def measure_zero_spread(data: RunData) -> Track:
    """Batch → share of its prompt groups that the judge gave equal rewards, so that nothing is learned."""
    shares: Track = {}
    verified = {row.batch for row in data.metrics if row.by_verifier}
    for batch, rollouts in data.rollouts_by_batch():
        if batch in verified:
            continue
        groups: defaultdict[str, list[float]] = defaultdict(list)
        for rollout in rollouts:
            if rollout.reward is not None:
                groups[rollout.prompt].append(rollout.reward)
        equal = [pstdev(rewards) == 0 for rewards in groups.values() if len(rewards) > 1]
        shares[batch] = fmean(equal) if equal else None
    return shares


def _chart_reward(data: RunData) -> Chart | None:
    """Reward, broken where the rubric changes, with the measures that stay the same."""
    rewards, bands = select_column(data.metrics, "judged_reward"), _find_bands(data)
    # Rewards by different rubrics are not comparable: no line joins them.
    rewards |= {band["from"]: None for band in bands[1:]}
    chart = build_chart(
        [
            line("reward, under the current rubric", rewards, 0),
            line("fixed prompts, under the first rubric", measure_first_rubric(data.lineage), 2, dots=True),
            line("gold", select_column(data.gold, "gold"), 1, dots=True),
        ],
        unit=True,
    )
    if chart:
        chart["bands"] = bands
        chart["marks"] = sorted({alarm.batch for alarm in data.alarms})
    return chart


def _chart_gap(data: RunData) -> Chart | None:
    """Reward minus gold where both were measured."""
    rewards = select_column(data.metrics, "judged_reward")
    gap: Track = {
        row.batch: reward - row.gold for row in data.gold if (reward := rewards.get(row.batch)) is not None
    }
    chart = build_chart([line("reward minus gold", gap, 3, dots=True)])
    if chart:
        chart["zero"] = True
        chart["bands"] = _find_bands(data)
    return chart


def _chart_spend(metrics: Sequence[Metrics]) -> Chart | None:
    """USD so far where all calls are priced, else calls so far."""
    if metrics and metrics[-1].usd:
        return build_chart([line("USD so far", select_column(metrics, "usd"), 0)])
    purposes = ("judge", "gate", "meta", *(("audit",) if metrics and metrics[-1].audit_calls else ()))
    return build_chart([line(f"{purpose} calls so far", select_column(metrics, f"{purpose}_calls"), colour)
                        for colour, purpose in enumerate(purposes)])  # fmt: skip


def _find_bands(data: RunData) -> list[Band]:
    """From where on each rubric version judges: between the batch it was published after and the next."""
    published = [(0, 0), *((step.batch, step.version) for step in data.accepted_steps)]
    return [{"from": batch + 0.5, "label": f"v{version}"} for batch, version in published]


def _measure_levels(data: RunData) -> Mapping[str, Track]:
    """Criterion → mean level per batch, from 0 (worst) to 1 (best)."""
    tracks: defaultdict[str, Track] = defaultdict(dict)
    for batch, rollouts in data.rollouts_by_batch():
        levels: defaultdict[str, list[float]] = defaultdict(list)
        for rollout in rollouts:
            best = data.best_levels[rollout.version]
            for name, assessment in rollout.verdict.assessments.items():
                if name in best:
                    levels[name].append(assessment.level / best[name])
        for name, values in levels.items():
            tracks[name][batch] = fmean(values)
    return tracks


def _round(value: Any) -> float | None:
    return round(float(value), 5) if value is not None and isfinite(value) else None
