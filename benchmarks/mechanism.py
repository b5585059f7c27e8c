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
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import yaml
from mechanism_tables import (
    ARMS,
    LEVELS,
    PERSONA,
    PURPOSES,
    RATED,
    RATES,
    SPIKE,
    STEPS,
    WINDOW,
    audits,
    differences,
    draw,
    families,
    keyed,
    named,
    pace,
    place,
    table,
)

from mpo_lite.cli.quickstart import SETTINGS
from mpo_lite.config import Config
from mpo_lite.config_sources import load_config
from mpo_lite.jsonl import read_rows
from mpo_lite.rubric import dump_rubric
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.judge_server import running
from mpo_lite.sandbox.simulate import weaknesses
from mpo_lite.tasks.spec import load_task

FIRST = ("guarded", "paper")
"""What is run first, over all seeds: everything else is compared with it."""
SECONDS = 75.0
"""What a run takes, before any is measured."""


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


if __name__ == "__main__":
    main()
