"""What each part of the method buys, in the sandbox: arms over seeds, judged by gold that none of them sees.

    python benchmarks/mechanism.py --seeds 20-29 --workers 2

Trains the sandbox policy by GRPO once per arm, rate of bad proposals and seed; about 75 s per run and core.
Results are kept in the output file: a stopped benchmark resumes. Policy, training, HTTP, prompts and
parsing are the real ones; judge and meta-judge are simulated, and docs/sandbox.md says how, and what these
figures can and cannot tell.

The arm "guarded, gate before" is guarded in an older library, the parent of the commit in which the gate
began to try shortcuts. This script measures it there and keeps the rows in the same file; not at the same
time as other runs, because each writes the whole file:

    git worktree add ../before 2217fa1~1
    PYTHONPATH=../before python benchmarks/mechanism.py --seeds 20-29 --arms guarded \
        --label "guarded, gate before"
"""

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import yaml
from quickstart import T_975

from mpo_lite.cli.quickstart import SETTINGS
from mpo_lite.config import Config
from mpo_lite.config_sources import load_config
from mpo_lite.jsonl import read_rows
from mpo_lite.rubric import dump_rubric
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.judge_server import running
from mpo_lite.sandbox.simulate import weaknesses
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
FIRST = ("guarded", "paper")
"""What is run first, over all seeds: everything else is compared with it."""
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
SECONDS = 75.0
"""What a run takes, before any is measured."""
SPIKE = 1.0
"""KL per token beyond which a batch counts as a spike."""


def jobs(arms: list[str], seeds: list[int]) -> list[tuple[str, float, int]]:
    rates = {arm: RATES if arm in RATED else RATES[:1] for arm in arms}
    every = [(arm, rate, seed) for seed in seeds for arm in arms for rate in rates[arm]]
    return sorted(every, key=lambda job: job[0] not in FIRST)


def run(arm: str, rate: float, seed: int, steps: int, oracle: str | None) -> dict[str, Any]:
    from mpo_lite.cli._run_job import run_job

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, running(seed=seed, bad_rate=rate) as url:
        given = SETTINGS | ARMS[arm] | {"seed": seed, "steps": steps}
        given |= {"judge": "openai/sandbox-judge", "judge_api_base": url}
        given |= {"meta": "openai/sandbox-meta", "meta_api_base": url}
        given |= {"run_dir": Path(folder, "run"), "cache_dir": Path(folder, "cache")}
        if "audit_share" in given:
            given["audit_judge"] = {"model": "openai/sandbox-audit", "api_base": url}
        if arm == "sentence":
            given["task"] = str(from_sentence(Path(folder)))
        if oracle:
            given["rubric"] = Path(folder, "oracle.yaml")
            given["rubric"].write_text(oracle)
        config: Config = load_config(given=given, environ={})
        with (
            open(os.devnull, "w") as nothing,
            contextlib.redirect_stdout(nothing),
            contextlib.redirect_stderr(nothing),
        ):
            summary = run_job(config, as_json=True)
        return {
            "arm": arm,
            "bad_rate": rate,
            "seed": seed,
            "families": list(weaknesses(seed)),
            **figures(RunDir(config.run_dir)),
            "calls": {purpose: summary.get(f"{purpose}_calls", 0) for purpose in PURPOSES},
            "seconds": round(time.monotonic() - started, 1),
        }


def from_sentence(folder: Path) -> Path:
    """A task of which one sentence is written by hand: the purpose, which is the first rubric too."""
    task = load_task("sandbox")
    own = task.model_dump(mode="json") | {"persona": PERSONA}
    folder = folder / "task"
    folder.mkdir()
    (folder / "task.yaml").write_text(yaml.safe_dump(own))
    (folder / "policy.md").write_text("=== user\n$prompt\n")
    criterion = {"id": "quality", "description": task.purpose, "levels": LEVELS}
    (folder / "rubric.yaml").write_text(yaml.safe_dump({"criteria": [criterion]}))
    return folder


