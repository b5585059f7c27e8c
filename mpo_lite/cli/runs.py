"""``mpo-lite runs``: the runs there are, how far they came, and what they cost."""

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
"""Columns that are texts, from the left; the others are figures."""


@click.command("runs", short_help="List runs: state, step, gold and spend.")
@click.argument("folder", metavar="[DIR]", default="runs", type=click.Path(path_type=Path))
@json_option
def command(folder: Path, as_json: bool) -> None:
    """List the runs in DIR (default: runs): state, step, rubric version, reward, gold and spend.

    \b
    mpo-lite runs
    mpo-lite runs experiments --json
    """
    begun = {path.parent for name in ("config.yaml", "env.json") for path in folder.glob(f"*/{name}")}
    found = [_row(path) for path in sorted(begun)]
    if as_json:
        echo(json.dumps({"runs": found}))
    elif found:
        for line in _lines(found):
            echo(line)
    else:
        echo(f"no runs in {folder}; mpo-lite quickstart makes a first one")


def _row(path: Path) -> dict[str, Any]:
    """A run's figures; a damaged one is told as such, and hides no other."""
    try:
        run, config = RunDir.open(path, {})
        figures = compute_figures(run, config)
    except MPOError as error:
        return {"name": path.name, "state": f"damaged: {error}", "step": 0, "steps": 0, "rubric_version": 0,
                "reward": None, "gold": None, "usd": None}  # fmt: skip
    return {
        "name": path.name,
        "state": describe_state(run, config, figures["steps"]),
        "step": figures["steps"],
        "steps": config.steps,
        "rubric_version": figures["rubric_version"],
        "reward": figures["reward"]["end"],
        "gold": figures["gold"],
        "usd": figures["usd"],
    }


def _lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The table. Its lines are left to the terminal to wrap: a name, first on its line, stays whole."""
    sound = [_cells(row) for row in rows if row["steps"]]  # of a damaged run nothing is known
    table = [_HEADINGS, *sound] if sound else []
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    damaged = [
        f"{escape_controls(row['name'])}  {escape_controls(row['state'])}" for row in rows if not row["steps"]
    ]
    return [*(_line(cells, widths) for cells in table), *damaged]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    gold, usd = row["gold"], row["usd"]
    return (
        escape_controls(row["name"]),
        row["state"],
        f"{row['step']}/{row['steps']}",
        f"v{row['rubric_version']}",
        _number(row["reward"]),
        f"{_number(gold['start'])}→{_number(gold['end'])}" if gold else "–",
        "unpriced" if usd is None else f"${usd:.4f}",
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    gaps = [" " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)]
    texts = [f"{cell}{gap} " for cell, gap in zip(cells[:_TEXTS], gaps, strict=False)]
    figures = [f"{gap}{cell}" for cell, gap in zip(cells[_TEXTS:], gaps[_TEXTS:], strict=True)]
    return " ".join([*texts, *figures])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
