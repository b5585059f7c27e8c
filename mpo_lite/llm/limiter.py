"""How many calls may be in flight at one backend: as many as increase its answers per second.

The limit moves by trials: it is raised or lowered, and stays there if the throughput justifies it. Latency
alone would not do: a server that batches takes longer with each call in flight and still answers more. Rate
limits (429) and timeouts cut the limit, once per episode of overload. After a 429 it only creeps up: a rate
limit is not a queue, and every probe costs rejected calls.

Sources: TCP congestion control (RFC 5681) for cuts and slow start; BBR (Cardwell et al. 2016) for the idea of
going by delivery rate. The constants are tuned on the servers of ``benchmarks/judge.py``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf

from mpo_lite.llm.throughput import Meter, Round

START = 16
CUT, FIRST_CUT = 0.8, 0.5
"""Share of the limit that an episode of overload leaves: for 429s after the first, and for all others. The
first 429 ends slow start, which had doubled the limit; timeouts waste the server's work.
"""
GROWTH = 0.25
"""Calls by which the limit grows per round trip after a 429."""
BUSY = 0.8
"""Share of the limit that must be in use for an answer to say anything about the limit."""
DOUBLE, RAISE, LOWER = 2.0, 1.5, 0.75
"""Factors of a trial: raise in slow start, raise after it, and lower."""
LEAST_ROUND, ROUND = 4, 32
"""Answers per round: as many as may be in flight, but at least 4 in slow start, and at least 32 (or four
times the limit if that is less) after it.
"""
STEEP, WORTH = 0.5, 0.1
"""Throughput elasticity needed to continue slow start, and to keep a raise."""
SLOW = 0.25
"""Share of the attempt timeout below which queueing costs no answers, so the limit is not lowered."""
SAFE, LEAST_RAISE = 0.75, 1.1
"""Share of the attempt timeout that calls may take after a raise; the smallest raise in slow start."""
FIRST_REST, LAST_REST = 2, 8
"""Rounds between trials: doubled after each trial that was undone."""


@dataclass(frozen=True)
class Place:
    """One attempt's place among those in flight.

    Attributes:
        taken: When it was taken, on the loop's clock.
        answers: Answers of the backend until then.
        in_flight: Places in use then, including this one.
    """

    taken: float
    answers: int
    in_flight: int


class Limiter:
    """A limit on concurrent attempts at one backend, with a pause shared by all of them.

    One per backend, so that a slow backend does not hold back another. Callers wait for a retry outside the
    slot. Belongs to one event loop and uses its clock.

    Args:
        ceiling: Hard limit on attempts in flight, at least 1.
        timeout_s: Timeout of an attempt in seconds.

    Attributes:
        limit: Attempts that may be in flight now, rounded down.
        heard_at: When the backend last answered, on the loop's clock; -inf before that.
    """

    def __init__(self, ceiling: int, timeout_s: float = inf) -> None:
        self.limit = float(min(START, ceiling))
        self.heard_at = -inf
        self._ceiling, self._timeout_s = ceiling, timeout_s
        self._in_flight = self._answers = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._cut_at = self._resume_at = -inf
        self._timer: asyncio.TimerHandle | None = None
        self._rate_limited = False
        self._meter = Meter()
        self._slow_start, self._raise = True, True
        self._trial: tuple[float, Round] | None = None
        self._settling = self._resting = 0
        self._rest = FIRST_REST
        self._gain = 0.0

    @asynccontextmanager
    async def slot(self, urgent: bool = False) -> AsyncGenerator[Place]:
        """Waits for a place among those in flight, and for the end of a pause.

        Args:
            urgent: Goes to the front of the queue, so that a call that has begun finishes first.
        """
        place = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if urgent else self._waiting.append)(place)
        self._admit()
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # admitted at the same moment
                self._leave()
            raise
        try:
            yield Place(_now(), self._answers, self._in_flight)
        finally:
            self._leave()

    def record_success(self, place: Place) -> None:
        """Records an answered attempt."""
        self.heard_at = _now()
        self._answers += 1
        if self._rate_limited:
            if self._in_flight >= BUSY * self.limit:
                self.limit = min(self._ceiling, self.limit + GROWTH / self.limit)
            return
        self._meter.record_answer(self.heard_at - place.taken)
        if self._settling:
            self._settling -= 1
            if not self._settling:
                self._meter.restart()
            return
        whole_limit = int(self.limit)
        answers_needed = (
            max(whole_limit, LEAST_ROUND)
            if self._slow_start
            else max(whole_limit, min(4 * whole_limit, ROUND))
        )
        if seen := self._meter.take_round(answers_needed):
            self._evaluate_round(seen)

    def record_overload(self, place: Place, retry_after: float | None) -> None:
        """Records an attempt that was rejected for too many requests.

        Args:
            place: The attempt's; one taken before the last cut is part of the same episode and cuts nothing.
            retry_after: Seconds the server asks to wait, which then apply to all attempts; or None.
        """
        self._cut(place, CUT if self._rate_limited else FIRST_CUT)
        self._rate_limited = True
        if retry_after:
            self._resume_at = max(self._resume_at, _now() + retry_after)

    def record_timeout(self, place: Place) -> None:
        """Records a timeout: a sign of overload, unless as many attempts as were in flight with it have been
        answered since; then this one was just long.
        """
        if self._answers - place.answers < place.in_flight and self.limit > 1:
            self._cut(place, FIRST_CUT)
            self._slow_start = True

    def _cut(self, place: Place, share: float) -> None:
        # Attempts from before the last cut were sent under the old limit: they say nothing about the new one.
        if place.taken >= self._cut_at:
            self._slow_start = False
            self._set_limit(share * min(self.limit, self._in_flight))
            self._trial, self._raise = None, True
            self._resting = self._rest = FIRST_REST
            self._cut_at = _now()

    def _evaluate_round(self, seen: Round) -> None:
        """Ends the current trial, if there is one; begins the next one when it is due."""
        if self._trial is None:
            if self._resting:
                self._resting -= 1
            else:
                self._begin_trial(seen)
            return
        limit, before = self._trial
        self._trial = None
        ratio = seen.in_flight / before.in_flight
        in_use = ratio > 1.05 if self._raise else ratio < 0.95 and seen.in_flight >= BUSY * int(self.limit)
        gain = seen.gain_over(before) if in_use else 0.0
        self._gain = min(max(gain, 0.0), 0.9)
        self._slow_start = self._slow_start and gain >= STEEP
        if in_use and (gain >= WORTH) == self._raise:
            self._rest = FIRST_REST
            self._begin_trial(seen)
        else:
            self._set_limit(limit)
            self._raise = not self._raise
            self._resting, self._rest = self._rest, min(LAST_REST, 2 * self._rest)

    def _begin_trial(self, seen: Round) -> None:
        """Raises or lowers the limit for a trial, if it is fully used and there is something to learn."""
        # If more calls only queue, latency grows with the limit; the more throughput they add, the less.
        room = (SAFE * self._timeout_s / seen.latency) ** (1 / (1 - self._gain))
        may_raise = self.limit < self._ceiling and room >= (LEAST_RAISE if self._slow_start else RAISE)
        may_lower = self.limit >= 2 and seen.latency > SLOW * self._timeout_s
        if seen.in_flight < BUSY * int(self.limit) or not (may_raise or may_lower):
            return
        self._raise = may_raise and (self._raise or not may_lower)
        self._trial = (self.limit, seen)
        if self._raise:
            factor = min(room, DOUBLE if self._slow_start else RAISE)
            self._set_limit(max(self.limit + 1, self.limit * factor))
        else:
            self._set_limit(min(self.limit - 1, self.limit * LOWER))

    def _set_limit(self, limit: float) -> None:
        self.limit = min(max(1.0, limit), self._ceiling)
        self._meter.restart()
        # The next answers belong to calls sent under the old limit.
        self._settling = 0 if self._slow_start else int(self.limit)

    def _enter(self) -> None:
        self._in_flight += 1
        self._meter.set_in_flight(self._in_flight, _now())

    def _leave(self) -> None:
        self._in_flight -= 1
        self._meter.set_in_flight(self._in_flight, _now())
        self._admit()
        if not self._in_flight:
            self._meter.restart()  # the burst is over; idle time must not count

    def _admit(self) -> None:
        """Admits as many as fit, or schedules itself for the end of the pause."""
        while self._waiting and self._in_flight < int(self.limit):
            if (pause := self._resume_at - _now()) > 0:
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(pause, self._resume)
                return
            place = self._waiting.popleft()
            if not place.done():
                self._enter()
                place.set_result(None)

    def _resume(self) -> None:
        self._timer = None
        self._admit()


def _now() -> float:
    return asyncio.get_running_loop().time()
