"""``mpo-lite estimate``: what a run will cost, before it is begun."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from mpo_lite.cli.job import FLAGS, sandboxed
from mpo_lite.cli.options import GroupedCommand, config_options, json_option, overrides_option
from mpo_lite.cli.terminal import console, echo
from mpo_lite.config import Config
from mpo_lite.resolve import load_config
from mpo_lite.training.estimate import estimate
from mpo_lite.training.session import Session

SHOWN = (
    "judge", "meta", "judge_api_base", "meta_api_base", "judge_mode", "replicates", "task", "goal", "data",
    "rubric", "baseline", "preset", "steps", "group_size", "interval", "meta_samples", "mode", "schedule",
    "strategy", "prescreen",
)  # fmt: skip
"""Settings that a run's cost depends on; the others are taken too: a command of ``train`` fits as it is."""
_ROWS = {"judge": "judge", "meta": "meta-judge", "total": "total"}


@click.command("estimate", cls=GroupedCommand, short_help="Say what a run will cost, before it is begun.")
@click.argument("config_file", metavar="[CONFIG.yaml]", required=False, type=click.Path(path_type=Path))
@config_options(*FLAGS, hidden=set(FLAGS) - set(SHOWN))
@overrides_option
@json_option
def command(config_file: Path | None, overrides: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Say how many calls, tokens and USD a run will take, from low to high; nothing is sent.

    \b
    mpo-lite estimate experiment.yaml
    mpo-lite estimate --judge gpt-4o --meta claude --data my_prompts.jsonl --steps 300
    """
    found = _estimate(load_config(config_file, flags, overrides))
    if as_json:
        echo(json.dumps(found))
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for heading in ("calls", "input tokens", "output tokens", "USD"):
        table.add_column(heading, justify="right")
    for key, name in _ROWS.items():
        row = found[key]
        counts = (span(row[column]) for column in ("calls", "input_tokens", "output_tokens"))
        table.add_row(name, *counts, usd_span(row["usd"]))
    screen = console()
    screen.print(table)
    if summary := found["meta_steps"]["summary"]:
        screen.print(f"\nMeta steps: {summary}")
    screen.print("\nAssumed:")
    for line in found["assumptions"]:
        screen.print(f"- {line}")


def _estimate(config: Config) -> dict[str, Any]:
    with sandboxed(config) as served:
        session = Session(served)
        try:
            return estimate(session)
        finally:
            session.close()


def span(pair: list[int]) -> str:
    """Low to high, for a person."""
    low, high = pair
    if high >= 1_000_000:
        return f"{low / 1e6:.2f}–{high / 1e6:.2f} M"
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def usd_span(pair: list[float] | None) -> str:
    """Low to high in USD, or that it is not known."""
    return "unpriced" if pair is None else f"${pair[0]:.2f}–{pair[1]:.2f}"
