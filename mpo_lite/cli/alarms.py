"""``mpo-lite alarms``: look for signs of reward hacking in any file of responses."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mpo_lite.cli.options import json_option
from mpo_lite.errors import TaskError
from mpo_lite.monitor.alarms import Reference, check
from mpo_lite.monitor.rows import Row
from mpo_lite.tasks.data import responses

_SHOWN = 5


@click.command("alarms", short_help="Look for signs of reward hacking in a file of responses.")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    help="Responses that are as they should be, to compare with.",
)
@click.option("--fail", is_flag=True, help="Exit with 1 when an alarm is raised.")
@json_option
@click.pass_context
def command(context: click.Context, file: Path, baseline: Path | None, fail: bool, as_json: bool) -> None:
    """Look for signs of reward hacking in responses: their lengths, phrases, languages, copies and rewards.

    FILE and the baseline are .jsonl, .csv or .parquet with the columns prompt and response (or completion)
    and, where they are known, id, reward and frozen (what the first rubric gives), both from 0 to 1. A run's
    rollouts.jsonl is such a file. Lengths, phrases and drifting rewards need a baseline.

    \b
    mpo-lite alarms responses.jsonl --baseline first_responses.jsonl
    mpo-lite alarms runs/essay-20250428-101500/rollouts.jsonl --json
    """
    window = _read(file)
    reference = Reference(_read(baseline)) if baseline else None
    raised = check(window, reference)
    if as_json:
        found = {
            "alarms": [asdict(alarm) for alarm in raised],
            "rows": len(window),
            "baseline_rows": len(reference.rows) if reference else 0,
        }
        click.echo(json.dumps(found))
    else:
        for alarm in raised:
            click.echo(f"{alarm.name}: {alarm.value:.3g} (threshold {alarm.threshold:.3g}); {alarm.detail}")
            click.echo(
                f"  seen in {', '.join(alarm.evidence[:_SHOWN])}{' …' * (len(alarm.evidence) > _SHOWN)}"
            )
        click.echo(f"{len(raised)} alarms in {len(window)} responses")
    if fail and raised:
        context.exit(1)


def _read(path: Path) -> list[Row]:
    rows = [_row(path, *each) for each in responses(path)]
    if not rows:
        raise TaskError(f"{path}: holds no responses")
    return rows


def _row(path: Path, number: int, entry: dict[str, Any], response: str) -> Row:
    name = str(entry.get("id") or f"row {number}")
    figures = (_number(path, number, entry, key) for key in ("reward", "frozen"))
    return Row(name, entry["prompt"], response, *figures)


def _number(path: Path, number: int, entry: dict[str, Any], key: str) -> float | None:
    """A reward; None where the row has none. Files of text columns hold it as text."""
    value = entry.get(key)
    if value is None or value == "":
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = -1.0
    if isinstance(value, bool) or not 0 <= found <= 1:
        raise TaskError(f"{path}: row {number}: {key!r} must be a number from 0 to 1, or empty")
    return found
