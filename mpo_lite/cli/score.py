"""``mpo-lite score``: judge the responses of any file, without training."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mpo_lite.activity import activity
from mpo_lite.cli.job import SIMULATED, sandboxed
from mpo_lite.cli.options import config_options, json_option, overrides_option
from mpo_lite.cli.status import show_status
from mpo_lite.config import Config
from mpo_lite.errors import LOST, EndpointError, FailureKind, JudgeDown, StopRun, TaskError
from mpo_lite.files import append_rows, rewrite_rows, write_atomically
from mpo_lite.judge.base import Sample
from mpo_lite.judge.endpoints import Endpoints
from mpo_lite.llm import background
from mpo_lite.llm.models import SANDBOX
from mpo_lite.report.summary import not_judged
from mpo_lite.resolve import load_config
from mpo_lite.rubric import Rubric
from mpo_lite.runs import rubric_at
from mpo_lite.tasks.data import mapped, responses
from mpo_lite.tasks.rules import rule_results, rule_verdict
from mpo_lite.tasks.spec import Task, task_of
from mpo_lite.types import Verdict

CHUNK = 256
"""Rows that are judged together, and written then: what a cap leaves is on disk."""
_NOT_JUDGED = Verdict(None, "", failure="stopped", detail="scoring stopped before this row")
Row = dict[str, Any]


@click.command("score", short_help="Judge the responses of a file, without training.")
@click.argument("data", metavar="DATA", type=click.Path(path_type=Path))
@config_options(
    "task", "goal", "judge", "judge_api_base", "judge_mode", "replicates", "rubric", "max_usd", "max_calls",
    "concurrency", "cache_dir", "log_calls",
)  # fmt: skip
@overrides_option
@click.option("--no-judge", is_flag=True, help="Rules, verifier and gold metric alone: no call, no key.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write: .jsonl.")
@json_option
@show_status
def command(
    data: Path, overrides: tuple[str, ...], no_judge: bool, out: Path, as_json: bool, **flags: Any
) -> None:
    """Judge the responses of DATA (.jsonl, .csv, .parquet) by a task's rules, rubric and gold metric.

    DATA has the columns prompt and response (or completion), and what the task's reference is read from. Each
    row is written with reward (null where it was not judged), failure (why it was not: its kind, and what was
    seen), gold (null where the task has none), rules (which are kept) and criteria (level and reason). Every
    answer of the judge is cached: a stopped scoring can be resumed.

    \b
    mpo-lite score --task essay --judge gpt-4o-mini answers.jsonl --out scored.jsonl
    mpo-lite score --task math --no-judge answers.jsonl --out scored.jsonl
    """
    config = load_config(None, flags, overrides)
    task = task_of(config)
    rows = _read(data, task)
    if no_judge:
        scored = list(map(_scorer(task), rows))
        write_atomically(out, "")
        append_rows(out, scored)
        summary = _summary(scored)
    else:
        with sandboxed(config) as served:
            summary = _judge(served, task, rows, out)
    summary["out"] = str(out)
    click.echo(json.dumps(summary) if as_json else _told(summary))


def _judge(config: Config, task: Task, rows: Sequence[Row], out: Path) -> Row:
    """Judges all rows, chunk by chunk, writing each."""
    config = config.model_copy(update={"judge_mode": config.judge_mode or task.judge_mode})
    rubric = rubric_at(config.rubric)[0] if config.rubric else task.rubric
    scored_as = _scorer(task)
    models = Endpoints(config, task.persona, with_meta=False, waits_out=True)
    scored: list[Row] = []
    stop: StopRun | None = None
    try:
        models.log_calls(Path())
        models.check()
        write_atomically(out, "")  # only now: a wrong key must not cost an earlier file
        with activity("scoring", len(rows), "rows") as work:
            for start in range(0, len(rows), CHUNK):
                chunk = rows[start : start + CHUNK]
                verdicts = [_NOT_JUDGED] * len(chunk)
                try:
                    verdicts = verdicts if stop else _verdicts(models, task, rubric, chunk)
                except StopRun as reason:
                    stop = reason
                fresh = list(map(scored_as, chunk, verdicts))
                append_rows(out, fresh)
                scored += fresh
                work.advance(len(chunk))
                if _lost(fresh) and not any(row["criteria"] for row in fresh):
                    stop = stop or JudgeDown(f"no answer of the judge: {_reason(fresh)}")
            if not stop and _lost(scored):
                try:
                    scored = _tried_again(models, task, rubric, rows, scored)
                except StopRun as reason:
                    stop = reason
                rewrite_rows(out, scored)
    finally:
        models.close()
    if stop:
        raise type(stop)(f"{stop}; what was judged is in {out}, and cached for the next time")
    return _summary(scored) | models.spend() | {"simulated_judge": SANDBOX in config.model_names}


def _lost(scored: Sequence[Row]) -> list[int]:
    """Places of the rows that the server lost."""
    return [place for place, row in enumerate(scored) if row["failure"] and row["failure"]["kind"] in LOST]


def _tried_again(
    models: Endpoints, task: Task, rubric: Rubric, rows: Sequence[Row], scored: Sequence[Row]
) -> list[Row]:
    """The scored rows, those that the server lost judged once more."""
    places = _lost(scored)
    again = [rows[place] for place in places]
    fresh = map(_scorer(task), again, _verdicts(models, task, rubric, again))
    found = dict(zip(places, fresh, strict=True))
    return [found.get(place, row) for place, row in enumerate(scored)]


def _reason(scored: Sequence[Row]) -> str:
    """Why a row was not judged, of the first that was not; empty where all were."""
    return next((row["failure"]["detail"] for row in scored if row["failure"]), "")


def _verdicts(models: Endpoints, task: Task, rubric: Rubric, rows: Sequence[Row]) -> list[Verdict]:
    samples = [Sample(row["prompt"], row["response"], str(row.get("cluster") or "")) for row in rows]
    ruled = [rule_verdict(sample.completion, rubric.set_hash, task.rules) for sample in samples]
    asked = [sample for sample, verdict in zip(samples, ruled, strict=True) if verdict is None]
    try:
        judged = iter(background.wait(models.judge().verdicts(asked, rubric)))
    except EndpointError as error:
        raise JudgeDown(str(error)) from None
    return [verdict or next(judged) for verdict in ruled]


def _scorer(task: Task) -> Callable[..., Row]:
    """Makes of an input row, and the judge's verdict if there is one, the row that is written."""
    gold, verify = task.gold_metric(), task.verify_metric()

    def scored(row: Row, verdict: Verdict | None = None) -> Row:
        text, rules = row["response"], rule_results(row["response"], task.rules)
        known = task.data.reference is None or row.get("reference") is not None
        if verdict:
            reward = verdict.reward
        elif not all(rules.values()):
            reward = 0.0
        else:
            reward = verify(text, row) if verify and known else None
        return row["_given"] | {
            "reward": reward,
            "failure": {"kind": verdict.failure, "detail": verdict.detail}
            if verdict and verdict.failure
            else None,
            "gold": gold(text, row) if gold and known else None,
            "rules": rules,
            "criteria": {key: asdict(one) for key, one in verdict.assessments.items()} if verdict else {},
        }

    return scored


