"""``mpo-lite estimate``: estimate what a run will cost, before it starts."""

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
    "judge", "meta", "judge_api_base", "meta_api_base", "audit_judge", "audit_share", "judge_mode",
    "replicates", "task", "goal", "data",
    "rubric", "baseline", "method", "steps", "group_size", "interval", "meta_samples", "use_gate", "schedule",
    "strategy", "prescreen",
)  # fmt: skip
"""Settings that a run's cost depends on. The others are accepted too, so that any ``train`` command works."""
_ROWS = {"judge": "judge", "meta": "meta-judge", "audit": "audit judge", "total": "total"}
_FIGURES = {
    "calls": "calls",
    "input tokens": "input_tokens",
    "output tokens": "output_tokens",
    "USD": "usd",
}


@click.command("estimate", cls=GroupedCommand, short_help="Estimate a run's cost before starting it.")
@click.argument("config_file", metavar="[CONFIG.yaml]", required=False, type=click.Path(path_type=Path))
@config_options(hidden=set(FLAGS) - set(SHOWN))
@overrides_option
@json_option
def command(config_file: Path | None, overrides: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Estimate the calls, tokens and USD of a run, with a low and a high figure. Nothing is sent.

    \b
    mpo-lite estimate experiment.yaml
    mpo-lite estimate --judge gpt-4o --meta claude --data my_prompts.jsonl --steps 300
    """
    costs, caps = _estimate_run(load_config(config_file, flags, overrides))
    if as_json:
        echo(json.dumps(costs))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("", ""):
        table.add_column(heading)
    for heading in ("low", "about", "high"):
        table.add_column(heading, justify="right")
    for key, name in _ROWS.items():
        row = costs[key]
        if key == "audit" and not row["calls"][1]:
            continue
        for heading, figure in _FIGURES.items():
            low, high = row[figure] or (None, None)
            cells = (_format_figure(figure, value) for value in (low, row["middle"][figure], high))
            table.add_row(name if figure == "calls" else "", heading, *cells)
    screen = console()
    screen.print(table)
    for line in caps:
        screen.print(f"\n{line}")
    if summary := costs["meta_steps"]["summary"]:
        screen.print(f"\nMeta steps: {summary}")
    screen.print("\nLargest sources of uncertainty, each with all else at its middle value:")
    for row in costs["moves"]:
        figure = "usd" if "usd" in row else "tokens"
        low, high = (_format_figure(figure, value) for value in row[figure])
        screen.print(f"- {row['factor']}: {low} to {high}{' tokens' * (figure == 'tokens')}")
    screen.print("\nAssumptions:")
    for line in costs["assumptions"]:
        screen.print(f"- {line}")


def _estimate_run(config: Config) -> tuple[dict[str, Any], list[str]]:
    """The estimate, and what the caps cover."""
    with sandboxed(config) as served:
        run = prepare_run(served)
        try:
            costs = estimate(run)
            return costs, paid_for(run, costs)
        finally:
            run.close()


def format_usd_range(pair: list[float] | None) -> str:
    """Low to high in USD, or that it is unknown."""
    return "unpriced" if pair is None else f"${pair[0]:.2f}–{pair[1]:.2f}"


def _format_figure(figure: str, value: float | None) -> str:
    if value is None:
        return "unpriced"
    if figure == "usd":
        return f"${value:.2f}"
    return f"{value / 1e6:.2f} M" if value >= 1_000_000 else f"{value:,.0f}"