def figures(run: RunDir) -> dict[str, Any]:
    gold = [(row["batch"], row["gold"]) for row in read_rows(run.gold)]
    values = [value for _, value in gold]
    windows = [statistics.fmean(values[n : n + WINDOW]) for n in range(len(values) - WINDOW + 1)]
    metrics = read_rows(run.metrics)
    kl = [row["kl"] for row in metrics if row.get("kl") is not None]
    lineage = read_rows(run.lineage)
    return {
        "gold": gold,
        "start": values[0],
        "end": windows[-1],
        "worst": min(windows),
        "kl_max": max(kl),
        "kl_spikes": sum(value > SPIKE for value in kl),
        "steps": len(lineage),
        "refused": sum(
            attempt["status"] == "refused" for row in lineage for attempt in row.get("refused", [])
        ),
        "rollbacks": sum(row["kind"] == "rollback" for row in lineage),
        "audit": [
            (row["batch"], row["audit_gap"], row["audit_low"])
            for row in metrics
            if row.get("audit_gap") is not None
        ],
        "rubric": dump_rubric(run.latest().rubric),
    }


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="20-29", help="first-last, or a list such as 3,17,4242")
    parser.add_argument("--arms", default=",".join(ARMS), help="only these, separated by ','")
    parser.add_argument("--label", help="keep the rows of a single arm under this name")
    parser.add_argument("--steps", type=int, default=STEPS, help="generation batches; fewer to try it")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/mechanism.json"))
    parser.add_argument("--figure", type=Path, default=Path("docs/mechanism.png"))
    options = parser.parse_args()
    first, dash, last = options.seeds.partition("-")
    seeds = list(
        range(int(first), int(last) + 1) if dash else [int(seed) for seed in options.seeds.split(",")]
    )
    os.environ["OMP_NUM_THREADS"] = "1"
    results: list[dict] = json.loads(options.out.read_text()) if options.out.exists() else []
    measure(options, seeds, results)
    shown = sorted([row for row in results if row["seed"] in seeds], key=place)
    print("\n\n".join(make(shown) for make in (table, differences, pace, audits, families)))
    draw(shown, options.figure)


def measure(options: argparse.Namespace, seeds: list[int], results: list[dict]) -> None:
    """Runs what the results lack, and adds it to them and to their file as it finishes."""
    arms = [arm for arm in ARMS if arm in options.arms.split(",")]
    if options.label and len(arms) != 1:
        raise SystemExit("--label names the rows of a single arm: give it with --arms")
    done = {(row["arm"], row["bad_rate"], row["seed"]) for row in results}
    todo = [job for job in jobs(arms, seeds) if (options.label or job[0], *job[1:]) not in done]
    seconds = statistics.fmean([row["seconds"] for row in results] or [SECONDS])
    hours = len(todo) * seconds / options.workers / 3600
    print(
        f"{len(todo)} runs, {hours:.1f} h with {options.workers} workers at {seconds:.0f} s each", flush=True
    )
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context) as pool:
        # An oracle needs the rubric that the guarded run of its seed ended with.
        for phase in (False, True):
            last = {seed: row["rubric"] for seed, row in keyed(results).get(("guarded", 0.0), {}).items()}
            futures = [
                pool.submit(run, *job, options.steps, last[job[2]] if phase else None)
                for job in todo
                if (job[0] == "oracle") == phase
            ]
            for future in as_completed(futures):
                row = future.result()
                row["arm"] = options.label or row["arm"]
                results.append(row)
                options.out.write_text(json.dumps(sorted(results, key=place), indent=1))
                print(
                    f"{named(row['arm'], row['bad_rate']):30} seed {row['seed']:<4} gold {row['start']:.3f} "
                    f"→ {row['end']:.3f}, worst {row['worst']:.3f}, {row['seconds']:.0f} s",
                    flush=True,
                )


def place(row: dict) -> tuple[int, str, float, int]:
    order = [*ARMS, row["arm"]].index(row["arm"])
    return order, row["arm"], row["bad_rate"], row["seed"]


if __name__ == "__main__":
    main()
