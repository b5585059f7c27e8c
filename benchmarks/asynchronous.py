"""What a slow judge costs a step, in turn and asynchronously, on the sandbox policy.

    python benchmarks/asynchronous.py --vllm http://127.0.0.1:8000     # served as docs/training.md says

A stub judges nothing, after a set time. With ``--trainer sync`` transformers generates in the trainer's
process; with ``--trainer async`` a vLLM server generates, here on the same processor. So what compares is a
trainer with itself, at another latency; the rows of one run are interleaved. Prints a table and writes JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import HERE, stub

from mpo_lite.jsonl import read_rows
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.data import policy_dir

SKIPPED = 3
"""Steps at the beginning that are not counted: there the worker has no answers yet."""


def measure(trainer: str, latency: float, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Trains once; the median of its steps in seconds."""
    with stub() as server, tempfile.TemporaryDirectory() as folder:
        server.set(latency=latency)
        run = RunDir(Path(folder) / "run")
        settings = {
            "judge": "openai/m", "judge-api-base": server.url, "baseline": "iter0", "task": "sandbox",
            "policy": str(policy_dir()), "trainer": trainer, "steps": options.steps, "group-size": 8,
            "batch-prompts": 4, "micro-batch": 8, "max-new-tokens": 48, "save-every": 1000,
            "eval-every": 1000, "run-dir": run.path, "cache-dir": f"{folder}/cache", "seed": seed,
        }  # fmt: skip
        if trainer == "async":
            settings["vllm-server-base-url"] = options.vllm
        flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        done = subprocess.run(
            [sys.executable, "-m", "mpo_lite", "train", *flags],
            capture_output=True,
            text=True,
            env=os.environ | {"OPENAI_API_KEY": "none", "OMP_NUM_THREADS": "1"},
        )
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        rows = [row for row in read_rows(run.metrics) if row.get("step_seconds") is not None][SKIPPED:]
    return {
        "trainer": trainer,
        "latency": latency,
        "seed": seed,
        "steps": len(rows),
        "step_seconds": round(statistics.median(row["step_seconds"] for row in rows), 3),
        "staleness": max((row.get("staleness") or 0 for row in rows), default=0),
        "dropped": sum(row.get("dropped") or 0 for row in rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--vllm", required=True, help="address of the vLLM server")
    parser.add_argument("--latencies", default="0,1", help="seconds that the judge takes")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "asynchronous.json")
    options = parser.parse_args()
    latencies = [float(each) for each in options.latencies.split(",")]
    rows: list[dict[str, Any]] = []
    for seed in range(options.rounds):
        for trainer in ("sync", "async"):
            for latency in latencies:
                rows.append(measure(trainer, latency, seed, options))
                print(rows[-1], file=sys.stderr)
    options.out.write_text(json.dumps(rows, indent=1) + "\n")
    print("| trainer | judge takes | step, median | to the first latency | staleness | dropped |")
    print("|---|---|---|---|---|---|")
    for trainer in ("sync", "async"):
        medians = {
            latency: statistics.mean(
                row["step_seconds"] for row in rows if (row["trainer"], row["latency"]) == (trainer, latency)
            )
            for latency in latencies
        }
        for latency, seconds in medians.items():
            own = [row for row in rows if (row["trainer"], row["latency"]) == (trainer, latency)]
            print(
                f"| {trainer} | {latency:g} s | {seconds:.2f} s | {seconds - medians[latencies[0]]:+.2f} s "
                f"| {max(row['staleness'] for row in own):g} | {sum(row['dropped'] for row in own):g} |"
            )


if __name__ == "__main__":
    main()
