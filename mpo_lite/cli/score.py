"""``mpo-lite score``: judge the responses in a file, without training."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click

from mpo_lite.activity import activity
from mpo_lite.cli._options import config_options, json_option, overrides_option
from mpo_lite.cli.outputs import new_file, overwrite_option
from mpo_lite.cli.status import show_status
from mpo_lite.cli.terminal import echo
from mpo_lite.config import Config
from mpo_lite.config_sources import load_config
from mpo_lite.errors import FailureKind, StopRun, TaskError
from mpo_lite.jsonl import append_rows
from mpo_lite.judge.breaker import FailureTally
from mpo_lite.judge.pool import ModelPool
from mpo_lite.offline import first_rubric, judge_by_rubric, judge_twice, response_sample
from mpo_lite.report.figures import describe_failures
from mpo_lite.rubric import Rubric
from mpo_lite.sandbox.stand_in import sandboxed
from mpo_lite.sanitize import pluralize
from mpo_lite.tasks.data import map_response, read_responses
from mpo_lite.tasks.rules import rule_results
from mpo_lite.tasks.spec import Task, task_of
from mpo_lite.types import Verdict
from mpo_lite.wording import simulated_note

CHUNK = 256
"""Rows that are judged together; after each chunk the failures are checked."""
_NOT_JUDGED = Verdict(None, "", failure="stopped", detail="scoring stopped before this row")
Row = dict[str, Any]


@click.command("score", short_help="Judge the responses in a file, without training.")
@click.argument("data", metavar="DATA", type=click.Path(path_type=Path))
@config_options(
    "task", "goal", "judge", "judge_api_base", "judge_mode", "replicates", "examples", "rubric", "max_usd",
    "max_calls", "max_judge_failures", "concurrency", "cache_dir", "log_calls",
)  # fmt: skip
@overrides_option
@click.option("--no-judge", is_flag=True, help="Use only rules, verifier and gold metric: no calls, no key.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Write the scored rows to this .jsonl file."
)
@overwrite_option
@json_option
@show_status
def command(
    data: Path,
    overrides: tuple[str, ...],
    no_judge: bool,
    out: Path,
    overwrite: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Judge the responses in DATA (.jsonl, .csv, .parquet) by a task's rules, rubric and gold metric.

    DATA has the columns prompt and response (or completion), and the column of the task's reference answer if
    it has one. Each row is written with reward (null if not judged), failure (why it was not judged: kind and
    detail), gold (null if the task has none), rules (whether each is satisfied) and criteria (level and
    reason). All judge answers are cached: to continue after a stop or a kill, run the same command again. The
    exit code is 1 if too few rows, or none, could be judged.

    \b
    mpo-lite score --task essay --judge gpt-4o-mini answers.jsonl --out scored.jsonl
    mpo-lite score --task math --no-judge answers.jsonl --out scored.jsonl
    """
    config = load_config(None, flags, overrides)
    task = task_of(config)
    with new_file(out, [data, config.rubric], overwrite, ending=".jsonl") as fresh:
        rows = _read_rows(data, task)
        verdicts: Sequence[Verdict | None] = [None] * len(rows)
        spend: Row = {}
        stop: StopRun | None = None
        if not no_judge:
            with sandboxed(config) as served:
                verdicts, spend, stop = _judge(served, task, rows)
        scored = list(map(_make_scorer(task), rows, verdicts))
        append_rows(fresh, scored)
    if stop:
        raise type(stop)(
            f"{stop}; all rows, with a reason for each failure, are in {out}; verdicts so far are "
            "cached: run the same command again with --overwrite to continue"
        )
    summary = _summarize(scored) | spend | {"out": str(out)}
    echo(json.dumps(summary) if as_json else _format_summary(summary))


