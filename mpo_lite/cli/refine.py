"""``mpo-lite refine``: refine a rubric on existing answers, without training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mpo_lite.activity import activity
from mpo_lite.cli._options import config_options, json_option, overrides_option
from mpo_lite.cli.judging import format_spend
from mpo_lite.cli.outputs import new_file, overwrite_option
from mpo_lite.cli.status import show_status
from mpo_lite.cli.terminal import echo
from mpo_lite.config import Config
from mpo_lite.config_sources import load_config
from mpo_lite.errors import ConfigError, TaskError, cached_so_far
from mpo_lite.judge.base import Sample
from mpo_lite.judge.pool import ModelPool
from mpo_lite.meta.refine import Round
from mpo_lite.offline import first_rubric, refine_samples, require_proposal, response_sample
from mpo_lite.rubric import dump_rubric
from mpo_lite.sandbox.stand_in import sandboxed
from mpo_lite.sanitize import pluralize
from mpo_lite.tasks.data import parse_label, read_responses
from mpo_lite.tasks.spec import Task, task_of
from mpo_lite.wording import simulated_note

SETTINGS = (
    "task", "goal", "judge", "meta", "judge_api_base", "meta_api_base", "rubric", "rounds", "meta_samples",
    "use_gate", "prescreen", "seed", "max_usd", "max_calls", "max_tokens", "max_judge_failures",
    "concurrency", "cache_dir", "log_calls",
)  # fmt: skip


@click.command("refine", short_help="Refine a rubric on existing answers, without training.")
@click.argument("data", metavar="DATA", type=click.Path(path_type=Path))
@config_options(*SETTINGS)
@click.option("--labels", metavar="COLUMN", help="Column of human labels; higher is better.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Write the refined rubric to this YAML file.",
)
@overwrite_option
@overrides_option
@json_option
@show_status
def command(
    data: Path,
    labels: str | None,
    out: Path,
    overwrite: bool,
    overrides: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """Refine a rubric on existing answers: judge them, revise the rubric, check the revision, repeat.

    DATA is .jsonl, .csv or .parquet with the columns prompt and response (or completion); a run's
    rollouts.jsonl is such a file. With --labels, half of the labelled answers are held out from the
    meta-judge, and a new rubric must agree with their labels at least as well as the old one. All model
    answers are cached: to continue a refinement that was stopped or killed, run the same command again. The
    exit code is 1 if too few answers could be judged, or if no proposal was usable.

    \b
    mpo-lite refine --task essay --judge gpt-4o-mini --meta claude answers.jsonl --rounds 5 --out rubric.yaml
    mpo-lite train --rubric rubric.yaml --baseline iter0 --judge gpt-4o-mini
    """
    config = load_config(None, flags, overrides)
    if config.meta is None:
        raise ConfigError("no meta-judge: give --meta MODEL (it may be the judge's model) or set MPO_META")
    with new_file(out, [data, config.rubric], overwrite) as fresh, sandboxed(config) as served:
        task = task_of(served)
        samples, label_values = _read_answers(data, labels, task)
        models = ModelPool(served, task.brief(), with_meta=True, waits_out=True)
        try:
            models.log_calls(Path())
            models.check()
            on_round: Callable[[Round], None] = (lambda result: None) if as_json else _print_round
            rounds = _refine(served, task, models, samples, label_values, on_round)
            summary = _summarize(rounds, models, config)
            fresh.write_text(dump_rubric(rounds[-1].rubric), encoding="utf-8")
        finally:
            models.close()
    echo(
        json.dumps(summary | {"out": str(out)})
        if as_json
        else f"{_format_summary(summary)}, written to {out}"
    )


def _refine(
    config: Config,
    task: Task,
    models: ModelPool,
    samples: list[Sample],
    labels: list[float | None],
    on_round: Callable[[Round], None],
) -> list[Round]:
    def finish_round(result: Round) -> None:
        work.advance()
        on_round(result)

    with cached_so_far("answers"), activity("refining", config.rounds, "rounds") as work:
        first = first_rubric(config, task)
        rounds = refine_samples(models, config, task, first, samples, labels, finish_round)
    require_proposal(rounds)
    return rounds


def _read_answers(path: Path, labels: str | None, task: Task) -> tuple[list[Sample], list[float | None]]:
    samples: list[Sample] = []
    values: list[float | None] = []
    for number, row, response in read_responses(path):
        samples.append(response_sample(row, response, task))
        values.append(parse_label(row, labels, f"{path}: row {number}") if labels else None)
    if len({sample.prompt for sample in samples}) < 2:
        raise TaskError(f"{path}: answers to at least two prompts are needed")
    if labels and sum(label is not None for label in values) < 4:
        raise TaskError(f"{path}: fewer than four rows have a number in {labels!r}")
    return samples, values


def _print_round(result: Round) -> None:
    names = ", ".join(criterion.id for criterion in result.rubric.criteria)
    agreement = "" if result.agreement is None else f"; agreement with the labels {result.agreement:.2f}"
    reason = result.outcome.reason
    outcome = f"rubric unchanged ({reason})" if reason else f"new rubric: {names}"
    echo(f"round {result.number}: {outcome}{agreement}")


def _summarize(rounds: list[Round], models: ModelPool, config: Config) -> dict[str, Any]:
    return {
        "rounds": [
            {
                "status": result.outcome.status,
                "reason": result.outcome.reason,
                "agreement": result.agreement,
            }
            for result in rounds
        ],
        "criteria": [criterion.id for criterion in rounds[-1].rubric.criteria],
        **models.spend(),
        "simulated": config.simulated,
    }


def _format_summary(summary: dict[str, Any]) -> str:
    accepted = sum(result["status"] == "accepted" for result in summary["rounds"])
    changed = f"{accepted} of {pluralize(len(summary['rounds']), 'round')} changed the rubric"
    line = f"{changed}, spend {format_spend(summary['usd'])}"
    return f"{line}; {simulated_note(summary['simulated'])}" if summary["simulated"] else line
