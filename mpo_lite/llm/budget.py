"""Hard caps on spend and calls. A call's worst case is reserved before it is sent, so no cap is ever
passed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from mpo_lite.errors import BudgetReached
from mpo_lite.llm.ledger import Ledger


class Budget:
    """What may still be spent. Lives on the client's event loop.

    Args:
        ledger: Knows what was spent so far, also before a resume.
        max_usd: Cap in USD, or None.
        max_calls: Cap on calls sent to a model, retries included, or None.
    """

    def __init__(self, ledger: Ledger, max_usd: float | None = None, max_calls: int | None = None) -> None:
        self.max_usd, self.max_calls = max_usd, max_calls
        self._ledger = ledger
        self._reserved_usd = 0.0
        self._in_flight = 0
        self._settled = asyncio.Condition()

    @asynccontextmanager
    async def reserve(self, worst_usd: float) -> AsyncGenerator[None]:
        """Holds a call's worst case while it is in flight; what it really cost must be in the
        ledger before it is released.

        Near the cap, waits for calls in flight to settle before it refuses: their worst case is seldom
        reached.

        Raises:
            BudgetReached: The call does not fit under a cap.
        """
        async with self._settled:
            while blocked := self._blocked(worst_usd):
                if not self._in_flight:
                    raise BudgetReached(blocked)
                await self._settled.wait()
            self._reserved_usd += worst_usd
            self._in_flight += 1
        try:
            yield
        finally:
            async with self._settled:
                self._reserved_usd -= worst_usd
                self._in_flight -= 1
                self._settled.notify_all()

    def _blocked(self, worst_usd: float) -> str:
        if self.max_calls is not None and self._ledger.total + self._in_flight >= self.max_calls:
            return f"the cap of {self.max_calls} calls is reached; raise --max-calls to go on"
        if self.max_usd is not None and self._ledger.usd + self._reserved_usd + worst_usd > self.max_usd:
            return (
                f"the cap of ${self.max_usd:g} is reached: ${self._ledger.usd:.4f} spent, and the next call "
                f"may cost ${worst_usd:.4f}; raise --max-usd to go on"
            )
        return ""
