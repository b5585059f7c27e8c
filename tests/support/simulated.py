"""Simulated time and servers: minutes of traffic within milliseconds, the same in every run."""

import asyncio
import random
import selectors
from collections import deque
from collections.abc import Coroutine
from typing import Any


class _Selector(selectors.DefaultSelector):
    """Takes no time: what the loop would wait for, its clock jumps over."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return super().select(0)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer whenever there is nothing to do."""

    def __init__(self) -> None:
        self._simulated = _Selector()
        super().__init__(self._simulated)

    def time(self) -> float:
        return self._simulated.now


def simulate(work: Coroutine[Any, Any, Any]) -> Any:
    """Runs ``work`` to its end on a simulated clock that begins at 0."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(work)


class Queueing:
    """A server that works on ``slots`` calls at a time, ``seconds`` each, and queues the rest.

    What a caller has given up is worked on all the same.
    """

    def __init__(self, slots: int, seconds: float, spread: float = 0.0) -> None:
        self.slots, self.seconds, self.spread = slots, seconds, spread
        self.served = 0
        self._draw = random.Random(0)
        self._busy = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    async def serve(self) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(done)
        self._start()
        await asyncio.shield(done)

    def _start(self) -> None:
        while self._queue and self._busy < self.slots:
            self._busy += 1
            seconds = self.seconds * (1 + self.spread * self._draw.uniform(-1, 1))
            asyncio.get_running_loop().call_later(seconds, self._finish, self._queue.popleft())

    def _finish(self, done: asyncio.Future[None]) -> None:
        self._busy -= 1
        self.served += 1
        done.set_result(None)
        self._start()


class Batching:
    """A server whose calls share its steps: all of them slow down a little with each further one."""

    def __init__(self, seconds: float, half: float, spread: float = 0.0) -> None:
        self.seconds, self.half, self.spread = seconds, half, spread
        self.served = self._in_flight = 0
        self._draw = random.Random(0)

    async def serve(self) -> None:
        left = self.seconds * (1 + self.spread * self._draw.uniform(-1, 1))
        self._in_flight += 1
        try:
            while left > 1e-9:  # in steps, since the others come and go
                await asyncio.sleep(self.seconds / 40 * (1 + self._in_flight / self.half))
                left -= self.seconds / 40
        finally:
            self._in_flight -= 1
        self.served += 1
