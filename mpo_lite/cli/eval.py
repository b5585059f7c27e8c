"""``mpo-lite eval``: the gold metric of a run's policy, or of any model, on held-out prompts."""

from __future__ import annotations

import json
import statistics
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from mpo_lite.cli._models import answers, batch_size_option, policy_at
from mpo_lite.cli._options import config_options, json_option
from mpo_lite.cli.outputs import new_file, overwrite_option
from mpo_lite.cli.status import show_status
from mpo_lite.cli.terminal import echo
from mpo_lite.errors import ConfigError
from mpo_lite.jsonl import append_rows
from mpo_lite.sanitize import pluralize
from mpo_lite.tasks.data import load_prompts
from mpo_lite.tasks.spec import load_builtin_tasks, task_of


@click.command("eval", short_help="Measure a model by a task's gold metric on held-out prompts.")
@click.argument("model", metavar="RUN|MODEL")
@config_options(
    "task", "goal", "data", "prompt_column", "data_subset", "data_split", "temperature", "max_new_tokens"
)
@click.option(
    "-n", "--n", "count", type=click.IntRange(min=2), help="Held-out prompts, at most; default: all."
)
@batch_size_option
@click.option("--out", type=click.Path(path_type=Path), help="File to write the answers to: .jsonl.")
@overwrite_option
@json_option
@show_status
def command(
    model: str,
    count: int | None,
    batch_size: int,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Have a run's policy, or any model, answer held-out prompts, and measure the answers by the gold metric.

    Told with the 95% interval, by drawing prompts anew. A run brings its task and data along.

    \b
    mpo-lite eval runs/math-20250428-101500
    mpo-lite eval Qwen/Qwen2.5-1.5B-Instruct --task math --n 200
    """
    policy = policy_at(model, flags)
    task = task_of(policy.config)
    gold = task.gold_metric()
    if gold is None:
        able = ", ".join(name for name, one in load_builtin_tasks().items() if one.gold)
        raise ConfigError(
            f"task {task.name}: has no gold metric; name one that has by --task ({able}), or have answers "
            "compared: mpo-lite compare"
        )
    reads = [Path(policy.config.data)] if policy.config.data else []
    with new_file(out, reads, overwrite, ending=".jsonl") if out else nullcontext() as fresh:
        prompts = load_prompts(task.data)
        told = dict(answers(policy, task, prompts.held_out[:count], batch_size))
        if len(told) < 2:
            raise ConfigError(f"{model}: fewer than 2 held-out prompts fit; name more data by --data")
        values = [gold(one.text, prompts.row(prompt)) for prompt, one in told.items()]
        known = [value for value in values if value is not None]
        if fresh:
            rows = zip(told.items(), values, strict=True)
            append_rows(
                fresh,
                (
                    {"prompt": prompt, "response": one.text, "truncated": one.truncated, "gold": value}
                    for (prompt, one), value in rows
                ),
            )
    if len(known) < 2:
        raise ConfigError(
            f"{model}: gold could not be measured of {len(values) - len(known)} of {len(values)} answers, "
            "because its verifier broke down over them; try again, or look at them by --out"
        )
    from mpo_lite.stats.interval import mean_interval  # loads numpy

    low, high = mean_interval(known)
    summary = {"model": policy.name, "task": task.name, "n": len(known)}
    summary |= {"gold": statistics.fmean(known), "lo": low, "hi": high}
    summary["truncated"] = sum(one.truncated for one in told.values())
    if as_json:
        echo(json.dumps(summary))
    else:
        told_as = f"{policy.name}: gold {summary['gold']:.3f} [{low:.3f}, {high:.3f}]"
        echo(f"{told_as} on {pluralize(len(known), 'held-out prompt')} of {task.name}")
