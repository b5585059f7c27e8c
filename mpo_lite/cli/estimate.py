"""``mpo-lite estimate``: what a run will cost, before it is begun."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from mpo_lite.cli._options import FLAGS, GroupedCommand, config_options, json_option, overrides_option
from mpo_lite.cli.terminal import console, echo
from mpo_lite.config import Config
from mpo_lite.config_sources import load_config
from mpo_lite.loop.context import prepare_run
from mpo_lite.loop.estimate import estimate, paid_for
from mpo_lite.sandbox.stand_in import sandboxed

SHOWN = (
    "judge", "meta", "judge_api_base", "meta_api_base", "judge_mode", "replicates", "task", "goal", "data",
    "rubric", "baseline", "preset", "steps", "group_size", "interval", "meta_samples", "mode", "schedule",
    "strategy", "prescreen",
)  # fmt: skip
"""Settings that a run's cost depends on; the others are taken too: a command of ``train`` fits as it is."""
_ROWS = {"judge": "judge", "meta": "meta-judge", "total": "total"}
_FIGURES = {
    "calls": "calls",
    "input tokens": "input_tokens",
    "output tokens": "output_tokens",
    "USD": "usd",
}


@click.command("estimate", cls=GroupedCommand, short_help="Say what a run will cost, before it is begun.")
@click.argument("config_file", metavar="[CONFIG.yaml]", required=False, type=click.Path(path_type=Path))
@config_options(*FLAGS, hidden=set(FLAGS) - set(SHOWN))
@overrides_option
@json_option
def command(config_file: Path | None, overrides: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Say how many calls, tokens and USD a run will take, about and from low to high; nothing is sent.

    \b
    mpo-lite estimate experiment.yaml
    mpo-lite estimate --judge gpt-4o --meta claude --data my_prompts.jsonl --steps 300
    """
    found, caps = _estimate(load_config(config_file, flags, overrides))
    if as_json:
        echo(json.dumps(found))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("", ""):
        table.add_column(heading)
    for heading in ("low", "about", "high"):
        table.add_column(heading, justify="right")
    for key, name in _ROWS.items():
        row = found[key]
        for heading, figure in _FIGURES.items():
            low, high = row[figure] or (None, None)
            told = (_told(figure, value) for value in (low, row["middle"][figure], high))
            table.add_row(name if figure == "calls" else "", heading, *told)
    screen = console()
    screen.print(table)
    for line in caps:
        screen.print(f"\n{line}")
    if summary := found["meta_steps"]["summary"]:
        screen.print(f"\nMeta steps: {summary}")
    screen.print("\nWhat moves it most, all else being as in the middle:")
    for row in found["moves"]:
        figure = "usd" if "usd" in row else "tokens"
        low, high = (_told(figure, value) for value in row[figure])
        screen.print(f"- {row['factor']}: {low} to {high}{' tokens' * (figure == 'tokens')}")
    screen.print("\nAssumed:")
    for line in found["assumptions"]:
        screen.print(f"- {line}")


def _estimate(config: Config) -> tuple[dict[str, Any], list[str]]:
    """The estimate, and what the caps pay for."""
    with sandboxed(config) as served:
        session = prepare_run(served)
        try:
            found = estimate(session)
            return found, paid_for(session, found)
        finally:
            session.close()


def usd_span(pair: list[float] | None) -> str:
    """Low to high in USD, or that it is not known."""
    return "unpriced" if pair is None else f"${pair[0]:.2f}–{pair[1]:.2f}"


def _told(figure: str, value: float | None) -> str:
    """A figure for a person."""
    if value is None:
        return "unpriced"
    if figure == "usd":
        return f"${value:.2f}"
    return f"{value / 1e6:.2f} M" if value >= 1_000_000 else f"{value:,.0f}"
