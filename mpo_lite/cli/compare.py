"""``mpo-lite compare``: a judge compares models pairwise on held-out prompts, and the models are rated."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import click

from mpo_lite.activity import activity
from mpo_lite.cli._models import batch_size_option, check_exists, generate_answers, open_policy
from mpo_lite.cli._options import config_options, json_option
from mpo_lite.cli.judging import format_spend
from mpo_lite.cli.outputs import new_file, overwrite_option
from mpo_lite.cli.rate import COLUMNS, format_ratings, rate_matches
from mpo_lite.cli.status import show_status
from mpo_lite.cli.terminal import echo
from mpo_lite.config import Config
from mpo_lite.config_sources import load_config
from mpo_lite.errors import ConfigError, EndpointError, JudgeDown, cached_so_far
from mpo_lite.jsonl import append_rows, read_rows, write_atomically
from mpo_lite.judge.breaker import FailureTally
from mpo_lite.judge.pairwise import MatchResult, Pair, PairwiseJudge
from mpo_lite.judge.pool import ModelPool
from mpo_lite.llm import event_loop
from mpo_lite.offline import judge_twice
from mpo_lite.report.figures import describe_failures
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.stand_in import sandboxed
from mpo_lite.tasks.data import load_prompts, read_responses
from mpo_lite.tasks.spec import Task, task_of
from mpo_lite.wording import simulated_note

_DATA_SETTINGS = ("data", "prompt_column", "data_subset", "data_split")
CHUNK = 256
"""Matches that are judged together; after each chunk the failures are checked."""
Answers = dict[str, dict[str, str]]
"""Model → prompt → answer."""


@click.command("compare", short_help="Compare models pairwise with a judge, and rate them.")
@click.argument("models", metavar="A B [C ...]", nargs=-1, required=True)
@config_options(
    "judge", "judge_api_base", "task", "goal", "data", "prompt_column", "data_subset", "data_split",
    "temperature", "max_new_tokens", "max_usd", "max_calls", "max_judge_failures", "concurrency", "cache_dir",
    "log_calls",
)  # fmt: skip
@click.option(
    "-n",
    "--n",
    "count",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Maximum number of prompts.",
)
@batch_size_option
@click.option("--out", type=click.Path(path_type=Path), help="Directory for answers and matches.")
@overwrite_option
@json_option
@show_status
def command(
    models: tuple[str, ...],
    count: int,
    batch_size: int,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Compare models pairwise on held-out prompts with a judge, each pair in both orders, and rate them.

    A, B, C are runs, model directories, Hub ids, or files of responses (.jsonl, .csv, .parquet with prompt
    and response). Task and data default to those of the first run. Answers and matches are saved in the
    directory and every verdict is cached: to continue a comparison that was stopped or killed, run the same
    command again. The exit code is 1 if too few matches, or none, could be judged.

    \b
    mpo-lite compare runs/essay-20250428-101500 Qwen/Qwen2.5-1.5B-Instruct --judge gpt-4o
    mpo-lite compare before.jsonl after.jsonl --task essay --judge gpt-4o --json
    """
    if len(models) < 2:
        raise ConfigError("compare: name at least two models, runs or files")
    for source in models:
        check_exists(source)
    config = _load_config(models, flags)
    task = task_of(config)
    folder = out or Path(f"comparison-{task.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    if folder.is_file():
        raise ConfigError(f"{folder}: is a file; give a directory with --out")
    with new_file(folder / "matches.jsonl", map(Path, models), overwrite) as fresh:
        answers = _collect_answers(models, flags, config, task, count, batch_size, folder)
        with sandboxed(config) as served:
            tally, spend = _judge_matches(served, task, answers, fresh)
        summary: dict[str, Any] = rate_matches(fresh)
    failed, failures = len(tally.failures), Counter(tally.failures)
    summary |= {"failed": failed, "failures": failures, "out": str(folder), **spend}
    summary["simulated"] = [role for role in config.simulated if role == "judge"]
    if as_json:
        echo(json.dumps(summary))
        return
    note = f"; {simulated_note(summary['simulated'])}" if summary["simulated"] else ""
    echo("\n".join(format_ratings(summary)))
    matches = describe_failures(failed, tally.size, failures)
    echo(f"{matches}, spend {format_spend(spend['usd'])}; saved in {folder}{note}")


def _load_config(models: Sequence[str], flags: dict[str, Any]) -> Config:
    """The flags, with task and data of the first run among the models."""
    run = next((Path(name) for name in models if RunDir(Path(name)).exists()), None)
    own = RunDir.open(run, {})[1] if run else None
    given = {name: value for name, value in flags.items() if value is not None}
    # The run's judge is not taken over: the policy was trained to please it.
    from_run: dict[str, Any] = {}
    if own:
        if "data" not in given:
            from_run = {name: getattr(own, name) for name in _DATA_SETTINGS}
        if not {"task", "goal"} & set(given):
            from_run |= {"goal": own.goal} if own.goal else {"task": own.task}
    return load_config(None, from_run | given)


def _collect_answers(
    models: Sequence[str],
    flags: dict[str, Any],
    config: Config,
    task: Task,
    count: int,
    batch_size: int,
    folder: Path,
) -> Answers:
    """Each model's answers to the same prompts; those already in the folder are not generated again."""
    files = {name: _read_answers(Path(name)) for name in models if Path(name).is_file()}
    if files:
        first = next(iter(files.values()))
        prompts = [prompt for prompt in first if all(prompt in answers for answers in files.values())]
    else:
        data = load_prompts(task.data)
        # Data named by a flag was not trained on, so all of it can serve where nothing is held out.
        prompts = list(data.held_out or (data.train if flags.get("data") else ()))
        if not prompts:
            raise ConfigError(
                f"compare: task {task.name} has no held-out prompts; give prompts that were not trained on "
                "with --data"
            )
    prompts = prompts[:count]
    by_model: Answers = {}
    for source in models:
        if source in files:
            name, answers = Path(source).stem, files[source]
        else:
            policy = open_policy(source, flags)
            name, file = policy.name, folder / f"answers-{_to_file_name(policy.name)}.jsonl"
            answers = {row["prompt"]: row["response"] for row in read_rows(file)}
            if missing := [prompt for prompt in prompts if prompt not in answers]:
                completions = generate_answers(policy, task, missing, batch_size)
                answers |= {prompt: completion.text for prompt, completion in completions}
                _save_answers(file, answers)
        if name in by_model:
            raise ConfigError(f"compare: two models are called {name!r}; rename a directory or file")
        by_model[name] = answers
    shared = [prompt for prompt in prompts if all(prompt in answers for answers in by_model.values())]
    if not shared:
        raise ConfigError("compare: no prompt has answers of all models; give files with the same prompts")
    return {name: {prompt: answers[prompt] for prompt in shared} for name, answers in by_model.items()}


def _save_answers(file: Path, answers: Mapping[str, str]) -> None:
    rows = ({"prompt": prompt, "response": text} for prompt, text in answers.items())
    write_atomically(file, "".join(f"{json.dumps(row)}\n" for row in rows))


def _judge_matches(
    config: Config, task: Task, answers: Answers, file: Path
) -> tuple[FailureTally, dict[str, Any]]:
    """Judges and writes all matches; returns how many failed, and the spend."""
    models = ModelPool(config, task.brief(), with_meta=False, waits_out=True)
    judge = PairwiseJudge(models.client, models.judges[0], models.brief)
    names = [pair for both in combinations(answers, 2) for pair in (both, both[::-1])]
    matches = [(prompt, a, b) for prompt in next(iter(answers.values())) for a, b in names]
    share = config.max_judge_failures
    played: list[MatchResult] = []

    def judge_pairs(pairs: Sequence[Pair]) -> list[MatchResult]:
        try:
            return event_loop.wait(judge.judge_pairs(pairs))
        except EndpointError as error:
            raise JudgeDown(str(error)) from None

    try:
        models.log_calls(Path())
        models.check()
        with cached_so_far("verdicts"), activity("comparing", len(matches), "matches") as work:
            for start in range(0, len(matches), CHUNK):
                chunk = matches[start : start + CHUNK]
                pairs = [Pair(prompt, answers[a][prompt], answers[b][prompt]) for prompt, a, b in chunk]
                results = judge_twice(judge_pairs, pairs)
                played += results
                work.advance(len(chunk))
                if (tally := FailureTally.of(results, share)).broken:
                    tally.check("match", "matches")
            (tally := FailureTally.of(played, share)).check("match", "matches")
    finally:
        models.close()
    judged = (
        (prompt, a, b, {"first": a, "second": b}.get(result.winner or "", "tie"))
        for (prompt, a, b), result in zip(matches, played, strict=True)
        if not result.failure
    )
    append_rows(file, (dict(zip(COLUMNS, match, strict=True)) for match in judged))
    return tally, models.spend()


def _read_answers(path: Path) -> dict[str, str]:
    answers: dict[str, str] = {}
    for _, row, response in read_responses(path):
        answers.setdefault(row["prompt"], response)
    return answers


def _to_file_name(name: str) -> str:
    return "".join(sign if sign.isalnum() or sign in "-._" else "-" for sign in name)
