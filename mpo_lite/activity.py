"""What this process is doing right now, and its progress, for a display to read.

Work that may take more than a few seconds runs inside ``activity``. As with ``logging``, that alone shows
nothing: a command line reads ``activities`` from a separate thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

_MARK_S, _MARKS = 1.0, 60
"""Seconds between two marks, and number of marks kept: the pace is measured over the last minute or more."""


@dataclass(eq=False)
class Activity:
    """One piece of work in progress.

    Attributes:
        name: What is being done, for display: ``judging``, ``generating``.
        total: Total number of steps; None if unknown.
        unit: What a step is, in the plural: ``answers``, ``tokens``; empty if the name says it.
        done: Steps done.
        started: When it began, by ``time.monotonic``.
        marks: Recent times with the steps done by then.
        users: Number of blocks that are working on it.
    """

    name: str
    total: int | None = None
    unit: str = ""
    done: int = 0
    started: float = 0.0
    marks: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_MARKS))
    users: int = 0

    def advance(self, steps: int = 1) -> None:
        """Counts steps as done."""
        with _lock:
            self.done += steps
            now = time.monotonic()
            if not self.marks or now - self.marks[-1][0] >= _MARK_S:
                self.marks.append((now, self.done))

    def seconds_left(self) -> float | None:
        """Remaining seconds at the recent pace; None while unknown."""
        if not self.marks or self.total is None:
            return None
        # The first mark is set at the first step done, so warm-up does not count.
        since, before = self.marks[0]
        steps, seconds = self.done - before, time.monotonic() - since
        return seconds / steps * max(0, self.total - self.done) if steps and seconds >= _MARK_S else None


# Reentrant: a signal handler may write while the thread that it interrupted holds the lock.
_lock = threading.RLock()
_in_progress: dict[str, Activity] = {}


@contextmanager
def activity(name: str, total: int | None = None, unit: str = "") -> Generator[Activity]:
    """Marks a piece of work as in progress while the block runs.

    Overlapping blocks with the same name are one activity: their totals add up until the last of them ends.

    Args:
        name: See ``Activity``; so are the others.
        total: See there.
        unit: See there.
    """
    with _lock:
        current = _in_progress.get(name)
        if current is None:
            current = _in_progress[name] = Activity(name, total, unit, started=time.monotonic())
        else:
            current.total = None if current.total is None or total is None else current.total + total
        current.users += 1
    try:
        yield current
    finally:
        with _lock:
            current.users -= 1
            if not current.users:
                del _in_progress[name]


def find_activity(name: str) -> Activity | None:
    """The activity of that name; None if it is not in progress."""
    with _lock:
        return _in_progress.get(name)


def activities() -> list[Activity]:
    """The activities in progress, oldest first."""
    with _lock:
        return list(_in_progress.values())


@contextmanager
def hold() -> Generator[None]:
    """Keeps activities from beginning, advancing or ending while the block runs, for a consistent display."""
    with _lock:
        yield
