"""Whether learning keeps its pace where only the rubric changes, here by criteria that are saturated.

    python benchmarks/pace.py --seeds 0-2      # about 13 minutes on one core

Trains the sandbox policy under a sound rubric. After five batches the arms *saturated* go over to the same
rubric with criteria that nearly every answer meets: the same answers earn more and differ less. *unscaled*
is without what RLOO and PPO have against it, the scale of a rubric version and the shift of PPO's value
head. The judge is simulated, and the step that publishes the rubric is a stub: it has the initial policy's
answers judged by both rubrics, as the gate would. Prints a table, writes JSON.
"""

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from mechanism import interval

import mpo_lite.loop.schedule as schedule
from mpo_lite.cli.quickstart import SETTINGS
from mpo_lite.config_sources import load_config
from mpo_lite.jsonl import JsonRow, read_rows
from mpo_lite.loop.meta_step import RunSnapshot, _row
from mpo_lite.loop.session import Session
from mpo_lite.meta.gate import GateResult
from mpo_lite.meta.step import Attempt, StepOutcome
from mpo_lite.rubric import Criterion, Rubric, dump_rubric
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.judge_server import running
from mpo_lite.sandbox.library import LIBRARY
from mpo_lite.tasks.spec import load_task

STEPS, CHANGE = 20, 5
LAST = 10
"""Batches at the end over which KL is averaged; gold is the mean of the last three evaluations."""
ARMS = ("plain", "saturated", "saturated, unscaled")
ALGORITHMS: dict[str, dict[str, Any]] = {"grpo": {}, "rloo": {}, "ppo": {"num_iterations": 2}}
SOUND = Rubric(
    criteria=tuple(one for one in load_task("sandbox").expert_rubric.criteria if one.id != "style")
)
SATURATED = Rubric(
    criteria=(
        *SOUND.criteria,
        *(
            Criterion(id=name, description=description, levels=levels, weight=5)
            for name, description, levels, _ in map(LIBRARY.__getitem__, ("marks", "praise", "insistence"))
        ),
    )
)


def publish(rubric: Rubric) -> Any:
    """A meta step that has this rubric accepted once."""

    async def step(session: Session, snapshot: RunSnapshot) -> JsonRow:
        old = snapshot.version.rubric
        for each in (old, rubric):
            await session.gate_judge.verdicts(session.state.anchor, each, snapshot.batch)
        status = "unchanged" if rubric.set_hash == old.set_hash else "accepted"
        outcome = StepOutcome((Attempt(status, rubric if status == "accepted" else None),))
        return _row(session, snapshot, outcome, {}, GateResult()) | {"frozen": {}, "probes": {}}

    return step


@contextlib.contextmanager
def unscaled(off: bool) -> Any:
    """Takes the remedies away."""
    from mpo_lite.training.ppo import PPO

    scale, first = schedule.version_scale, PPO._is_first_of_version
    if off:
        schedule.version_scale = lambda *_: 1.0
        PPO._is_first_of_version = property(lambda self: self.mpo.session.state.batch == 1)
    try:
        yield
    finally:
        schedule.version_scale, PPO._is_first_of_version = scale, first


def run(algorithm: str, arm: str, seed: int) -> dict[str, Any]:
    from mpo_lite.cli._run_job import run_job

    started = time.monotonic()
    schedule.meta_step = publish(SOUND if arm == "plain" else SATURATED)
    with (
        tempfile.TemporaryDirectory() as folder,
        running(seed=seed) as url,
        unscaled("unscaled" in arm),
        open(os.devnull, "w") as nothing,
        contextlib.redirect_stdout(nothing),
        contextlib.redirect_stderr(nothing),
    ):
        rubric = Path(folder, "sound.yaml")
        rubric.write_text(dump_rubric(SOUND))
        given = SETTINGS | {"seed": seed, "steps": STEPS, "rubric": rubric, "schedule": "interval"}
        given |= {
            "interval": CHANGE,
            "eval_every": 3,
            "batch_prompts": 4,
            "micro_batch": 32,
            "gate": {"share": 20},
            "algorithm": algorithm,
        }
        given |= {"judge": "openai/sandbox-judge", "judge_api_base": url, "trl": {}}
        given |= {"meta": "openai/sandbox-meta", "meta_api_base": url, "save_every": STEPS}
        given |= ALGORITHMS[algorithm] | {"run_dir": Path(folder, "run"), "cache_dir": Path(folder, "cache")}
        config = load_config(given=given, environ={})
        run_job(config, as_json=True)
        written = RunDir(config.run_dir)
        metrics, gold = read_rows(written.metrics), read_rows(written.gold)
        version = written.latest()
    return {
        "algorithm": algorithm,
        "arm": arm,
        "seed": seed,
        "scale": version.scale,
        "kl": [row["kl"] for row in metrics],
        "reward": [row["reward"] for row in metrics],
        "spread": [row["spread"] for row in metrics],
        "gold": [(row["batch"], row["gold"]) for row in gold],
        "seconds": round(time.monotonic() - started, 1),
    }


def last_kl(row: dict[str, Any]) -> float:
    return statistics.fmean(row["kl"][-LAST:])


def last_gold(row: dict[str, Any]) -> float:
    return statistics.fmean(gold for _, gold in row["gold"][-3:])


def table(results: list[dict[str, Any]]) -> str:
    lines = [
        f"| algorithm | arm | scale | spread before, after | KL per token, last {LAST} batches | minus plain "
        "| gold at the end | minus plain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for algorithm in ALGORITHMS:
        plain = {
            row["seed"]: row for row in results if (row["algorithm"], row["arm"]) == (algorithm, "plain")
        }
        for arm in ARMS:
            rows = [row for row in results if (row["algorithm"], row["arm"]) == (algorithm, arm)]
            if not rows:
                continue
            cells = [algorithm, arm, f"{statistics.fmean(row['scale'] for row in rows):.2f}"]
            spreads = [
                statistics.fmean(row["spread"][place] for row in rows) for place in (CHANGE - 1, CHANGE)
            ]
            cells.append(" → ".join(f"{spread:.3f}" for spread in spreads))
            for figure in (last_kl, last_gold):
                gaps = [figure(row) - figure(plain[row["seed"]]) for row in rows if row["seed"] in plain]
                cells.append(interval([figure(row) for row in rows]))
                cells.append("" if arm == "plain" or not gaps else interval(gaps, signed=True))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0-2", help="first-last")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/pace.json"))
    options = parser.parse_args()
    first, last = map(int, options.seeds.split("-"))
    os.environ["OMP_NUM_THREADS"] = "1"
    results: list[dict[str, Any]] = json.loads(options.out.read_text()) if options.out.exists() else []
    known = {(row["algorithm"], row["arm"], row["seed"]) for row in results}
    for seed in range(first, last + 1):
        for algorithm in ALGORITHMS:
            for arm in ARMS:
                skipped = algorithm == "grpo" and "unscaled" in arm  # GRPO has no scale to take away
                if skipped or (algorithm, arm, seed) in known:
                    continue
                row = run(algorithm, arm, seed)
                results.append(row)
                options.out.write_text(json.dumps(results, indent=1))
                print(
                    f"{algorithm:5} {arm:20} seed {seed}  scale {row['scale']:.2f}  KL {last_kl(row):.3f}  "
                    f"gold {last_gold(row):.3f}  {row['seconds']:.0f} s",
                    flush=True,
                )
    print(table(results))


if __name__ == "__main__":
    main()
