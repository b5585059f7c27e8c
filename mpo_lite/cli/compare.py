"""``mpo-lite compare``: a judge compares models pairwise on held-out prompts, and they are rated."""

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
from mpo_lite.cli._models import answers, batch_size_option, policy_at, refuse_missing
from mpo_lite.cli._options import config_options, json_option
from mpo_lite.cli.judging import judge_twice, spend_in_words
from mpo_lite.cli.outputs import new_file, overwrite_option
from mpo_lite.cli.rate import COLUMNS, lines, rated
from mpo_lite.cli.status import show_status
from mpo_lite.cli.terminal import echo
from mpo_lite.config import Config
from mpo_lite.config_sources import load_config
from mpo_lite.errors import ConfigError, EndpointError, JudgeDown, StopRun
from mpo_lite.jsonl import append_rows, read_rows, write_atomically
from mpo_lite.judge.breaker import FailureTally
from mpo_lite.judge.pairwise import MatchResult, Pair, PairwiseJudge
from mpo_lite.judge.pool import ModelPool
from mpo_lite.llm import event_loop
from mpo_lite.report.figures import describe_failures
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.stand_in import sandboxed
from mpo_lite.tasks.data import load_prompts, responses
from mpo_lite.tasks.spec import Task, task_of
from mpo_lite.wording import simulated_note

_OF_THE_DATA = ("data", "prompt_column", "data_subset", "data_split")
CHUNK = 256
"""Matches that are judged together, and by whose failures the breaker tells whether to go on."""
Answers = dict[str, dict[str, str]]
"""Model → prompt → answer."""


