"""``mpo-lite cache``: inspect and prune the response cache."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from mpo_lite.cli._options import config_options, json_option
from mpo_lite.cli.terminal import echo
from mpo_lite.config_sources import load_config
from mpo_lite.errors import ConfigError
from mpo_lite.llm.cache import AnswerCache
from mpo_lite.sanitize import pluralize

_DAY_S = 86_400


@click.group("cache", short_help="Inspect or prune the response cache.")
def command() -> None:
    """Inspect or prune the cached answers of judges and meta-judges, which all runs share. Removed answers
    have to be paid for again.

    \b
    mpo-lite cache stats
    """


@command.command("stats")
@config_options("cache_dir")
@json_option
def stats(cache_dir: Path | None, as_json: bool) -> None:
    """Show how many answers are cached, their models, age and size.

    \b
    mpo-lite cache stats
    """
    with _open_cache(cache_dir) as cache:
        entries = [entry for _, entry in cache.entries()]
        rows, size = cache.size()
        times = [entry["time"] for entry in entries if "time" in entry]
        summary: dict[str, Any] = {
            "directory": str(cache.directory),
            "answers": len(entries),
            "unreadable": rows - len(entries),
            "bytes": size,
            "oldest_days": round((time.time() - min(times)) / _DAY_S, 2) if times else None,
            "newest_days": round((time.time() - max(times)) / _DAY_S, 2) if times else None,
            "models": dict(Counter(str(entry.get("model")) for entry in entries).most_common()),
        }
    if as_json:
        echo(json.dumps(summary))
        return
    echo(f"{summary['directory']}: {summary['answers']} answers, {size / 1e6:.1f} MB")
    if times:
        echo(f"from {summary['oldest_days']:.1f} to {summary['newest_days']:.1f} days ago")
    for model, count in summary["models"].items():
        echo(f"  {count:>8}  {model}")
    if summary["unreadable"]:
        echo(
            f"{summary['unreadable']} rows cannot be read and are ignored; mpo-lite cache clear removes them"
        )


@command.command("prune")
@click.option(
    "--older-than", type=click.FloatRange(0), metavar="DAYS", help="Remove answers older than this."
)
@click.option("--model", help="Remove the answers of this model, by its full name as stats shows it.")
@config_options("cache_dir")
@json_option
def prune(older_than: float | None, model: str | None, cache_dir: Path | None, as_json: bool) -> None:
    """Remove answers by age, by model, or by both.

    \b
    mpo-lite cache prune --older-than 90
    mpo-lite cache prune --model openai/gpt-4o-2024-11-20
    """
    if older_than is None and model is None:
        raise ConfigError(
            "nothing to prune: give --older-than DAYS, --model NAME, or both; cache clear removes all"
        )
    before = time.time() - (older_than or 0.0) * _DAY_S
    with _open_cache(cache_dir) as cache:
        entries = list(cache.entries())
        models = {str(entry.get("model")) for _, entry in entries}
        if model is not None and model not in models:
            held = f"it has: {', '.join(sorted(models))}" if models else "it is empty"
            raise ConfigError(f"{cache.directory}: no answers of {model}; {held}")
        chosen = [
            key
            for key, entry in entries
            if (older_than is None or entry.get("time", 0.0) < before)
            and (model is None or entry.get("model") == model)
        ]
        _print_removed(cache.remove(chosen), as_json)


@command.command("clear")
@click.confirmation_option("--yes", prompt="Remove all answers? They will have to be paid for again")
@config_options("cache_dir")
@json_option
def clear(cache_dir: Path | None, as_json: bool) -> None:
    """Remove all answers.

    \b
    mpo-lite cache clear --yes
    """
    with _open_cache(cache_dir) as cache:
        _print_removed(cache.clear(), as_json)


@contextmanager
def _open_cache(cache_dir: Path | None) -> Generator[AnswerCache]:
    directory = load_config(given={"cache_dir": cache_dir}).cache_dir
    if not directory.exists():
        raise ConfigError(f"{directory}: no cache here; set --cache-dir or MPO_CACHE_DIR")
    cache = AnswerCache(directory)
    try:
        yield cache
    finally:
        cache.close()


def _print_removed(removed: int, as_json: bool) -> None:
    echo(json.dumps({"removed": removed}) if as_json else f"{pluralize(removed, 'answer')} removed")
