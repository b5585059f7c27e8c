"""``mpo-lite compare``: a judge compares models pairwise on held-out prompts, and they are rated."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import click

from mpo_lite.activity import activity
from mpo_lite.cli.job import SIMULATED, sandboxed
from mpo_lite.cli.options import config_options, json_option
from mpo_lite.cli.policies import answers, batch_size_option, policy_at
from mpo_lite.cli.rate import COLUMNS, lines, rated
from mpo_lite.cli.status import show_status
from mpo_lite.config import Config
from mpo_lite.errors import LOST, ConfigError, EndpointError, FailureKind, JudgeDown
from mpo_lite.files import JsonRow, append_rows, read_rows, write_atomically
from mpo_lite.judge.endpoints import Endpoints
from mpo_lite.judge.match import MatchJudge, Pair
from mpo_lite.llm import background
from mpo_lite.llm.models import SANDBOX
from mpo_lite.report.summary import not_judged
from mpo_lite.resolve import load_config
from mpo_lite.runs import Run
from mpo_lite.tasks.data import load_prompts, responses
from mpo_lite.tasks.spec import Task, task_of

CHUNK = 256
"""Matches that are judged together, and written then."""
Match = tuple[str, str, str]
"""Prompt, and the models whose answers to it stand first and second."""
Answers = dict[str, dict[str, str]]
"""Model → prompt → answer."""


@click.command("compare", short_help="Have a judge compare models pairwise, and rate them.")
@click.argument("models", metavar="A B [C ...]", nargs=-1, required=True)
@config_options(
    "judge", "judge_api_base", "task", "goal", "data", "temperature", "max_new_tokens", "max_usd",
    "max_calls", "concurrency", "cache_dir", "log_calls",
)  # fmt: skip
@click.option("--n", "count", type=click.IntRange(min=1), default=100, show_default=True, help="Prompts.")
@batch_size_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder for answers and matches.")
@json_option
@show_status
def command(
    models: tuple[str, ...], count: int, batch_size: int, out: Path | None, as_json: bool, **flags: Any
) -> None:
    """Have a judge compare models pairwise on held-out prompts, each pair in both orders, and rate them.

    A, B, C are runs, model folders, hub ids, or files of responses (.jsonl, .csv, .parquet with prompt and
    response). The first run brings task and data along. Answers and matches are kept in the folder and every
    verdict is cached: the same command goes on where it was stopped.

    \b
    mpo-lite compare runs/essay-20250428-101500 Qwen/Qwen2.5-1.5B-Instruct --judge gpt-4o
    mpo-lite compare before.jsonl after.jsonl --task essay --judge gpt-4o --json
    """
    if len(models) < 2:
        raise ConfigError("compare: name at least two models, runs or files")
    config = _config(models, flags)
    task = task_of(config)
    folder = out or Path(f"comparison-{task.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    folder.mkdir(parents=True, exist_ok=True)
    told = _answers(models, flags, config, task, count, batch_size, folder)
    with sandboxed(config) as served:
        failures, spend = _play(served, task, told, folder / "matches.jsonl")
    failed = failures.total()
    summary: dict[str, Any] = rated(folder / "matches.jsonl")
    summary |= {"failed": failed, "failures": failures, "out": str(folder), **spend}
    summary["simulated_judge"] = SANDBOX in config.model_names
    if as_json:
        click.echo(json.dumps(summary))
        return
    usd = "an unknown sum (unpriced)" if spend["usd"] is None else f"${spend['usd']:.4f}"
    note = f"; {SIMULATED}" if summary["simulated_judge"] else ""
    click.echo("\n".join(lines(summary)))
    matches = not_judged(failed, summary["matches"] + failed, failures)
    click.echo(f"{matches}, for {usd}; kept in {folder}{note}")


def _config(models: Sequence[str], flags: dict[str, Any]) -> Config:
    """The flags, with task and data of the first run among the models; not its judge, who trained it."""
    run = next((Path(name) for name in models if Run(Path(name)).exists()), None)
    own = Run.open(run, {})[1] if run else None
    given = {name: value for name, value in flags.items() if value is not None}
    brought: dict[str, Any] = {}
    if own:
        brought = {
            name: getattr(own, name) for name in ("data", "prompt_column", "data_subset", "data_split")
        }
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
            if any(prompt not in found for prompt in prompts):
                found = {prompt: one.text for prompt, one in answers(policy, task, prompts, batch_size)}
                write_atomically(kept, "")
                append_rows(kept, ({"prompt": prompt, "response": text} for prompt, text in found.items()))
        if name in told:
            raise ConfigError(f"compare: two models are called {name!r}; rename a folder or file")
        told[name] = found
    shared = [prompt for prompt in prompts if all(prompt in one for one in told.values())]
    if not shared:
        raise ConfigError("compare: no prompt has answers of all models; give files with the same prompts")
    return {name: {prompt: one[prompt] for prompt in shared} for name, one in told.items()}


def _play(
    config: Config, task: Task, told: Answers, file: Path
) -> tuple[Counter[FailureKind], dict[str, Any]]:
    """Has all matches judged and written; why some were not, and what it took."""
    models = Endpoints(config, task.persona, with_meta=False, waits_out=True)
    judge = MatchJudge(models.client, models.judges[0], task.persona, task.purpose)
    names = [pair for both in combinations(told, 2) for pair in (both, both[::-1])]
    matches = [(prompt, a, b) for prompt in next(iter(told.values())) for a, b in names]
    failures: Counter[FailureKind] = Counter()

    def play(chunk: Sequence[Match], lost: list[Match] | None = None) -> None:
        """Has matches judged and written; those that the server lost go to ``lost``, if there is such."""
        pairs = [Pair(prompt, told[a][prompt], told[b][prompt]) for prompt, a, b in chunk]
        rows: list[JsonRow] = []
        for match, played in zip(chunk, background.wait(judge.winners(pairs)), strict=True):
            prompt, a, b = match
            if played.winner:
                winner = {"first": a, "second": b, "tie": "tie"}[played.winner]
                rows.append(dict(zip(COLUMNS, (prompt, a, b, winner), strict=True)))
            elif lost is not None and played.failure in LOST:
                lost.append(match)
            elif played.failure:
                failures[played.failure] += 1
        append_rows(file, rows)

    try:
        models.log_calls(Path())
        models.check()
        write_atomically(file, "")
        with activity("comparing", len(matches), "matches") as work:
            lost: list[Match] = []
            for start in range(0, len(matches), CHUNK):
                play(matches[start : start + CHUNK], lost)
                work.advance(min(CHUNK, len(matches) - start))
            play(lost)
    except EndpointError as error:
        raise JudgeDown(str(error)) from None
    finally:
        models.close()
    return failures, models.spend()


def _read(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for _, row, response in responses(path):
        found.setdefault(row["prompt"], response)
    return found


def _file_name(name: str) -> str:
    return "".join(sign if sign.isalnum() or sign in "-._" else "-" for sign in name)
