"""How many calls may be in flight, and when all of them should wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Limiter:
    """A ceiling on concurrent attempts at one backend, with a pause shared by all of them.

    One per backend, never shared: a slow one must not hold back another. Waiting for a retry happens outside
    a slot.

    Args:
        ceiling: Attempts in flight, at most.
    """

    def __init__(self, ceiling: int) -> None:
        self._slots = asyncio.Semaphore(ceiling)
        self._resume_at = 0.0

    def pause(self, seconds: float) -> None:
        """Holds back new attempts; what a server asks for by Retry-After holds for all calls to it."""
        self._resume_at = max(self._resume_at, time.monotonic() + seconds)

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None]:
        """One place among those in flight, once no pause is on."""
        async with self._slots:
            while (wait := self._resume_at - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            yield
