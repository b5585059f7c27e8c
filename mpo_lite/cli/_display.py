"""Live progress: a panel on a terminal, plain lines elsewhere, with the same content."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from mpo_lite.activity import Activity, find_activity
from mpo_lite.cli.judging import format_spend
from mpo_lite.cli.status import Status, format_activities
from mpo_lite.errors import failures_in_words
from mpo_lite.report.figures import (
    describe_changes,
    describe_reason,
    format_alarm_name,
    shorten_detail,
)
from mpo_lite.sanitize import pluralize
from mpo_lite.training.job import TRAINING

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 48
_PURPOSES = ("judge", "gate", "meta", "audit")
_STEPS = {"meta": "meta step", "rollback": "rollback", "pin": "pin", "refine": "refinement"}


class Display:
    """Shows the events of a run as they happen, and on a terminal the activities between them.

    Args:
        steps: Generation batches of the whole run; None where it has no end.
        status: Where to write.
    """

    def __init__(self, steps: int | None, status: Status) -> None:
        self._status = status
        self._steps = steps
        self._gold: list[float] = []
        self._rewards: list[tuple[int, float]] = []
        self._figures: list[tuple[str, str]] = []
        self._bar = Progress(TextColumn("[bold]batch"), MofNCompleteColumn(), BarColumn(None), expand=True)
        self._task = self._bar.add_task("train", total=steps)

    def __call__(self, kind: str, row: dict[str, Any]) -> None:
        """Shows one event; see ``mpo_lite.loop.session.Observer``."""
        if kind == "note":
            self._status.print(Text(row["text"], style="dim"))
        elif kind == "gold":
            self._gold.append(row["gold"])
            if row["batch"] == 0:
                self._status.print(
                    Text(
                        f"gold before training: {row['gold']:.3f} on {pluralize(row['n'], 'held-out prompt')}"
                    )
                )
        elif kind == "meta":
            self._status.print(_format_meta_step(row))
        elif kind == "alarm":
            self._status.print(_format_alarm(row))
        elif kind == "step":
            self._show_batch(row)

    def close(self) -> None:
        """Leaves the last panel on the screen."""
        if self._status.frame:
            self._status.frame = None
            self._status.print(self._panel(()))

    def _show_batch(self, row: dict[str, Any]) -> None:
        if row["reward"] is not None and row["judge"]:
            self._rewards.append((row["version"], row["reward"]))
        left = [("left", self._format_time_left())] if self._steps else []
        self._figures = [*_format_batch(row, self._gold), *left]
        if self._status.is_live:
            self._bar.update(self._task, completed=row["batch"])
            self._status.frame = self._panel
        else:
            line = "  ".join(f"{name} {value}" for name, value in self._figures)
            of = f"/{self._steps}" if self._steps else ""
            self._status.print(Text(f"batch {row['batch']}{of}  {line}"))

    def _panel(self, under_way: Sequence[Activity]) -> Panel:
        """The last batch, and the activities since."""
        table = Table.grid(padding=(0, 2), expand=True)
        for _ in range(5):
            table.add_column()
        cells = [Text.assemble((f"{name} ", "dim"), (value, "bold")) for name, value in self._figures]
        for start in range(0, len(cells), 5):
            table.add_row(*cells[start : start + 5])
        lines: list[Any] = [self._bar, table]
        if self._rewards:
            version = self._rewards[-1][0]
            rewards = [reward for number, reward in self._rewards if number == version]
            lines.append(Text.assemble((f"reward under v{version} ", "dim"), (_draw_bars(rewards), "blue")))
        if self._gold:
            lines.append(Text.assemble(("gold             ", "dim"), (_draw_bars(self._gold), "yellow")))
        if under_way:
            # The bar already shows the training itself.
            inner = [activity for activity in under_way if activity.name != TRAINING]
            doing = format_activities(inner, time.monotonic()) or "updating the policy"
            lines.append(Text(doing, "dim", no_wrap=True, overflow="ellipsis"))
        return Panel(Group(*lines), title="mpo-lite", title_align="left")

    def _format_time_left(self) -> str:
        """Time left at the recent pace, without the first batch, which includes the warm-up."""
        training = find_activity(TRAINING)
        seconds = training.seconds_left() if training else None
        return "…" if seconds is None else f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def _format_batch(row: dict[str, Any], gold: list[float]) -> list[tuple[str, str]]:
    usd = format_spend(row["usd"], row.get("unmetered", 0))
    failed, kinds = row["judge_failures"], failures_in_words(row.get("failures", {}))
    by = f"v{row['version']}" if row["judge"] else "verifier"
    return [
        ("reward", f"{_format_number(row['reward'])} ({by})"),
        ("gold", _format_number(gold[-1] if gold else None)),
        ("kl", _format_number(row.get("kl"))),
        ("spread", _format_number(row["spread"])),
        *([("audit gap", _format_gap(row))] if row.get("audit_gap") is not None else []),
        ("words", f"{row['words']:.0f}"),
        ("failed", f"{failed} ({kinds})" if kinds else str(failed)),
        *([("alarms", ", ".join(map(format_alarm_name, row["alarms"])))] if row.get("alarms") else []),
        ("calls so far", str(sum(row.get(f"{purpose}_calls", 0) for purpose in _PURPOSES))),
        ("cache hits so far", str(row["cache_hits"])),
        ("spend so far", usd),
    ]


def _format_gap(row: dict[str, Any]) -> str:
    return f"{row['audit_gap']:+.2f} [{row['audit_low']:+.2f}, {row['audit_high']:+.2f}]"


def _format_alarm(row: dict[str, Any]) -> Text:
    detail = shorten_detail(row["detail"], most=3)
    return Text(f"alarm after batch {row['batch']}: {format_alarm_name(row['name'])}: {detail}", "red")


def _format_meta_step(row: dict[str, Any]) -> Text:
    what = _STEPS[row["kind"]]
    sources = [row.get("recheck", {}), *row.get("refused", [])]
    objections = [[objection["text"] for objection in source.get("objections", [])] for source in sources]
    reason = describe_reason(row["reason"], objections)
    if row["status"] != "accepted":
        return Text(
            f"{what} after batch {row['batch']}: rubric v{row['version']} unchanged ({reason})",
            "yellow",
        )
    parts = describe_changes(row["added"], row["changed"], row["dropped"])
    if row["kind"] != "meta":
        parts += f" ({reason})"
    return Text(f"{what} after batch {row['batch']}: rubric v{row['version']}: {parts}", "green")


def _format_number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _draw_bars(values: list[float]) -> str:
    """Values in [0, 1] as a line of bars."""
    return "".join(_BARS[min(7, int(value * 8))] for value in values[-_WIDTH:])
