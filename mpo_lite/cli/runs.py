"""``mpo-lite runs``: the runs there are, how far they came, and what they cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from mpo_lite.cli.options import json_option
from mpo_lite.cli.terminal import console, echo
from mpo_lite.errors import MPOError
from mpo_lite.report.summary import run_figures, run_state
from mpo_lite.runs import Run


@click.command("runs", short_help="List runs: state, step, gold and spend.")
@click.argument("folder", metavar="[DIR]", default="runs", type=click.Path(path_type=Path))
@json_option
def command(folder: Path, as_json: bool) -> None:
    """List the runs in DIR (default: runs): state, step, rubric version, reward, gold and spend.

    \b
    mpo-lite runs
    mpo-lite runs experiments --json
    """
    found = [_row(path.parent) for path in sorted(folder.glob("*/config.yaml"))]
    if as_json:
        echo(json.dumps({"runs": found}))
        return
    if not found:
        echo(f"no runs in {folder}; mpo-lite quickstart makes a first one")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "state", "batches", "rubric", "reward", "gold", "spend"):
        table.add_column(heading, justify="left" if heading in ("run", "state") else "right", overflow="fold")
    for row in found:
        gold, usd = row["gold"], row["usd"]
        table.add_row(
            row["name"],
            row["state"],
            f"{row['step']}/{row['steps']}",
            f"v{row['rubric_version']}",
            _number(row["reward"]),
            f"{_number(gold['start'])} → {_number(gold['end'])}" if gold else "–",
            "unpriced" if usd is None else f"${usd:.2f}",
        )
    console().print(table)


def _row(path: Path) -> dict[str, Any]:
    """A run's figures; a damaged one is told as such, and hides no other."""
    try:
        run, config = Run.open(path, {})
        figures = run_figures(run, config)
    except MPOError as error:
        return {"name": path.name, "state": f"damaged: {error}", "step": 0, "steps": 0, "rubric_version": 0,
                "reward": None, "gold": None, "usd": None}  # fmt: skip
    return {
        "name": path.name,
        "state": run_state(run, config, figures["steps"]),
        "step": figures["steps"],
        "steps": config.steps,
        "rubric_version": figures["rubric_version"],
        "reward": figures["reward"]["end"],
        "gold": figures["gold"],
        "usd": figures["usd"],
    }


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
