"""The arms of ``mechanism.py``, and its tables and picture."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quickstart import T_975

from mpo_lite.tasks.spec import load_task

RATES = (0.0, 0.4, 0.6)
PAPER = {"use_gate": False, "schedule": "interval", "strategy": "samples"}
ARMS: dict[str, dict[str, Any]] = {
    "iter0": {"baseline": "iter0"},
    "sentence": {},
    "autoprompt": {"baseline": "autoprompt"},
    "expert": {"baseline": "expert"},
    "paper": PAPER,
    "guarded": {},
    "no gate": {"use_gate": False},
    "contrast": {"criterion_weights": "contrast"},
    "normalize": {"aggregate": "normalize"},
    "audited": {"audit_share": 0.03},
    "iter0 audited": {"baseline": "iter0", "audit_share": 0.03},
    "oracle": {"baseline": "oracle"},
}
"""Arm → settings. ``base`` needs no run: it is gold before training. A share to audit brings an auditor."""
RATED = ("paper", "guarded", "no gate")
BEFORE = "guarded, gate before"
FROZEN = tuple(arm for arm, settings in ARMS.items() if "baseline" in settings)
PERSONA = "You are a careful judge."
LEVELS = ["Not at all.", "Hardly.", "In part.", "Mostly.", "Fully."]
PURPOSES = ("judge", "gate", "meta", "audit")
STEPS = 60
WINDOW = 3
CLOSE = 0.02
"""How near to another run's gold counts as reaching it: less is noise."""
NEVER = STEPS + 5
"""Batches counted for a run that does not get there: those until the next evaluation would be."""
FALL = 0.1
"""Gold has fallen where it is this far below its start."""
GAP = 0.1
"""Lower end of the audit gap's interval beyond which a run raises an alarm."""
SPIKE = 1.0
"""KL per token beyond which a batch counts as a spike."""


def by_hand(arm: str) -> int:
    """Words that a person wrote for an arm, apart from the policy's prompts."""
    task = load_task("sandbox")
    texts = {
        "base": [],
        "sentence": [task.purpose],
        "iter0": [task.persona, task.rubric.render()],
        "expert": [task.persona, task.expert_rubric.render()],
    }.get(arm, [task.persona, task.purpose, task.rubric.render()])
    return sum(len(text.split()) for text in texts)


def interval(values: Sequence[float], signed: bool = False, digits: int = 3) -> str:
    mean = f"{statistics.fmean(values):{'+' if signed else ''}.{digits}f}"
    if len(values) < 2:
        return mean
    half = T_975[min(len(values) - 1, 30) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean} ± {half:.{digits}f}"


def keyed(results: list[dict]) -> dict[tuple[str, float], dict[int, dict]]:
    runs: dict[tuple[str, float], dict[int, dict]] = {}
    for row in results:
        runs.setdefault((row["arm"], row["bad_rate"]), {})[row["seed"]] = row
    return runs


def is_rated(arm: str) -> bool:
    return arm in RATED or arm not in ARMS


def named(arm: str, rate: float) -> str:
    return f"{arm}, {rate:.0%} bad" if is_rated(arm) else arm


