"""``mpo-lite alarms``: check any file of responses for signs of reward hacking."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import click

from mpo_lite.activity import activity
from mpo_lite.alarms.alarms import ReferenceWindow, check_alarms, list_skipped_checks
from mpo_lite.alarms.features import ResponseFeatures
from mpo_lite.cli._options import json_option
from mpo_lite.cli.status import show_status
from mpo_lite.cli.terminal import echo
from mpo_lite.errors import TaskError
from mpo_lite.loop.alarm_window import WINDOW, judged_reward, leave_out_verified
from mpo_lite.run_dir import RunDir
from mpo_lite.sanitize import pluralize
from mpo_lite.tasks.data import read_responses

_SHOWN = 5
"""Responses that are named for each alarm."""


@click.command("alarms", short_help="Check a file of responses for signs of reward hacking.")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--before",
    metavar="FILE|RUN",
    type=click.Path(path_type=Path),
    help="Earlier, unhacked responses to compare with; of a run, those of its first batches.",
)
@click.option("--fail", is_flag=True, help="Exit with code 1 if an alarm is raised.")
@json_option
@click.pass_context
@show_status
def command(context: click.Context, file: Path, before: Path | None, fail: bool, as_json: bool) -> None:
    """Check responses for signs of reward hacking in lengths, phrases, languages, copies and rewards.

    Both files are .jsonl, .csv or .parquet with the columns prompt and response (or completion) and,
    optionally, id, reward and frozen (the reward under the first rubric), both from 0 to 1. A run's
    rollouts.jsonl is such a file. Checks of lengths, phrases and reward drift need --before; without it
    they are skipped, and the output says so.

    \b
    mpo-lite alarms responses.jsonl --before first_responses.jsonl
    mpo-lite alarms runs/essay-20250428-101500/rollouts.jsonl --before runs/essay-20250428-101500 --json
    """
    window = _read_responses(file)
    with activity(f"checking {pluralize(len(window), 'response')}"):
        earlier = ReferenceWindow(_read_earlier(before)) if before else None
        raised = check_alarms(window, earlier)
    skipped = list_skipped_checks(window, earlier)
    if as_json:
        summary = {
            "alarms": [asdict(alarm) for alarm in raised],
            "rows": len(window),
            "before_rows": len(earlier.rows) if earlier else 0,
            "skipped": skipped,
        }
        echo(json.dumps(summary))
    else:
        for alarm in raised:
            echo(f"{alarm.name}: {alarm.value:.3g} (threshold {alarm.threshold:.3g}); {alarm.detail}")
            echo(f"  seen in {', '.join(alarm.evidence[:_SHOWN])}{' …' * (len(alarm.evidence) > _SHOWN)}")
        for line in skipped:
            echo(line)
        total = f"{pluralize(len(raised), 'alarm')} in {pluralize(len(window), 'response')}"
        echo(total if earlier else f"{total}; some checks were skipped: give --before, a file or a run")
    if fail and raised:
        context.exit(1)


def _read_earlier(path: Path) -> list[ResponseFeatures]:
    """The responses of a file, or of the first batches that a run's judge scored."""
    if not path.exists():
        raise TaskError(f"{path}: no such file or run")
    if not path.is_dir():
        return _read_responses(path)
    run, _ = RunDir.open(path, {})
    rollouts = leave_out_verified(run.read_rollouts())
    if not rollouts:
        raise TaskError(f"{path}: the run has no judged answers yet")
    until = rollouts[:WINDOW][-1].batch
    return [
        ResponseFeatures(
            rollout.id,
            rollout.prompt,
            rollout.completion,
            judged_reward(rollout),
            # Under the first rubric the reward is also the frozen one.
            judged_reward(rollout) if rollout.version == 0 else None,
        )
        for rollout in rollouts
        if rollout.batch <= until
    ]


def _read_responses(path: Path) -> list[ResponseFeatures]:
    rows = [_parse_response(path, *response) for response in read_responses(path)]
    if not rows:
        raise TaskError(f"{path}: contains no responses")
    return rows


def _parse_response(path: Path, number: int, entry: dict[str, Any], response: str) -> ResponseFeatures:
    name = str(entry.get("id") or f"row {number}")
    reward, frozen = (_parse_reward(path, number, entry, key) for key in ("reward", "frozen"))
    if _is_unjudged(entry):
        reward = frozen = None
    return ResponseFeatures(name, entry["prompt"], response, reward, frozen)


def _is_unjudged(entry: dict[str, Any]) -> bool:
    """Whether a row of a run, or of ``score``, has its reward from a rule or the verifier; see
    ``judged_reward``.
    """
    verdict: Any = entry.get("verdict")
    if isinstance(verdict, dict):
        return cast(dict[str, Any], verdict).get("source") in ("rule", "verifier")
    # What score writes has levels only of answers that the judge scored.
    return isinstance(entry.get("rules"), dict) and entry.get("criteria") == {}


def _parse_reward(path: Path, number: int, entry: dict[str, Any], key: str) -> float | None:
    """A reward; None where the row has none. A .csv holds it as text."""
    value = entry.get(key)
    if value is None or value == "":
        return None
    try:
        reward = float(value)
    except (TypeError, ValueError):
        reward = -1.0
    if isinstance(value, bool) or not 0 <= reward <= 1:
        raise TaskError(f"{path}: row {number}: {key!r} must be a number from 0 to 1, or empty")
    return reward
