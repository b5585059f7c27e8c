"""What each part of the method buys, in the sandbox: arms over seeds, judged by gold that none of them sees.

    python benchmarks/mechanism.py --seeds 0-9 --workers 2

Trains the sandbox policy by GRPO once per arm, rate of bad proposals and seed; about 70 s per run and core.
Results are kept in the output file: a stopped benchmark goes on. Policy, training, HTTP, prompts and
parsing are the real ones; judge and meta-judge are simulated, and docs/sandbox.md says how, and what these
figures can and cannot tell.
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

RATES = (0.0, 0.4)
PAPER = {"use_gate": False, "schedule": "interval", "strategy": "samples"}
ARMS: dict[str, dict[str, Any]] = {
    "iter0": {"baseline": "iter0"},
    "sentence": {},
    "autoprompt": {"baseline": "autoprompt"},
    "expert": {"baseline": "expert"},
    "paper": PAPER,
    "guarded": {},
    "no gate": {"use_gate": False},
    "oracle": {"baseline": "oracle"},
}
"""Arm → settings. ``base`` needs no run: it is gold before training."""
RATED = ("paper", "guarded", "no gate")
PERSONA = "You are a careful judge."
LEVELS = ["Not at all.", "Hardly.", "In part.", "Mostly.", "Fully."]
STEPS = 60
WINDOW = 3
SPIKE = 1.0
"""KL per token beyond which a batch counts as a spike."""


def jobs(seeds: list[int]) -> list[tuple[str, float, int]]:
    return [
        (arm, rate, seed) for seed in seeds for arm in ARMS for rate in (RATES if arm in RATED else RATES[:1])
    ]


def run(arm: str, rate: float, seed: int, oracle: str | None) -> dict[str, Any]:
    from mpo_lite.cli._run_job import run_job

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, running(seed=seed, bad_rate=rate) as url:
        given = SETTINGS | ARMS[arm] | {"seed": seed, "steps": STEPS}
        given |= {"judge": "openai/sandbox-judge", "judge_api_base": url}
        given |= {"meta": "openai/sandbox-meta", "meta_api_base": url}
        given |= {"run_dir": Path(folder, "run"), "cache_dir": Path(folder, "cache")}
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
            "calls": {purpose: summary[f"{purpose}_calls"] for purpose in ("judge", "gate", "meta")},
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
    kl = [row["kl"] for row in read_rows(run.metrics) if row.get("kl") is not None]
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
            len([one for one in row.get("refused", []) if one["status"] == "refused"]) for row in lineage
        ),
        "rollbacks": sum(row["kind"] == "rollback" for row in lineage),
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


def interval(values: list[float], signed: bool = False) -> str:
    mean = f"{statistics.fmean(values):{'+' if signed else ''}.3f}"
    if len(values) < 2:
        return mean
    half = T_975[min(len(values) - 1, 30) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean} ± {half:.3f}"


def keyed(results: list[dict]) -> dict[tuple[str, float], dict[int, dict]]:
    found: dict[tuple[str, float], dict[int, dict]] = {}
    for row in results:
        found.setdefault((row["arm"], row["bad_rate"]), {})[row["seed"]] = row
    return found


def named(arm: str, rate: float) -> str:
    return f"{arm}, {rate:.0%} bad" if arm in RATED else arm


def table(results: list[dict]) -> str:
    lines = [
        "| arm | gold at the end | sd over seeds | worst window | highest KL | KL spikes | words by hand "
        "| judge + gate + meta calls |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines.append(f"| base | {results[0]['start']:.3f} | | | | | {by_hand('base')} | 0 |")
    for (arm, rate), runs in keyed(results).items():
        rows = list(runs.values())
        ends = [row["end"] for row in rows]
        calls = [round(statistics.fmean(row["calls"][kind] for row in rows)) for kind in rows[0]["calls"]]
        lines.append(
            f"| {named(arm, rate)} | {interval(ends)} | {statistics.stdev(ends) if len(ends) > 1 else 0:.3f} "
            f"| {interval([row['worst'] for row in rows])} | {interval([row['kl_max'] for row in rows])} "
            f"| {statistics.fmean(row['kl_spikes'] for row in rows):.1f} | {by_hand(arm)} "
            f"| {' + '.join(map(str, calls))} |"
        )
    return "\n".join(lines)


def differences(results: list[dict]) -> str:
    by = keyed(results)
    lines = ["| guarded minus | gold at the end | worst window |", "|---|---|---|"]
    for rate in RATES:
        others = [("iter0", 0.0), ("expert", 0.0), ("autoprompt", 0.0), ("oracle", 0.0)]
        for other in [*others, ("paper", rate), ("no gate", rate)]:
            pairs = [
                (by["guarded", rate][seed], row)
                for seed, row in by.get(other, {}).items()
                if seed in by.get(("guarded", rate), {})
            ]
            if pairs:
                cells = [
                    interval([one[key] - row[key] for one, row in pairs], signed=True)
                    for key in ("end", "worst")
                ]
                lines.append(f"| {named(*other)} (guarded at {rate:.0%} bad) | {' | '.join(cells)} |")
    return "\n".join(lines)


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

    figure, plots = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained", sharey=True)
    for plot, rate in zip(plots, RATES, strict=True):
        for arm, at in [*((arm, 0.0) for arm in ARMS if arm not in RATED), *((arm, rate) for arm in RATED)]:
            runs = list(keyed(results).get((arm, at), {}).values())
            if runs:
                batches = [batch for batch, _ in runs[0]["gold"]]
                means = [
                    statistics.fmean(row["gold"][place][1] for row in runs) for place in range(len(batches))
                ]
                width = 2.2 if arm in RATED else 1.0
                plot.plot(batches, means, label=arm, linewidth=width, linestyle="-" if arm in RATED else "--")
        plot.set_title(f"{rate:.0%} of the merged rubrics are bad", fontsize=10)
        plot.set_xlabel("generation batch")
    plots[0].set_ylabel("gold on 72 held-out prompts, mean over seeds")
    plots[1].legend(fontsize=8)
    figure.suptitle("Sandbox: simulated judge and meta-judge, no evidence about real ones", fontsize=10)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0-9", help="first-last, or a list such as 3,17,4242")
    parser.add_argument("--arms", help="only these, comma-separated")
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
    known = {(row["arm"], row["bad_rate"], row["seed"]) for row in results}
    wanted = options.arms.split(",") if options.arms else list(ARMS)
    todo = [job for job in jobs(seeds) if job not in known and job[0] in wanted]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context) as pool:
        # An oracle needs the rubric that the guarded run of its seed ended with.
        for phase in (False, True):
            last = {seed: row["rubric"] for seed, row in keyed(results).get(("guarded", 0.0), {}).items()}
            futures = [
                pool.submit(run, *job, last[job[2]] if phase else None)
                for job in todo
                if (job[0] == "oracle") == phase
            ]
            for future in as_completed(futures):
                row = future.result()
                results.append(row)
                options.out.write_text(json.dumps(sorted(results, key=place), indent=1))
                print(
                    f"{named(row['arm'], row['bad_rate']):20} seed {row['seed']:<4} gold {row['start']:.3f} "
                    f"→ {row['end']:.3f}, worst {row['worst']:.3f}, {row['seconds']:.0f} s",
                    flush=True,
                )
    shown = sorted([row for row in results if row["seed"] in seeds], key=place)
    print("\n\n".join([table(shown), differences(shown), families(shown)]))
    draw(shown, options.figure)


def place(row: dict) -> tuple[int, float, int]:
    return list(ARMS).index(row["arm"]), row["bad_rate"], row["seed"]


if __name__ == "__main__":
    main()
