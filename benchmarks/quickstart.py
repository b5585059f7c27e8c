"""Quickstart over seeds, with and without the meta step: gold at the start, at its lowest and at the end.

    python benchmarks/quickstart.py --seeds 0-9 --workers 2

Judge and meta-judge are simulated: the table shows the mechanism and says nothing about real judges. Between
the two arms nothing differs but ``--baseline iter0``. Results are kept in the output file: a stopped
benchmark goes on.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Student's t, 97.5%, for 1 to 30 degrees of freedom.
T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
ARMS = {"frozen": ["--baseline", "iter0"], "evolving": []}


def run(arm: str, seed: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        flags = [
            "--seed",
            str(seed),
            "--run-dir",
            f"{folder}/run",
            "--cache-dir",
            f"{folder}/cache",
            "--json",
        ]
        command = [sys.executable, "-m", "mpo_lite", "quickstart", *flags, *ARMS[arm]]
        environ = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)
    return {"arm": arm, "seed": seed, **json.loads(done.stdout.splitlines()[-1])}


def interval(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f}"
    half = T_975[min(len(values) - 1, 30) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.fmean(values):.3f} ± {half:.3f}"


def table(results: list[dict]) -> str:
    lines = ["| seed | frozen: start, min, end | evolving: start, min, end | holds |", "|---|---|---|---|"]
    by = {(row["arm"], row["seed"]): row["gold"] for row in results}
    seeds = sorted({row["seed"] for row in results})
    for seed in seeds:
        golds = [by.get((arm, seed)) for arm in ARMS]
        cells = [
            ", ".join(f"{gold[key]:.3f}" for key in ("start", "min", "end")) if gold else "" for gold in golds
        ]
        frozen, evolving = golds
        holds = (
            frozen
            and evolving
            and frozen["end"] < frozen["start"] / 2
            and evolving["end"] >= evolving["start"]
        )
        lines.append(f"| {seed} | {' | '.join(cells)} | {'yes' if holds else 'NO'} |")
    for key in ("start", "end"):
        means = [interval([by[arm, seed][key] for seed in seeds if (arm, seed) in by]) for arm in ARMS]
        lines.append(f"| mean of {key}, 95% interval | {' | '.join(means)} | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0-9", help="first-last, or a list such as 3,17,4242")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/quickstart.json"))
    options = parser.parse_args()
    first, dash, last = options.seeds.partition("-")
    seeds = range(int(first), int(last) + 1) if dash else [int(seed) for seed in options.seeds.split(",")]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(options.out.read_text()) if options.out.exists() else []
    known = {(row["arm"], row["seed"]) for row in results}
    jobs = [(arm, seed) for seed in seeds for arm in ARMS if (arm, seed) not in known]
    with ThreadPoolExecutor(options.workers) as pool:
        for row in pool.map(lambda job: run(*job), jobs):
            row.pop("run")
            results.append(row)
            options.out.write_text(json.dumps(results, indent=1))
            print(
                f"{row['arm']:9} seed {row['seed']:<6} gold {row['gold']} {row['seconds']:.0f} s", flush=True
            )
    print(table([row for row in results if row["seed"] in set(seeds)]))


if __name__ == "__main__":
    main()
