"""``mpo-lite runs``: list runs with their progress and cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.cells import cell_len

from mpo_lite.cli._options import json_option
from mpo_lite.cli.terminal import echo
from mpo_lite.errors import MPOError
from mpo_lite.report.figures import compute_figures, describe_state
from mpo_lite.run_dir import RunDir
from mpo_lite.sanitize import escape_controls

_HEADINGS = ("run", "state", "batches", "rubric", "reward", "gold", "spend")
_TEXTS = 2
"""Text columns from the left, which are left-aligned; the figures after them are right-aligned."""


@click.command("runs", short_help="List runs with their state, progress, gold and spend.")
@click.argument("folder", metavar="[DIR]", default="runs", type=click.Path(path_type=Path))
@json_option
def command(folder: Path, as_json: bool) -> None:
    """List the runs in DIR (default: runs) with state, progress, rubric version, reward, gold and spend.

    \b
    mpo-lite runs
    mpo-lite runs experiments --json
    """
    paths = {path.parent for name in ("config.yaml", "env.json") for path in folder.glob(f"*/{name}")}
    runs = [_summarize_run(path) for path in sorted(paths)]
    if as_json:
        echo(json.dumps({"runs": runs}))
    elif runs:
        for line in _format_table(runs):
            echo(line)
    else:
        echo(f"no runs in {folder}; mpo-lite quickstart creates one")


def _summarize_run(path: Path) -> dict[str, Any]:
    """A run's figures, or why it cannot be read: one such run does not keep the others from being listed."""
    try:
        run, config = RunDir.open(path, {})
        figures = compute_figures(run, config)
        state = describe_state(run, config, figures["steps"])
        steps = None if run.begun_by == "serve" else config.steps  # a service has no last batch
    except MPOError as error:
        return {
            "name": path.name,
            "state": f"unreadable: {error}",
            "step": 0,
            "steps": 0,
            "rubric_version": 0,
            "reward": None,
            "gold": None,
            "usd": None,
        }
    return {
        "name": path.name,
        "state": state,
        "step": figures["steps"],
        "steps": steps,
        "rubric_version": figures["rubric_version"],
        "reward": figures["reward"],
        "gold": figures["gold"],
        "usd": figures["usd"],
    }


def _format_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The lines of the table. The terminal wraps them, which keeps the name at the start of a line whole."""
    sound = [_format_cells(row) for row in rows if row["reward"]]  # the others have no figures
    table = [_HEADINGS, *sound] if sound else []
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    unreadable = [
        f"{escape_controls(row['name'])}  {escape_controls(row['state'])}"
        for row in rows
        if not row["reward"]
    ]
    return [*(_align(cells, widths) for cells in table), *unreadable]


def _format_cells(row: dict[str, Any]) -> tuple[str, ...]:
    reward, gold, usd = row["reward"], row["gold"], row["usd"]
    return (
        escape_controls(row["name"]),
        row["state"],
        f"{row['step']}/{row['steps']}" if row["steps"] else str(row["step"]),
        f"v{row['rubric_version']}",
        _format_number(reward["end"]),
        f"{_format_number(gold['start'])}→{_format_number(gold['end'])}" if gold else "–",
        "unpriced" if usd is None else f"${usd:.4f}",
    )


def _align(cells: Sequence[str], widths: Sequence[int]) -> str:
    gaps = [" " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)]
    texts = [f"{cell}{gap} " for cell, gap in zip(cells[:_TEXTS], gaps, strict=False)]
    figures = [f"{gap}{cell}" for cell, gap in zip(cells[_TEXTS:], gaps[_TEXTS:], strict=True)]
    return " ".join([*texts, *figures])


def _format_number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