def table(results: list[dict]) -> str:
    lines = [
        "| arm | gold at the end | sd over seeds | worst window | highest KL | KL spikes | words by hand "
        f"| {' + '.join(PURPOSES)} calls |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines.append(f"| base | {results[0]['start']:.3f} | | | | | {by_hand('base')} | 0 |")
    for (arm, rate), runs in keyed(results).items():
        rows = list(runs.values())
        ends = [row["end"] for row in rows]
        calls = [round(statistics.fmean(row["calls"][purpose] for row in rows)) for purpose in PURPOSES]
        lines.append(
            f"| {named(arm, rate)} | {interval(ends)} | {statistics.stdev(ends) if len(ends) > 1 else 0:.3f} "
            f"| {interval([row['worst'] for row in rows])} | {interval([row['kl_max'] for row in rows])} "
            f"| {statistics.fmean(row['kl_spikes'] for row in rows):.1f} | {by_hand(arm)} "
            f"| {' + '.join(map(str, calls))} |"
        )
    return "\n".join(lines)


def differences(results: list[dict]) -> str:
    """What guarded has over each other arm, paired by seed."""
    by = keyed(results)
    lines = ["| guarded minus | gold at the end | worst window |", "|---|---|---|"]
    for rate in RATES:
        for other, at in compared(by, rate):
            pairs = paired(by, rate, (other, at))
            if other != "guarded" and pairs:
                cells = [
                    interval([ours[key] - row[key] for ours, row in pairs], signed=True)
                    for key in ("end", "worst")
                ]
                lines.append(f"| {named(other, at)} (guarded at {rate:.0%} bad) | {' | '.join(cells)} |")
    return "\n".join(lines)


def pace(results: list[dict]) -> str:
    """Batches until gold is what guarded, or guarded as it was before, ends with on the same seed."""
    by = keyed(results)
    lines = [
        "| arm | reaches what guarded ends with | in batches | guarded minus it "
        "| reaches what the gate before ends with | in batches | guarded minus it |",
        "|---|---|---|---|---|---|---|",
    ]
    for rate in RATES:
        for arm, at in compared(by, rate):
            cells = []
            for target in ("guarded", BEFORE):
                goals = {seed: row["end"] - CLOSE for seed, row in by.get((target, rate), {}).items()}
                needed = [
                    (batches_to(ours, goal), batches_to(row, goal))
                    for ours, row in paired(by, rate, (arm, at))
                    if (goal := goals.get(row["seed"])) is not None
                ]
                cells += reaching(needed) if needed else ["", "", ""]
            if any(cells):
                lines.append(f"| {named(arm, at)} (guarded at {rate:.0%} bad) | {' | '.join(cells)} |")
    return "\n".join(lines)


def batches_to(row: dict[str, Any], goal: float) -> int | None:
    """Batches after which a window of evaluations has this mean."""
    for last in range(WINDOW - 1, len(row["gold"])):
        if statistics.fmean(value for _, value in row["gold"][last - WINDOW + 1 : last + 1]) >= goal:
            return row["gold"][last][0]
    return None


def reaching(needed: list[tuple[int | None, int | None]]) -> list[str]:
    """How many runs get there, in how many batches, and guarded's minus theirs; never counts ``NEVER``."""
    theirs = [batches or NEVER for _, batches in needed]
    gaps = [(ours or NEVER) - batches for (ours, _), batches in zip(needed, theirs, strict=True)]
    reached = share([batches is not None for _, batches in needed])
    return [reached, interval(theirs, digits=1), interval(gaps, signed=True, digits=1)]


def paired(
    by: dict[tuple[str, float], dict[int, dict]], rate: float, other: tuple[str, float]
) -> list[tuple[dict, dict]]:
    """The runs of guarded at a rate, each with the other arm's of the same seed."""
    guarded = by.get(("guarded", rate), {})
    return [(guarded[seed], row) for seed, row in by[other].items() if seed in guarded]


def compared(by: dict[tuple[str, float], dict[int, dict]], rate: float) -> list[tuple[str, float]]:
    """The arms to show beside guarded at a rate: those at the rate, and frozen rubrics, which have none."""
    return [(arm, at) for arm, at in by if at == rate or arm in FROZEN]


def audits(results: list[dict]) -> str:
    """How often the gap is an alarm, over the evaluations where gold has fallen and where it has not."""
    lines = [
        "| arm | gap at the end | evaluations with an alarm, where gold has fallen "
        "| where gold is not below its start | first alarm at batch |",
        "|---|---|---|---|---|",
    ]
    for (arm, rate), runs in keyed(results).items():
        rows = [row for row in runs.values() if row["audit"]]
        if not rows:
            continue
        alarms = [
            (gold - row["start"], gaps[batch] > GAP)
            for row in rows
            for gaps in [{batch: low for batch, _, low in row["audit"]}]
            for batch, gold in row["gold"]
            if batch in gaps
        ]
        first = [next((batch for batch, _, low in row["audit"] if low > GAP), None) for row in rows]
        lines.append(
            f"| {named(arm, rate)} | {interval([row['audit'][-1][1] for row in rows], signed=True)} "
            f"| {share([alarm for rise, alarm in alarms if rise <= -FALL])} "
            f"| {share([alarm for rise, alarm in alarms if rise >= 0])} "
            f"| {', '.join('never' if batch is None else str(batch) for batch in first)} |"
        )
    return "\n".join(lines)


def share(values: list[bool]) -> str:
    return f"{sum(values)} of {len(values)}"


def families(results: list[dict]) -> str:
    by = keyed(results)
    names = sorted({family for row in results for family in row["families"]})
    seeds = {name: [row["seed"] for row in results if name in row["families"]] for name in names}
    head = [f"{name} ({len(set(seeds[name]))} seeds)" for name in names]
    lines = [f"| gold at the end | {' | '.join(head)} |", f"|---|{'---|' * len(names)}"]
    for (arm, rate), runs in by.items():
        cells = []
        for name in names:
            ends = [row["end"] for row in runs.values() if name in row["families"]]
            cells.append(f"{statistics.fmean(ends):.3f}" if ends else "")
        lines.append(f"| {named(arm, rate)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(results: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    by = keyed(results)
    colours = {arm: f"C{place}" for place, arm in enumerate(dict.fromkeys(arm for arm, _ in by))}
    figure, plots = pyplot.subplots(1, 3, figsize=(15, 4.6), layout="constrained", sharey=True)
    for plot, rate in zip(plots, RATES, strict=True):
        for arm, at in compared(by, rate):
            runs = list(by[arm, at].values())
            batches = [batch for batch, _ in runs[0]["gold"]]
            means = [statistics.fmean(row["gold"][place][1] for row in runs) for place in range(len(batches))]
            width, style = (2.2, "-") if is_rated(arm) else (1.0, "--")
            plot.plot(batches, means, label=arm, linewidth=width, linestyle=style, color=colours[arm])
        plot.set_title(f"{rate:.0%} of the merged rubrics are bad", fontsize=10)
        plot.set_xlabel("generation batch")
    plots[0].set_ylabel("gold on 72 held-out prompts, mean over seeds")
    plots[0].legend(fontsize=8)
    figure.suptitle("Sandbox: simulated judge and meta-judge, no evidence about real ones", fontsize=10)
    figure.savefig(path, dpi=130)


def place(row: dict) -> tuple[int, str, float, int]:
    order = [*ARMS, row["arm"]].index(row["arm"])
    return order, row["arm"], row["bad_rate"], row["seed"]
