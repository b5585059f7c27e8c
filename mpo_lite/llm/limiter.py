"""How many calls may be in flight at one backend: found out as TCP finds a network's capacity.

Slow start doubles the limit per round trip; the first sign of overload ends it, and from then on the limit
creeps up and is cut once per episode of overload. Sources: TCP congestion control (RFC 5681); the figures are
tuned on a 40 requests/s token bucket (``benchmarks/judge.py``).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

START = 16
CUT, FIRST_CUT = 0.8, 0.5
"""What an episode of overload leaves of the limit; the first one ends slow start, which had doubled it."""
GROWTH = 0.25
"""Calls that the limit grows by per round trip, after slow start."""
BUSY = 0.8
"""Share of the limit that must be in use for a success to say that more would fit."""


class Limiter:
    """A limit on concurrent attempts at one backend, with a pause shared by all of them.

    One per backend, never shared: a slow one must not hold back another. Waiting for a retry happens outside
    a slot. Lives on one event loop.

    Args:
        ceiling: Attempts in flight that are never exceeded, at least 1.
    """

    def __init__(self, ceiling: int) -> None:
        self.limit = float(min(START, ceiling))
        self._ceiling = ceiling
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._slow_start = True
        self._cut_at = self._resume_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def slot(self, urgent: bool = False) -> AsyncGenerator[None]:
        """One place among those in flight, once no pause is on.

        Args:
            urgent: Goes before those that wait: a retry, whose clock is running already.
        """
        place = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if urgent else self._waiting.append)(place)
        self._admit()
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # admitted in the same moment
                self._leave()
            raise
        try:
            yield
        finally:
            self._leave()

    def succeeded(self) -> None:
        """An attempt was answered: where the limit is in use, more may fit."""
        if self._in_flight >= BUSY * self.limit:
            self.limit += 1.0 if self._slow_start else GROWTH / self.limit
            self.limit = min(self.limit, self._ceiling)

    def overloaded(self, started: float, retry_after: float | None) -> None:
        """An attempt was turned away for too many requests.

        Args:
            started: Its start on ``time.monotonic``; one from before the last cut is of the same episode and
                cuts nothing.
            retry_after: Seconds the server asks to wait, which then holds for all attempts; or None.
        """
        now = time.monotonic()
        if started >= self._cut_at:
            cut = FIRST_CUT if self._slow_start else CUT
            self.limit = max(1.0, cut * min(self.limit, self._in_flight))
            self._slow_start = False
            self._cut_at = now
        if retry_after:
            self._resume_at = max(self._resume_at, now + retry_after)

    def _leave(self) -> None:
        self._in_flight -= 1
        self._admit()

    def _admit(self) -> None:
        """Lets in as many as fit, or wakes up again when the pause is over."""
        while self._waiting and self._in_flight < int(self.limit):
            if (pause := self._resume_at - time.monotonic()) > 0:
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(pause, self._resume)
                return
            place = self._waiting.popleft()
            if not place.done():
                self._in_flight += 1
                place.set_result(None)

    def _resume(self) -> None:
        self._timer = None
        self._admit()
