"""``mpo-lite eval``: evaluate a run's policy, or any model, with a task's gold metric."""

from __future__ import annotations

import json
import statistics
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpo_lite.cli._models import batch_size_option, generate_answers, open_policy
from mpo_lite.cli._options import config_options, json_option
from mpo_lite.cli.outputs import new_file, overwrite_option
from mpo_lite.cli.status import show_status
from mpo_lite.cli.terminal import echo
from mpo_lite.errors import ConfigError
from mpo_lite.jsonl import append_rows
from mpo_lite.sanitize import pluralize
from mpo_lite.tasks.data import load_prompts
from mpo_lite.tasks.spec import load_builtin_tasks, task_of

if TYPE_CHECKING:
    from mpo_lite.types import Completion


@click.command("eval", short_help="Evaluate a model with a task's gold metric on held-out prompts.")
@click.argument("model", metavar="RUN|MODEL")
@config_options(
    "task", "goal", "data", "prompt_column", "data_subset", "data_split", "temperature", "max_new_tokens"
)
@click.option(
    "-n", "--n", "count", type=click.IntRange(min=2), help="Maximum number of held-out prompts; default: all."
)
@batch_size_option
@click.option("--out", type=click.Path(path_type=Path), help="Write the answers to this .jsonl file.")
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
    """Have a run's policy, or any model, answer held-out prompts, and score the answers with the gold metric.

    Prints the mean with its 95% interval, bootstrapped over prompts. Task and data default to those
    of the run.

    \b
    mpo-lite eval runs/math-20250428-101500
    mpo-lite eval Qwen/Qwen2.5-1.5B-Instruct --task math --n 200
    """
    policy = open_policy(model, flags)
    task = task_of(policy.config)
    gold = task.gold_metric()
    if gold is None:
        with_gold = ", ".join(name for name, builtin in load_builtin_tasks().items() if builtin.gold)
        raise ConfigError(
            f"task {task.name}: has no gold metric; choose a task that has one with --task ({with_gold}), or "
            "compare answers with a judge: mpo-lite compare"
        )
    reads = [Path(policy.config.data)] if policy.config.data else []
    with new_file(out, reads, overwrite, ending=".jsonl") if out else nullcontext() as fresh:
        prompts = load_prompts(task.data)
        answers = dict(generate_answers(policy, task, prompts.held_out[:count], batch_size))
        if len(answers) < 2:
            raise ConfigError(
                f"{model}: fewer than 2 held-out prompts fit the model; give more data with --data"
            )
        values = [gold(answer.text, prompts.row(prompt)) for prompt, answer in answers.items()]
        measured = [value for value in values if value is not None]
        if fresh:
            pairs = zip(answers.items(), values, strict=True)
            append_rows(fresh, (_row(prompt, answer, value) for (prompt, answer), value in pairs))
    if len(measured) < 2:
        raise ConfigError(
            f"{model}: no gold for {len(values) - len(measured)} of {len(values)} answers, "
            "because the verifier crashed on them; try again, or inspect them with --out"
        )
    from mpo_lite.stats.interval import mean_interval  # loads numpy

    low, high = mean_interval(measured)
    summary = {"model": policy.name, "task": task.name, "n": len(measured)}
    summary |= {"gold": statistics.fmean(measured), "lo": low, "hi": high}
    summary["truncated"] = sum(answer.truncated for answer in answers.values())
    if as_json:
        echo(json.dumps(summary))
    else:
        line = f"{policy.name}: gold {summary['gold']:.3f} [{low:.3f}, {high:.3f}]"
        echo(f"{line} on {pluralize(len(measured), 'held-out prompt')} of {task.name}")


def _row(prompt: str, answer: Completion, gold: float | None) -> dict[str, Any]:
    return {"prompt": prompt, "response": answer.text, "truncated": answer.truncated, "gold": gold}
