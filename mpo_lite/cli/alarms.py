"""``mpo-lite alarms``: look for signs of reward hacking in any file of responses."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mpo_lite.activity import activity
from mpo_lite.alarms.alarms import ReferenceWindow, check_alarms, not_looked_at
from mpo_lite.alarms.features import ResponseFeatures
from mpo_lite.cli._options import json_option
from mpo_lite.cli.status import show_status
from mpo_lite.cli.terminal import echo
from mpo_lite.errors import TaskError
from mpo_lite.loop.alarm_window import WINDOW
from mpo_lite.run_dir import RunDir
from mpo_lite.sanitize import pluralize
from mpo_lite.tasks.data import responses

_SHOWN = 5


@click.command("alarms", short_help="Look for signs of reward hacking in a file of responses.")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--baseline",
    metavar="FILE|RUN",
    type=click.Path(path_type=Path),
    help="Responses that are as they should be, to compare with; of a run, those of its first batches.",
)
@click.option("--fail", is_flag=True, help="Exit with 1 when an alarm is raised.")
@json_option
@click.pass_context
@show_status
def command(context: click.Context, file: Path, baseline: Path | None, fail: bool, as_json: bool) -> None:
    """Look for signs of reward hacking in responses: their lengths, phrases, languages, copies and rewards.

    FILE and the baseline are .jsonl, .csv or .parquet with the columns prompt and response (or completion)
    and, where they are known, id, reward and frozen (what the first rubric gives), both from 0 to 1. A run's
    rollouts.jsonl is such a file. Lengths, phrases and drifting rewards need a baseline; without one no alarm
    is no all-clear, and what was not looked at is told.

    \b
    mpo-lite alarms responses.jsonl --baseline first_responses.jsonl
    mpo-lite alarms runs/essay-20250428-101500/rollouts.jsonl --baseline runs/essay-20250428-101500 --json
    """
    window = _read(file)
    with activity(f"looking at {pluralize(len(window), 'response')}"):
        reference = ReferenceWindow(_baseline(baseline)) if baseline else None
        raised = check_alarms(window, reference)
    unseen = not_looked_at(window, reference)
    if as_json:
        found = {
            "alarms": [asdict(alarm) for alarm in raised],
            "rows": len(window),
            "baseline_rows": len(reference.rows) if reference else 0,
            "not_looked_at": unseen,
        }
        echo(json.dumps(found))
    else:
        for alarm in raised:
            echo(f"{alarm.name}: {alarm.value:.3g} (threshold {alarm.threshold:.3g}); {alarm.detail}")
            echo(f"  seen in {', '.join(alarm.evidence[:_SHOWN])}{' …' * (len(alarm.evidence) > _SHOWN)}")
        for line in unseen:
            echo(line)
        said = f"{pluralize(len(raised), 'alarm')} in {pluralize(len(window), 'response')}"
        echo(said if reference else f"{said}, which is no all-clear: give a --baseline, a file or a run")
    if fail and raised:
        context.exit(1)


def _baseline(path: Path) -> list[ResponseFeatures]:
    """Responses to compare with: those of a file, or of a run's first batches, as its own alarms have it."""
    if not path.exists():
        raise TaskError(f"{path}: no such file or run")
    if not path.is_dir():
        return _read(path)
    run, _ = RunDir.open(path, {})
    rollouts = run.journalled()
    if not rollouts:
        raise TaskError(f"{path}: the run has no answers yet")
    until = rollouts[:WINDOW][-1].batch
    return [
        # Under the first rubric the reward is its score.
        ResponseFeatures(
            one.id, one.prompt, one.completion, one.reward, one.reward if one.version == 0 else None
        )
        for one in rollouts
        if one.batch <= until
    ]


def _read(path: Path) -> list[ResponseFeatures]:
    rows = [_row(path, *each) for each in responses(path)]
    if not rows:
        raise TaskError(f"{path}: holds no responses")
    return rows


def _row(path: Path, number: int, entry: dict[str, Any], response: str) -> ResponseFeatures:
    name = str(entry.get("id") or f"row {number}")
    figures = (_number(path, number, entry, key) for key in ("reward", "frozen"))
    return ResponseFeatures(name, entry["prompt"], response, *figures)


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
