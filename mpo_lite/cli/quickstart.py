"""``mpo-lite quickstart``: the sandbox from end to end, with a summary of what happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mpo_lite.cli._options import config_options, json_option
from mpo_lite.cli._run_job import run_job
from mpo_lite.cli.terminal import echo
from mpo_lite.config import SANDBOX
from mpo_lite.config_sources import load_config
from mpo_lite.loop.distributed import run_on_main
from mpo_lite.records import Metrics, Step
from mpo_lite.report.figures import describe_active_alarm, find_active_alarms
from mpo_lite.report.row_reader import read_records
from mpo_lite.run_dir import RunDir, new_folder
from mpo_lite.wording import simulated_note

SETTINGS: dict[str, Any] = {
    "judge": SANDBOX,
    "meta": SANDBOX,
    "policy": SANDBOX,
    "task": SANDBOX,
    "steps": 80,
    "group_size": 8,
    "batch_prompts": 8,
    "micro_batch": 64,
    "learning_rate": 2e-3,
    "trl": {"lr_scheduler_type": "cosine"},
    "beta": 0.02,
    "interval": 10,
    "meta_samples": 8,
    "save_every": 20,
    "eval_every": 5,
}
"""The settings of a quickstart. The environment is ignored, so that it is the same everywhere."""


@click.command("quickstart", short_help="See Meta Policy Optimization work in three minutes.")
@config_options("seed", "use_gate", "baseline", "rubric", "run_dir", "cache_dir")
@json_option
def command(as_json: bool, **flags: Any) -> None:
    """Train a tiny policy against a simulated judge: watch it hack a vague rubric, and the rubric get fixed.

    No key, no GPU, no network. Judge and meta-judge are simulated by a local server that is called like any
    real one.

    \b
    mpo-lite quickstart
    mpo-lite quickstart --baseline iter0     # the same without meta steps: the policy keeps hacking
    """
    own = {name: value for name, value in flags.items() if value is not None}
    run_dir = own.pop("run_dir", None) or run_on_main(lambda: new_folder("quickstart"))
    config = load_config(given=SETTINGS | own | {"run_dir": run_dir}, environ={})
    summary = run_job(config, as_json=as_json)
    if not as_json:
        print_outcome(summary)


def print_outcome(summary: dict[str, Any]) -> None:
    """Prints the rubric before and after, one prompt's answers over time, and where to look next."""
    run = RunDir(Path(summary["run"]))
    first, last = run.version(0), run.version(summary["rubric_version"])
    for title, version in (("Rubric before", first), ("Rubric after", last)):
        if version is last and last.number == 0:
            break
        echo(f"\n{title} (v{version.number})", bold=True)
        for criterion in version.rubric.criteria:
            echo(f"  {criterion.id:18} {criterion.description}")
    evaluations = run.rows(run.gold)
    lowest = min(evaluations, key=lambda row: row["gold"])
    echo(f"\nOne held-out prompt: {evaluations[0]['samples'][0]['prompt']}", bold=True)
    for title, row in (
        ("before", evaluations[0]),
        ("at its lowest", lowest),
        ("at the end", evaluations[-1]),
    ):
        sample = row["samples"][0]
        echo(f"  {title} (batch {row['batch']}, gold {sample['gold']:.2f}):")
        echo(f"    {sample['completion'].strip()}")
    reward, gold = summary["reward"], summary["gold"]
    standing = find_active_alarms(
        read_records(run, run.metrics, Metrics), read_records(run, run.lineage, Step)
    )
    echo("\nWhat happened", bold=True)
    echo(f"  gold    start {gold['start']:.3f}, lowest {gold['min']:.3f}, end {gold['end']:.3f}")
    echo(f"  reward  start {reward['start']:.3f}, end {reward['end']:.3f}, both under v{reward['version']}")
    echo(f"  alarms  {'; '.join(map(describe_active_alarm, standing)) or 'none at the end'}")
    echo(f"  report  {run.report} (open it in a browser)")
    echo(f"  Note: {simulated_note(summary['simulated'])}.")
