"""Training killed at random moments and resumed: the same weights, rubrics and rewards, nothing paid twice?

    python benchmarks/kills.py --kills 5             # about 20 minutes on two cores

Each algorithm, with two passes over each batch in two steps each, and GRPO in two processes. A run is trained
to its end; its twins are killed (SIGKILL, all processes) at a random moment and resumed, and compared
with it. The judge is a local server that judges nothing but counts what it is asked; the meta-judge is the
sandbox's.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from harness import MODEL, Stub, stub

from mpo_lite.jsonl import read_rows
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.judge_server import running

STEPS = 8
LATENCY = 0.1
SETTINGS = {
    "steps": STEPS,
    "interval": 2,
    "meta_samples": 3,
    "batch_prompts": 4,
    "group_size": 4,
    "num_iterations": 2,
    "max_new_tokens": 32,
    "learning_rate": 1e-3,
    "save_every": 2,
    "eval_every": 4,
    "use_gate": False,
    "schedule": "interval",
    "trl.gradient_accumulation_steps": 1,
    "trl.steps_per_generation": 2,
}
CASES = (("grpo", 1), ("rloo", 1), ("ppo", 1), ("grpo", 2))


def start(processes: int, *arguments: str) -> subprocess.Popen:
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)] if processes > 1 else []
    environ = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *launch, "-m", "mpo_lite", *arguments]
    return subprocess.Popen(
        command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(errors[-2000:])


def kill(process: subprocess.Popen) -> None:
    told = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    for number in [*map(int, told.stdout.split()), process.pid]:
        os.kill(number, signal.SIGKILL)
    process.communicate()


def outcome(run: RunDir) -> dict[str, object]:
    """What must be the same, by name."""
    adapter = max(run.checkpoints.glob("checkpoint-*/adapter_model.safetensors"), key=os.path.getmtime)
    rubrics = {row["version"]: run.version(row["version"]) for row in read_rows(run.lineage)}
    return {
        "weights": hashlib.sha256(adapter.read_bytes()).hexdigest(),
        "rubrics": rubrics,
        "rewards": [(row["id"], row["text"], row["reward"]) for row in read_rows(run.rollouts)],
    }


def committed(cache: Path) -> int:
    with closing(sqlite3.connect(cache / "answers" / "cache.db")) as database:
        return database.execute("SELECT COUNT(*) FROM Cache").fetchone()[0]


def meta_answers(run: RunDir) -> int:
    calls = [row for path in run.ledgers().values() for row in read_rows(path)]
    return sum(row["purpose"] == "meta" and row["outcome"] == "ok" for row in calls)


def case(algorithm: str, processes: int, kills: int, server: Stub, meta: str, draw: random.Random) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        settings = SETTINGS | {"algorithm": algorithm, "micro_batch": 8 // processes}

        def begin(name: str) -> tuple[subprocess.Popen, RunDir, Path]:
            server.set(latency=LATENCY)
            run, cache = RunDir(Path(folder, name)), Path(folder, f"{name}-cache")
            flags = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
            models = ["--judge", MODEL, "--judge-api-base", server.url, "--meta", "openai/sandbox-meta"]
            places = ["--run-dir", str(run.path), "--cache-dir", str(cache), "--meta-api-base", meta]
            sandbox = ["--task", "sandbox", "--policy", "sandbox"]
            return start(processes, "train", *sandbox, *models, *places, *flags), run, cache

        whole, run, _ = begin("whole")
        finish(whole)
        expected = outcome(run)
        batch_seconds = statistics.median(row["step_seconds"] for row in read_rows(run.metrics)) * 4
        rows = []
        for number in range(kills):
            killed, run, cache = begin(f"killed{number}")
            batches = draw.randrange(1, STEPS)
            while len(read_rows(run.metrics)) < batches:
                time.sleep(0.02)
            time.sleep(draw.uniform(0, batch_seconds))
            kill(killed)
            asked, kept = server.stats()["requests"] - 1, committed(cache) - meta_answers(run)
            batch = len(read_rows(run.metrics))
            finish(start(processes, "resume", str(run.path)))
            stats = server.stats()
            told = outcome(run)
            same = {name: told[name] == value for name, value in expected.items()}
            again = stats["requests"] - len(stats["items"]) - 1  # the call that sees whether it is there
            rows.append({"batch": batch, "again": again, "in_flight": max(0, asked - kept), **same})
        return {"algorithm": algorithm, "processes": processes, "kills": rows}


def table(results: list[dict]) -> str:
    lines = [
        "| algorithm | processes | killed in batch | same weights | same rubrics | same rewards "
        "| asked again (not yet kept at the kill) |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in results:
        kills, names = one["kills"], ("weights", "rubrics", "rewards")
        cells = [
            one["algorithm"],
            one["processes"],
            ", ".join(str(row["batch"] + 1) for row in kills),
            *(f"{sum(row[name] for row in kills)}/{len(kills)}" for name in names),
            ", ".join("{again} ({in_flight})".format(**row) for row in kills),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/kills.json"))
    options = parser.parse_args()
    draw = random.Random(options.seed)
    results = []
    with stub() as server, running(seed=0) as meta:
        for algorithm, processes in CASES:
            results.append(case(algorithm, processes, options.kills, server, meta, draw))
            print(table(results[-1:]).splitlines()[-1], flush=True)
    print(table(results))
    options.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
