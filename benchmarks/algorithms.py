"""The three algorithms under one sound rubric: gold before and after, over seeds.

    python benchmarks/algorithms.py --seeds 0-4 --workers 2      # about 12 minutes

Trains the sandbox policy against a frozen rubric of five criteria that name what a good essay has (the
sandbox's expert rubric without its vague criterion). The judge is simulated: no evidence about real ones; the
table shows that each algorithm learns what it is rewarded for. Prints a table, writes JSON and a figure.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from mechanism import interval

from mpo_lite.cli.quickstart import SETTINGS
from mpo_lite.config_sources import load_config
from mpo_lite.jsonl import read_rows
from mpo_lite.rubric import Rubric, dump_rubric
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.judge_server import running
from mpo_lite.tasks.spec import load_task

STEPS = 60
ALGORITHMS: dict[str, dict[str, Any]] = {
    "grpo": {},
    "rloo": {},
    "ppo": {"num_iterations": 2},
}


def run(algorithm: str, seed: int) -> dict[str, Any]:
    from mpo_lite.cli._run_job import run_job

    expert = load_task("sandbox").expert_rubric
    sound = Rubric(criteria=tuple(one for one in expert.criteria if one.id != "style"))
    with tempfile.TemporaryDirectory() as folder, running(seed=seed) as url:
        rubric = Path(folder, "sound.yaml")
        rubric.write_text(dump_rubric(sound))
        given = SETTINGS | {"seed": seed, "steps": STEPS, "baseline": "iter0", "rubric": rubric}
        given |= {"algorithm": algorithm, "judge": "openai/sandbox-judge", "judge_api_base": url}
        given |= ALGORITHMS[algorithm] | {"run_dir": Path(folder, "run"), "cache_dir": Path(folder, "cache")}
        config = load_config(given=given, environ={})
        with (
            open(os.devnull, "w") as nothing,
            contextlib.redirect_stdout(nothing),
            contextlib.redirect_stderr(nothing),
        ):
            summary = run_job(config, as_json=True)
        gold = [(row["batch"], row["gold"]) for row in read_rows(RunDir(config.run_dir).gold)]
    return {"algorithm": algorithm, "seed": seed, "gold": gold, "reward": summary["reward"]}


def ends(results: list[dict], algorithm: str) -> list[float]:
    return [
        statistics.fmean(value for _, value in row["gold"][-3:])
        for row in sorted(results, key=lambda row: row["seed"])
        if row["algorithm"] == algorithm
    ]


def table(results: list[dict]) -> str:
    seeds = sorted({row["seed"] for row in results})
    lines = [
        f"| algorithm | gold before | gold at the end, seeds {', '.join(map(str, seeds))} | mean |",
        "|---|---|---|---|",
    ]
    for algorithm in ALGORITHMS:
        told = ends(results, algorithm)
        lines.append(
            f"| {algorithm} | {results[0]['gold'][0][1]:.3f} | {', '.join(f'{end:.3f}' for end in told)} "
            f"| {interval(told)} |"
        )
    return "\n".join(lines)


def draw(results: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, plot = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for number, algorithm in enumerate(ALGORITHMS):
        curves = [row["gold"] for row in results if row["algorithm"] == algorithm]
        for curve in curves:
            plot.plot(*zip(*curve, strict=True), color=f"C{number}", linewidth=0.7, alpha=0.5)
        batches = [batch for batch, _ in curves[0]]
        means = [statistics.fmean(curve[n][1] for curve in curves) for n in range(len(batches))]
        plot.plot(batches, means, color=f"C{number}", linewidth=2.4, label=algorithm)
    plot.set(xlabel="generation batch", ylabel="gold on 72 held-out prompts", ylim=(0.3, 1))
    plot.spines[["top", "right"]].set_visible(False)
    plot.legend(loc="lower right", frameon=False)
    figure.suptitle("Sandbox: simulated judge, one sound rubric, no evidence about real judges", fontsize=10)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0-4", help="first-last")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/algorithms.json"))
    parser.add_argument("--figure", type=Path, default=Path("docs/algorithms.png"))
    options = parser.parse_args()
    first, last = map(int, options.seeds.split("-"))
    os.environ["OMP_NUM_THREADS"] = "1"
    results = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context) as pool:
        jobs = [(name, seed) for seed in range(first, last + 1) for name in ALGORITHMS]
        for future in as_completed([pool.submit(run, *job) for job in jobs]):
            row = future.result()
            results.append(row)
            print(f"{row['algorithm']:5} seed {row['seed']}  gold → {row['gold'][-1][1]:.3f}", flush=True)
    options.out.write_text(json.dumps(results, indent=1))
    print(table(results))
    draw(results, options.figure)


if __name__ == "__main__":
    main()
