"""The ledger: one JSON line per call that reached a model. It contains figures, never prompts or keys, and of
answers only the beginning of unusable ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, InstanceOf

from mpo_lite.jsonl import JsonRow, journal, read_rows

Purpose = Literal["judge", "gate", "meta", "audit", "check"]
"""``judge``: training rewards; ``audit``: independent audits; ``gate``: everything else that is judged;
``check``: availability checks.
"""


@dataclass(frozen=True)
class CallRecord:
    """One attempt at a call.

    Attributes:
        time: Unix time at its end, in seconds.
        purpose: Category it is counted under.
        model: Full model name.
        outcome: ``ok``; ``unusable``: the reply was not what was asked for; ``overload``: too many requests;
            ``failed``.
        reason: Why it was not ``ok``, in our words or the server's, without parts of the prompt and keys.
        reply: The beginning of an unusable reply, filtered in the same way; empty otherwise.
        seconds: From sending to the answer.
        input_tokens: Prompt tokens, including provider-cached ones.
        output_tokens: Answer tokens, including reasoning.
        usd: Its cost; None if the price is unknown.
        cached_tokens: Prompt tokens that were read from the provider's prefix cache.
        metered: Whether tokens and USD are based on the server's own count. If it reported none or an
            impossible one, or if its answer was lost, they are upper bounds.
    """

    time: float
    purpose: Purpose
    model: str
    outcome: str
    seconds: float
    input_tokens: int
    output_tokens: int
    usd: float | None
    cached_tokens: int = 0
    metered: bool = True
    reason: str = ""
    reply: str = ""


class _CallRow(BaseModel):
    """A line of a ledger."""

    model_config = ConfigDict(strict=True)

    purpose: Purpose
    model: InstanceOf[str]
    outcome: InstanceOf[str]
    seconds: float
    input_tokens: Annotated[int, Field(ge=0)]
    output_tokens: Annotated[int, Field(ge=0)]
    usd: Annotated[float, Field(ge=0)] | None
    cached_tokens: Annotated[int, Field(ge=0)]
    metered: bool


def read_calls(path: Path) -> list[JsonRow]:
    """The calls in a ledger. Raises ``RunError`` if a line is damaged: spending must not be lost."""
    return read_rows(path, _CallRow)


class Ledger:
    """Append-only account of a run's calls. Spend is never rolled back: a resumed run continues counting.

    Counts in memory until it is attached to a file: models are checked before the run exists.

    Attributes:
        calls: Calls by purpose.
        usd: Spending of the calls whose price is known.
        tokens: Input plus output.
        cached_tokens: Of these, read from providers' prefix caches.
        unpriced: Calls whose price is unknown; they are not in ``usd``.
        unmetered: Calls counted at an upper bound.
    """

    def __init__(self) -> None:
        self.calls = dict.fromkeys(get_args(Purpose), 0)
        self.usd = 0.0
        self.tokens = self.cached_tokens = 0
        self.unpriced = self.unmetered = 0
        self._path: Path | None = None
        self._pending: list[JsonRow] = []

    def attach(self, path: Path, also: Sequence[Path] = ()) -> None:
        """Continues the account in ``path``: counts its calls, and appends further ones to it.

        Args:
            path: The account.
            also: Accounts to count as well, without writing to them.

        Raises:
            RunError: A line of one of them is damaged.
        """
        for account in (*also, path):
            self.count(account)
        self._path = path
        journal(path, self._pending, sync=False)

    def count(self, path: Path) -> None:
        """Adds the calls in a file. Raises ``RunError`` if a line of it is damaged."""
        for row in read_calls(path):
            self._count(row)

    def record(self, call: CallRecord) -> None:
        """Counts a call and appends it."""
        row = vars(call)
        self._count(row)
        # Not synced: one fsync per call would slow judging down, and only a power cut loses rows.
        if self._path:
            journal(self._path, [row], sync=False)
        else:
            self._pending.append(row)

    def spend(self) -> dict[str, Any]:
        """Calls by purpose, tokens and USD; ``usd`` is None if the price of some answer is unknown."""
        return {
            "judge_calls": self.calls["judge"],
            "gate_calls": self.calls["gate"],
            "meta_calls": self.calls["meta"],
            "audit_calls": self.calls["audit"],
            "tokens_spent": self.tokens,
            "tokens_cached": self.cached_tokens,
            "usd": None if self.unpriced else round(self.usd, 6),
            "unpriced": self.unpriced,
            "unmetered": self.unmetered,
        }

    @property
    def total(self) -> int:
        """Calls of all purposes."""
        return sum(self.calls.values())

    def _count(self, row: dict[str, Any]) -> None:
        self.calls[row["purpose"]] += 1
        self.usd += row["usd"] or 0.0
        self.tokens += row["input_tokens"] + row["output_tokens"]
        self.cached_tokens += row["cached_tokens"]
        self.unpriced += row["usd"] is None
        self.unmetered += not row["metered"]
