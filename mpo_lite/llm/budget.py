"""Caps on spend, calls and tokens. A call's worst case is reserved before it is sent, so no cap is ever
passed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from mpo_lite.errors import BudgetReached
from mpo_lite.llm.ledger import Ledger

WARN_AT = 0.8
"""Share of a cap that is worth a word."""


class Budget:
    """What may still be spent. Lives on the client's event loop.

    Args:
        ledger: Knows what was spent so far, also before a resume.
        max_usd: Cap in USD, or None.
        max_calls: Cap on calls sent to a model, retries included, or None.
        max_tokens: Cap on tokens sent and received, or None.
    """

    def __init__(
        self,
        ledger: Ledger,
        max_usd: float | None = None,
        max_calls: int | None = None,
        max_tokens: int | None = None,
    ) -> None:
        self._caps = {"usd": max_usd, "calls": max_calls, "tokens": max_tokens}
        self._reserved = {"usd": 0.0, "calls": 0.0, "tokens": 0.0}
        self._elsewhere = {"usd": 0.0, "calls": 0.0, "tokens": 0.0}
        self._left_to_others = {"usd": 0.0, "calls": 0.0, "tokens": 0.0}
        self._ledger = ledger
        self._warned: set[str] = set()
        self._settled = asyncio.Condition()

    @asynccontextmanager
    async def reserve(self, worst_usd: float, worst_tokens: int) -> AsyncGenerator[None]:
        """Holds a call's worst case while it is in flight; what it really cost must be in the
        ledger before it is released.

        Near a cap, waits for calls in flight to settle before it refuses: their worst case is seldom
        reached.

        Raises:
            BudgetReached: The call does not fit under a cap.
        """
        wanted = {"usd": worst_usd, "calls": 1, "tokens": worst_tokens}
        async with self._settled:
            while blocked := self._blocked(wanted):
                if not self._reserved["calls"]:
                    raise blocked
                await self._settled.wait()
            self._reserve(wanted, 1)
        try:
            yield
        finally:
            async with self._settled:
                self._reserve(wanted, -1)
                self._settled.notify_all()

    def require(self, usd: float, tokens: int) -> None:
        """Sees that another call can be paid.

        Args:
            usd: What it takes at least.
            tokens: Likewise.

        Raises:
            BudgetReached: It does not fit under a cap.
        """
        if blocked := self._blocked({"usd": usd, "calls": 1, "tokens": tokens}):
            raise blocked

    def divide(self, elsewhere: Mapping[str, float], processes: int) -> None:
        """Leaves the other processes of the job their share of what is not spent yet.

        Args:
            elsewhere: What they have spent so far, as ``spent`` tells it, all of them together.
            processes: How many share the caps, this one included.
        """
        spent = self.spent()
        self._elsewhere = dict(elsewhere)
        for name, cap in self._caps.items():
            left = max(0.0, (cap or 0.0) - spent[name] - elsewhere[name])
            self._left_to_others[name] = left * (processes - 1) / processes

    def spent(self) -> dict[str, float]:
        """What this process has spent: ``usd``, ``calls`` and ``tokens``."""
        return {"usd": self._ledger.usd, "calls": self._ledger.total, "tokens": self._ledger.tokens}

    def warnings(self) -> list[str]:
        """One line for each cap of which most is used; each is told once."""
        spent = self._spent()
        near = {
            name: cap
            for name, cap in self._caps.items()
            if cap is not None and WARN_AT * cap <= spent[name] < cap
        }
        fresh = [name for name in near if name not in self._warned]
        self._warned.update(fresh)
        return [
            f"{spent[name] / near[name]:.0%} of {_flag(name, near[name])} is spent; "
            "the run stops before passing it"
            for name in fresh
        ]

    def _spent(self) -> dict[str, float]:
        return {name: amount + self._elsewhere[name] for name, amount in self.spent().items()}

    def _reserve(self, wanted: dict[str, float], sign: int) -> None:
        for name, amount in wanted.items():
            self._reserved[name] += sign * amount

    def _blocked(self, wanted: dict[str, float]) -> BudgetReached | None:
        spent = self._spent()
        for name, cap in self._caps.items():
            taken = self._reserved[name] + self._left_to_others[name]
            if cap is not None and spent[name] + taken + wanted[name] > cap:
                return BudgetReached(
                    f"{_flag(name, cap)} is reached: {_amount(name, spent[name])} spent, and the next call "
                    f"may take {_amount(name, wanted[name])}; raise it to go on",
                    raised=f"--max-{name} {_raised(name, cap, spent[name] + wanted[name]):g}",
                )
        return None


def _flag(name: str, cap: float) -> str:
    return f"the cap --max-{name} {cap:g}"


def _raised(name: str, cap: float, needed: float) -> float:
    """A cap that leaves room: twice the old one, or half as much again as is spent with the next call."""
    most = max(2 * cap, 1.5 * needed)
    return math.ceil(100 * most) / 100 if name == "usd" else math.ceil(most)


def _amount(name: str, value: float) -> str:
    return f"${value:.4f}" if name == "usd" else f"{value:.0f} {name if value != 1 else name[:-1]}"