def _judge(config: Config, task: Task, rows: Sequence[Row]) -> tuple[list[Verdict], Row, StopRun | None]:
    """A verdict for every row, the spend, and what stopped the judging, if anything did."""
    config = config.model_copy(update={"judge_mode": config.judge_mode or task.judge_mode})
    models = ModelPool(config, task.brief(), with_meta=False, waits_out=True)
    judge = partial(_judge_chunk, models, task, first_rubric(config, task))
    verdicts: list[Verdict] = []
    stop: StopRun | None = None
    try:
        models.log_calls(Path())
        models.check()
        with activity("scoring", len(rows), "rows") as work:
            for start in range(0, len(rows), CHUNK):
                chunk = judge_twice(judge, rows[start : start + CHUNK])
                verdicts += chunk
                work.advance(len(chunk))
                if (tally := FailureTally.of(chunk, config.max_judge_failures)).broken:
                    tally.check("row")
            FailureTally.of(verdicts, config.max_judge_failures).check("row")
    except StopRun as reason:
        stop = reason
        # The chunk under way was judged in part: read what is in the cache, without any new call.
        models.client.stopped = True
        verdicts += judge(rows[len(verdicts) : len(verdicts) + CHUNK])
    finally:
        models.close()
    verdicts += [_NOT_JUDGED] * (len(rows) - len(verdicts))
    simulated = [role for role in config.simulated if role == "judge"]
    return verdicts, models.spend() | {"simulated": simulated}, stop


def _judge_chunk(models: ModelPool, task: Task, rubric: Rubric, rows: Sequence[Row]) -> list[Verdict]:
    samples = [response_sample(row, row["response"], task) for row in rows]
    return judge_by_rubric(models, task, rubric, samples)


def _make_scorer(task: Task) -> Callable[..., Row]:
    """A function from an input row, and the judge's verdict if there is one, to the row that is written."""
    gold, verify = task.gold_metric(), task.verify_metric()

    def score(row: Row, verdict: Verdict | None) -> Row:
        text, rules = row["response"], rule_results(row["response"], task.rules)
        has_reference = task.data.reference is None or row.get("reference") is not None
        if verdict:
            reward = verdict.reward
        elif not all(rules.values()):
            reward = 0.0
        else:
            reward = verify(text, row) if verify and has_reference else None
        return row["_original"] | {
            "reward": reward,
            "failure": {"kind": verdict.failure, "detail": verdict.detail}
            if verdict and verdict.failure
            else None,
            "gold": gold(text, row) if gold and has_reference else None,
            "rules": rules,
            "criteria": {key: asdict(assessment) for key, assessment in verdict.assessments.items()}
            if verdict
            else {},
        }

    return score


def _read_rows(path: Path, task: Task) -> list[Row]:
    """The rows with prompt, response, reference and cluster as the task maps them, and the original row."""
    rows: list[Row] = []
    for number, row, response in read_responses(path, needs_prompt=False):
        fields = map_response(row, task.data, f"{path}: row {number}")
        rows.append({**fields, "response": response, "_original": row})
    if not rows:
        raise TaskError(f"{path}: contains no rows")
    return rows


def _summarize(rows: Sequence[Row]) -> Row:
    rewards = [row["reward"] for row in rows if row["reward"] is not None]
    golds = [row["gold"] for row in rows if row["gold"] is not None]
    failures: Counter[FailureKind] = Counter(row["failure"]["kind"] for row in rows if row["failure"])
    return {
        "rows": len(rows),
        "rewarded": len(rewards),
        "failures": failures,
        "failure": next((row["failure"]["detail"] for row in rows if row["failure"]), ""),
        "reward": statistics.fmean(rewards) if rewards else None,
        "gold": statistics.fmean(golds) if golds else None,
        "broken_rules": sum(not all(row["rules"].values()) for row in rows),
    }


def _format_summary(summary: Row) -> str:
    reward, gold, failures = summary["reward"], summary["gold"], summary["failures"]
    parts = [
        f"{pluralize(summary['rows'], 'row')}, {summary['rewarded']:,} with a reward",
        *([describe_failures(sum(failures.values()), summary["rows"], failures)] if failures else []),
        *([f"first failure: {summary['failure']}"] if failures else []),
        *([f"reward {reward:.3f}"] if reward is not None else []),
        *([f"gold {gold:.3f}"] if gold is not None else []),
        f"{summary['broken_rules']} broke a rule",
        f"written to {summary['out']}",
        *([simulated_note(summary["simulated"])] if summary.get("simulated") else []),
    ]
    return ", ".join(parts)