def _read(path: Path, task: Task) -> list[Row]:
    """The rows, each with prompt, response, reference and cluster as the task maps them, and as
    it was given.
    """
    rows: list[Row] = []
    for number, row, response in responses(path, needs_prompt=False):
        where = f"{path}: row {number}"
        # A file of responses names its columns plainly, or as the task's own data do.
        plainly = {"prompt": "prompt"} if "prompt" in row else {}
        columns = {"cluster": None, "reference": _reference(row, task.data.reference), **plainly}
        told = mapped([row], task.data.model_copy(update=columns), where)[0]
        cluster = row.get(task.data.cluster) if task.data.cluster else row.get("cluster")
        rows.append({**told, "cluster": cluster, "response": response, "_given": row})
    if not rows:
        raise TaskError(f"{path}: no rows in it")
    return rows


def _reference(row: Row, column: str | None) -> str | None:
    """The column that holds what is right: the task's, or one that is called so; None where
    there is neither.
    """
    names = [column, "reference"] if column else []
    return next((name for name in names if name.split(".")[0] in row), None)


def _summary(rows: Sequence[Row]) -> Row:
    rewards = [row["reward"] for row in rows if row["reward"] is not None]
    golds = [row["gold"] for row in rows if row["gold"] is not None]
    failures: Counter[FailureKind] = Counter(row["failure"]["kind"] for row in rows if row["failure"])
    return {
        "rows": len(rows),
        "rewarded": len(rewards),
        "failures": failures,
        "failure": _reason(rows),
        "reward": statistics.fmean(rewards) if rewards else None,
        "gold": statistics.fmean(golds) if golds else None,
        "broken_rules": sum(not all(row["rules"].values()) for row in rows),
    }


def _told(summary: Row) -> str:
    reward, gold, failures = summary["reward"], summary["gold"], summary["failures"]
    parts = [
        f"{summary['rows']} rows, {summary['rewarded']} with a reward",
        *([not_judged(sum(failures.values()), summary["rows"], failures)] if failures else []),
        *([f"the first: {summary['failure']}"] if failures else []),
        *([f"reward {reward:.3f}"] if reward is not None else []),
        *([f"gold {gold:.3f}"] if gold is not None else []),
        f"{summary['broken_rules']} broke a rule",
        f"written to {summary['out']}",
        *([SIMULATED] if summary.get("simulated_judge") else []),
    ]
    return ", ".join(parts)
