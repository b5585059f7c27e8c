"""What this process is doing right now, and how far it is: read by whoever shows progress.

Work that may take longer than a few seconds runs inside ``activity``. Nothing is shown by that alone, as with
``logging``: a command line that wants to show it looks at ``activities`` from a thread of its own.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

_MARK_S, _MARKS = 1.0, 60
"""Seconds between two marks, and marks kept: the pace is that of the last minute or more."""


@dataclass(eq=False)
class Activity:
    """One piece of work under way.

    Attributes:
        name: What is done, as a person reads it: ``judging``, ``generating``.
        total: Steps it takes; None where that is not known.
        unit: What a step is, in the plural: ``answers``, ``tokens``; empty where the name says it.
        done: Steps done.
        started: On ``time.monotonic``.
        marks: Recent times with the steps done by then.
        users: Blocks that are doing it.
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
        """Seconds to the end at the recent pace; None while that is not known."""
        if not self.marks or self.total is None:
            return None
        # The first mark stands at the first step done: what came before it was warm-up.
        since, before = self.marks[0]
        steps, seconds = self.done - before, time.monotonic() - since
        return seconds / steps * max(0, self.total - self.done) if steps and seconds >= _MARK_S else None


# Reentrant: a signal handler may write while the thread it interrupted is counting.
_lock = threading.RLock()
_under_way: dict[str, Activity] = {}


@contextmanager
def activity(name: str, total: int | None = None, unit: str = "") -> Generator[Activity]:
    """Marks a piece of work as under way for as long as the block runs.

    Blocks of the same name that overlap are one activity: their totals add up, until the last of them ends.

    Args:
        name: See ``Activity``; so are the others.
        total: See there.
        unit: See there.
    """
    with _lock:
        one = _under_way.get(name)
        if one is None:
            one = _under_way[name] = Activity(name, total, unit, started=time.monotonic())
        else:
            one.total = None if one.total is None or total is None else one.total + total
        one.users += 1
    try:
        yield one
    finally:
        with _lock:
            one.users -= 1
            if not one.users:
                del _under_way[name]


def activity_named(name: str) -> Activity | None:
    """The activity of that name; None where nobody is at it."""
    with _lock:
        return _under_way.get(name)


def activities() -> list[Activity]:
    """What is under way, oldest first."""
    with _lock:
        return list(_under_way.values())


@contextmanager
def hold() -> Generator[None]:
    """Lets nothing begin, advance or end while the block runs: so what it writes is of work under way."""
    with _lock:
        yield