@click.command("compare", short_help="Have a judge compare models pairwise, and rate them.")
@click.argument("models", metavar="A B [C ...]", nargs=-1, required=True)
@config_options(
    "judge", "judge_api_base", "task", "goal", "data", "prompt_column", "data_subset", "data_split",
    "temperature", "max_new_tokens", "max_usd", "max_calls", "max_judge_failures", "concurrency", "cache_dir",
    "log_calls",
)  # fmt: skip
@click.option(
    "-n", "--n", "count", type=click.IntRange(min=1), default=100, show_default=True, help="Prompts, at most."
)
@batch_size_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder for answers and matches.")
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
    """Have a judge compare models pairwise on held-out prompts, each pair in both orders, and rate them.

    A, B, C are runs, model folders, hub ids, or files of responses (.jsonl, .csv, .parquet with prompt and
    response). The first run brings task and data along. Answers and matches are kept in the folder and every
    verdict is cached: a comparison that was stopped or killed goes on by the same command. Where nothing, or
    too little, could be judged, the exit code is 1.

    \b
    mpo-lite compare runs/essay-20250428-101500 Qwen/Qwen2.5-1.5B-Instruct --judge gpt-4o
    mpo-lite compare before.jsonl after.jsonl --task essay --judge gpt-4o --json
    """
    if len(models) < 2:
        raise ConfigError("compare: name at least two models, runs or files")
    for source in models:
        refuse_missing(source)
    config = _config(models, flags)
    task = task_of(config)
    folder = out or Path(f"comparison-{task.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    if folder.is_file():
        raise ConfigError(f"{folder}: is a file; name a folder by --out")
    with new_file(folder / "matches.jsonl", map(Path, models), overwrite) as fresh:
        told = _answers(models, flags, config, task, count, batch_size, folder)
        with sandboxed(config) as served:
            tally, spend = _play(served, task, told, fresh)
        summary: dict[str, Any] = rated(fresh)
    failed, failures = len(tally.failures), Counter(tally.failures)
    summary |= {"failed": failed, "failures": failures, "out": str(folder), **spend}
    summary["simulated"] = [role for role in config.simulated if role == "judge"]
    if as_json:
        echo(json.dumps(summary))
        return
    note = f"; {simulated_note(summary['simulated'])}" if summary["simulated"] else ""
    echo("\n".join(lines(summary)))
    matches = describe_failures(failed, tally.size, failures)
    echo(f"{matches}, spend {spend_in_words(spend['usd'])}; kept in {folder}{note}")


def _config(models: Sequence[str], flags: dict[str, Any]) -> Config:
    """The flags, with task and data of the first run among the models; not its judge, who trained it."""
    run = next((Path(name) for name in models if RunDir(Path(name)).exists()), None)
    own = RunDir.open(run, {})[1] if run else None
    given = {name: value for name, value in flags.items() if value is not None}
    brought: dict[str, Any] = {}
    if own:
        if "data" not in given:
            brought = {name: getattr(own, name) for name in _OF_THE_DATA}
        if not {"task", "goal"} & set(given):
            brought |= {"goal": own.goal} if own.goal else {"task": own.task}
    return load_config(None, brought | given)


def _answers(
    models: Sequence[str],
    flags: dict[str, Any],
    config: Config,
    task: Task,
    count: int,
    batch_size: int,
    folder: Path,
) -> Answers:
    """What each model answers to the same prompts; what the folder holds of it is taken from there."""
    files = {name: _read(Path(name)) for name in models if Path(name).is_file()}
    if files:
        first = next(iter(files.values()))
        prompts = [prompt for prompt in first if all(prompt in one for one in files.values())]
    else:
        found = load_prompts(task.data)
        # What is named here is asked whole where the task holds nothing out.
        prompts = list(found.held_out or (found.train if flags.get("data") else ()))
        if not prompts:
            raise ConfigError(
                f"compare: task {task.name} holds no prompts out; name others than those trained on by --data"
            )
    prompts = prompts[:count]
    told: Answers = {}
    for source in models:
        if source in files:
            name, found = Path(source).stem, files[source]
        else:
            policy = policy_at(source, flags)
            name, kept = policy.name, folder / f"answers-{_file_name(policy.name)}.jsonl"
            found = {row["prompt"]: row["response"] for row in read_rows(kept)}
            if missing := [prompt for prompt in prompts if prompt not in found]:
                found |= {prompt: one.text for prompt, one in answers(policy, task, missing, batch_size)}
                _keep(kept, found)
        if name in told:
            raise ConfigError(f"compare: two models are called {name!r}; rename a folder or file")
        told[name] = found
    shared = [prompt for prompt in prompts if all(prompt in one for one in told.values())]
    if not shared:
        raise ConfigError("compare: no prompt has answers of all models; give files with the same prompts")
    return {name: {prompt: one[prompt] for prompt in shared} for name, one in told.items()}


def _keep(file: Path, found: Mapping[str, str]) -> None:
    """Writes a model's answers, those that are in the file already among them."""
    rows = ({"prompt": prompt, "response": text} for prompt, text in found.items())
    write_atomically(file, "".join(f"{json.dumps(row)}\n" for row in rows))


def _play(config: Config, task: Task, told: Answers, file: Path) -> tuple[FailureTally, dict[str, Any]]:
    """Has all matches judged and written; how many were judged, and what it took."""
    models = ModelPool(config, task.persona, with_meta=False, waits_out=True)
    judge = PairwiseJudge(models.client, models.judges[0], task.persona, task.purpose)
    names = [pair for both in combinations(told, 2) for pair in (both, both[::-1])]
    matches = [(prompt, a, b) for prompt in next(iter(told.values())) for a, b in names]
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
        with activity("comparing", len(matches), "matches") as work:
            for start in range(0, len(matches), CHUNK):
                chunk = matches[start : start + CHUNK]
                pairs = [Pair(prompt, told[a][prompt], told[b][prompt]) for prompt, a, b in chunk]
                fresh = judge_twice(judge_pairs, pairs)
                played += fresh
                work.advance(len(chunk))
                if (tally := FailureTally.of(fresh, share)).broken:
                    tally.check("match", "matches")
        (tally := FailureTally.of(played, share)).check("match", "matches")
    except StopRun as stop:
        raise type(stop)(f"{stop}; what was judged is cached: go on by the same command") from None
    finally:
        models.close()
    judged = (
        (prompt, a, b, {"first": a, "second": b}.get(one.winner or "", "tie"))
        for (prompt, a, b), one in zip(matches, played, strict=True)
        if not one.failure
    )
    append_rows(file, (dict(zip(COLUMNS, match, strict=True)) for match in judged))
    return tally, models.spend()


def _read(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for _, row, response in responses(path):
        found.setdefault(row["prompt"], response)
    return found


def _file_name(name: str) -> str:
    return "".join(sign if sign.isalnum() or sign in "-._" else "-" for sign in name)
