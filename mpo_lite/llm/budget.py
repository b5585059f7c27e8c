"""Caps on spend, calls and tokens. A call's worst case is reserved before it is sent, so no cap is ever
exceeded.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from mpo_lite.errors import BudgetReached
from mpo_lite.llm.ledger import Ledger

WARN_AT = 0.8
"""Share of a cap at which a warning is printed."""


class Budget:
    """What may still be spent. Belongs to the client's event loop.

    Args:
        ledger: What was spent so far, including before a resume.
        max_usd: Cap in USD; None for no cap.
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
        self._spent_elsewhere = {"usd": 0.0, "calls": 0.0, "tokens": 0.0}
        self._reserved_for_others = {"usd": 0.0, "calls": 0.0, "tokens": 0.0}
        self._ledger = ledger
        self._warned: set[str] = set()
        self._settled = asyncio.Condition()

    @asynccontextmanager
    async def reserve(self, worst_usd: float, worst_tokens: int) -> AsyncGenerator[None]:
        """Reserves a call's worst case while it is in flight; its real cost must be in the ledger before the
        reservation is released.

        Near a cap, waits for calls in flight to settle before it gives up: they rarely cost their worst case.

        Raises:
            BudgetReached: The call does not fit under a cap.
        """
        wanted = {"usd": worst_usd, "calls": 1, "tokens": worst_tokens}
        async with self._settled:
            while exceeded := self._find_exceeded_cap(wanted):
                # With nothing in flight, no settling call can make room any more.
                if not self._reserved["calls"]:
                    raise exceeded
                await self._settled.wait()
            self._reserve(wanted, 1)
        try:
            yield
        finally:
            async with self._settled:
                self._reserve(wanted, -1)
                self._settled.notify_all()

    def require(self, usd: float, tokens: int) -> None:
        """Checks that another call fits under the caps.

        Args:
            usd: What it costs at least.
            tokens: How many it uses at least.

        Raises:
            BudgetReached: It does not fit under a cap.
        """
        if exceeded := self._find_exceeded_cap({"usd": usd, "calls": 1, "tokens": tokens}):
            raise exceeded

    def divide(self, elsewhere: Mapping[str, float], processes: int) -> None:
        """Sets aside the other processes' share of what is left.

        Args:
            elsewhere: What they have spent so far, in total, in the form of ``spent``.
            processes: How many processes share the caps, including this one.
        """
        spent = self.spent()
        self._spent_elsewhere = dict(elsewhere)
        for name, cap in self._caps.items():
            left = max(0.0, (cap or 0.0) - spent[name] - elsewhere[name])
            self._reserved_for_others[name] = left * (processes - 1) / processes

    def spent(self) -> dict[str, float]:
        """What this process has spent: ``usd``, ``calls`` and ``tokens``."""
        return {"usd": self._ledger.usd, "calls": self._ledger.total, "tokens": self._ledger.tokens}

    def warnings(self) -> list[str]:
        """One line for each cap that is nearly used up; each cap is reported once."""
        spent = self._spent()
        near = {
            name: cap
            for name, cap in self._caps.items()
            if cap is not None and WARN_AT * cap <= spent[name] < cap
        }
        new = [name for name in near if name not in self._warned]
        self._warned.update(new)
        return [
            f"{spent[name] / near[name]:.0%} of {_cap_flag(name, near[name])} spent; the run stops at the cap"
            for name in new
        ]

    def _spent(self) -> dict[str, float]:
        return {name: amount + self._spent_elsewhere[name] for name, amount in self.spent().items()}

    def _reserve(self, wanted: dict[str, float], sign: int) -> None:
        for name, amount in wanted.items():
            self._reserved[name] += sign * amount

    def _find_exceeded_cap(self, wanted: dict[str, float]) -> BudgetReached | None:
        spent = self._spent()
        for name, cap in self._caps.items():
            taken = self._reserved[name] + self._reserved_for_others[name]
            if cap is not None and spent[name] + taken + wanted[name] > cap:
                used, needed = _format_amount(name, spent[name]), _format_amount(name, wanted[name])
                return BudgetReached(
                    f"{_cap_flag(name, cap)} reached: {used} spent, and the next call may take up to "
                    f"{needed}; raise the cap to continue",
                    suggested_flag=f"--max-{name} {_suggest_cap(name, cap, spent[name] + wanted[name]):g}",
                )
        return None


def _cap_flag(name: str, cap: float) -> str:
    return f"--max-{name} {cap:g}"


def _suggest_cap(name: str, cap: float, needed: float) -> float:
    """A cap with room to continue: twice the old one, or 1.5 times what is spent including the next call."""
    roomy = max(2 * cap, 1.5 * needed)
    return math.ceil(100 * roomy) / 100 if name == "usd" else math.ceil(roomy)


def _format_amount(name: str, value: float) -> str:
    return f"${value:.4f}" if name == "usd" else f"{value:.0f} {name if value != 1 else name[:-1]}"
