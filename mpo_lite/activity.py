"""What this process is doing right now, and how far it is: read by whoever shows progress.

Work that may take longer than a few seconds runs inside ``activity``. Nothing is shown by that alone, as with
``logging``: a command line that wants to show it looks at ``activities`` from a thread of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(eq=False)
class Activity:
    """One piece of work under way.

    Attributes:
        name: What is done, as a person reads it: ``judging``, ``generating``.
        total: Steps it takes; None where that is not known.
        unit: What a step is, in the plural: ``answers``, ``tokens``; empty where the name says it.
        done: Steps done.
        started: On ``time.monotonic``.
    """

    name: str
    total: int | None = None
    unit: str = ""
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    def advance(self, steps: int = 1) -> None:
        """Counts steps as done."""
        with _lock:
            self.done += steps


_lock = threading.Lock()
_under_way: list[Activity] = []


@contextmanager
def activity(name: str, total: int | None = None, unit: str = "") -> Generator[Activity]:
    """Marks a piece of work as under way for as long as the block runs.

    Args:
        name: See ``Activity``; so are the others.
        total: See there.
        unit: See there.
    """
    one = Activity(name, total, unit)
    with _lock:
        _under_way.append(one)
    try:
        yield one
    finally:
        with _lock:
            _under_way.remove(one)


def activities() -> list[Activity]:
    """What is under way, oldest first."""
    with _lock:
        return list(_under_way)
