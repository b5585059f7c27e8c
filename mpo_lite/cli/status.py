"""Shows what a command is doing: live lines on a terminal, plain lines elsewhere.

A thread reads ``mpo_lite.activity`` and writes. On a terminal, all other output of the process goes through
the same lock and removes the live lines first, so that the two do not garble each other.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TextIO, TypeVar, cast

from mpo_lite.activity import Activity, activities, hold
from mpo_lite.cli.terminal import console
from mpo_lite.loop.distributed import is_main
from mpo_lite.sanitize import escape_controls

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

FIRST_S, EVERY_S = 5.0, 10.0
"""Seconds without output after which a plain line says what is in progress: the first time, and later."""
SHORT_S = 2.0
"""Seconds for which an activity is not shown on a terminal."""
TICK_S = 0.2
"""Seconds between two looks at the activities."""

P = ParamSpec("P")
T = TypeVar("T")


def show_status(command: Callable[P, T]) -> Callable[P, T]:
    """Decorates a command so that its progress is shown on stderr while it runs."""

    @functools.wraps(command)
    def with_status(*arguments: P.args, **options: P.kwargs) -> T:
        with Status(sys.stderr):
            return command(*arguments, **options)

    return with_status


class Status:
    """Shows the activities while it is entered; only in the main process of a job.

    Args:
        stream: Where to write.

    Attributes:
        is_live: Whether it draws on a terminal, instead of writing plain lines.
        frame: Renders the activities on a terminal. None: a line for each one that takes a while.
    """

    def __init__(self, stream: TextIO) -> None:
        self.frame: Callable[[Sequence[Activity]], RenderableType] | None = None
        self._stream = stream
        self.is_live = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._live: Live | None = None
        self._line_open = False  # while other output has not ended its line, nothing can be drawn below it
        self._written = time.monotonic()
        self._announced: set[tuple[str, float]] = set()
        self._streams = (sys.stdout, sys.stderr)

    def __enter__(self) -> Status:
        if is_main():
            if self.is_live:
                self._streams = (sys.stdout, sys.stderr)
                sys.stdout, sys.stderr = map(self._guard, self._streams)
            self._thread = threading.Thread(target=self._run, name="mpo-lite-status", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread:
            self._over.set()
            self._thread.join()
            self._thread = None
            self.clear()
            if self.is_live:
                sys.stdout, sys.stderr = self._streams

    def print(self, what: RenderableType) -> None:
        """Writes permanent output above the live lines."""
        with self._lock:
            self.clear()
            self._console.print(what)
            self._written = time.monotonic()

    def clear(self) -> None:
        """Removes the live lines; the next tick draws them again."""
        with self._lock:
            if self._live:
                self._live.stop()
                self._live = None

    def write_above(self, stream: TextIO, text: str) -> int:
        """Writes other output to a stream on the same terminal."""
        with self._lock:
            self.clear()
            self._line_open = not text.endswith("\n") if text else self._line_open
            self._written = time.monotonic()
            return stream.write(text)

    @functools.cached_property
    def _console(self) -> Console:
        return console(self._stream)

    def _run(self) -> None:
        tick = self._draw if self.is_live else self._write_plain
        while not self._over.wait(TICK_S):
            with hold():
                tick(activities(), time.monotonic())

    def _draw(self, under_way: Sequence[Activity], now: float) -> None:
        """Updates the live lines."""
        from rich.live import Live

        with self._lock:
            busy = any(now - activity.started >= SHORT_S for activity in under_way)
            shown = busy or (bool(under_way) and now - self._written >= FIRST_S)
            if self._line_open or not (self.frame or shown):
                return self.clear()
            what = self.frame(under_way) if self.frame else _render_lines(under_way, now)
            if self._live is None:
                self._live = Live(
                    console=self._console,
                    auto_refresh=False,
                    transient=True,
                    redirect_stdout=False,
                    redirect_stderr=False,
                )
                self._live.start()
            self._live.update(what, refresh=True)

    def _write_plain(self, under_way: Sequence[Activity], now: float) -> None:
        """Writes a plain line if one is due."""
        silent = now - self._written
        names = {
            (activity.name, activity.started) for activity in under_way if now - activity.started >= FIRST_S
        }
        due = silent >= EVERY_S or (silent >= FIRST_S and names - self._announced)
        if under_way and due:
            with self._lock:
                self._stream.write(escape_controls(format_activities(under_way, now)) + "\n")
                self._stream.flush()
                self._written = now
            self._announced |= names

    def _guard(self, stream: TextIO) -> TextIO:
        return cast("TextIO", _Guarded(stream, self)) if stream.isatty() else stream


class _Guarded:
    """A standard stream while live lines are on its terminal."""

    def __init__(self, stream: TextIO, status: Status) -> None:
        self._stream, self._status = stream, status

    def write(self, text: str) -> int:
        return self._status.write_above(self._stream, text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def format_activities(under_way: Sequence[Activity], now: float) -> str:
    """All activities in one line, e.g. ``meta step: 50 s; judging: 37 of 96 answers, 42 s``."""
    return "; ".join(format_activity(activity, now) for activity in under_way)


def format_activity(activity: Activity, now: float) -> str:
    """An activity, e.g. ``judging: 37 of 96 answers, 42 s, about 1 min left``."""
    counts = activity.total is not None or activity.done
    of = "" if activity.total is None else f" of {activity.total:,}"
    left = activity.seconds_left()
    parts = [
        *([f"{activity.done:,}{of} {activity.unit}".rstrip()] if counts else []),
        _format_duration(now - activity.started),
    ]
    if left is not None and activity.done < (activity.total or 0):
        parts.append(f"about {_format_estimate(left)} left")
    return f"{activity.name}: {', '.join(parts)}"


def _render_lines(under_way: Sequence[Activity], now: float) -> RenderableType:
    """A spinner, then one line per activity."""
    from rich.console import Group
    from rich.text import Text

    sign = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"[int(now / TICK_S) % 10]
    return Group(
        *(
            Text(f"{sign} {format_activity(activity, now)}", "dim", no_wrap=True, overflow="ellipsis")
            for activity in under_way
        )
    )


def _format_duration(seconds: float) -> str:
    """Elapsed time: ``42 s``, ``3 min 20 s``, ``1 h 12 min``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _format_estimate(seconds: float) -> str:
    """Remaining time, no more exact than the estimate: ``7 s``, ``40 s``, ``3 min``, ``1.5 h``."""
    if seconds < 55:
        return f"{max(1, round(seconds)) if seconds < 10 else round(seconds, -1):.0f} s"
    if seconds < 90 * 60:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3600:.1f} h"
