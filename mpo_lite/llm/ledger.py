"""The ledger: one JSON line per call that reached a model. It holds figures, never prompts or keys, and of
answers only how those began that could not be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, InstanceOf

from mpo_lite.jsonl import JsonRow, journal, read_rows

Purpose = Literal["judge", "gate", "meta", "check"]
"""``judge``: of what is trained on; ``gate``: of all else that is judged; ``check``: whether one is there."""


@dataclass(frozen=True)
class CallRecord:
    """One attempt at a call.

    Attributes:
        time: Unix time at its end, in seconds.
        purpose: What it was for.
        model: Full model name.
        outcome: ``ok``; ``unusable`` where the reply was not what was asked for; ``overload`` where too many
            requests were under way; ``failed``.
        reason: Why it was not ``ok``: in our words, or in the server's without what it repeats of prompt or
            key.
        reply: How a reply that could not be used began, likewise; empty otherwise.
        seconds: From sending to the answer.
        input_tokens: Prompt tokens, the provider-cached ones included.
        output_tokens: Answer tokens, thinking included.
        usd: What it cost; None where the price is unknown.
        cached_tokens: Prompt tokens that were read from the provider's prefix cache.
        metered: Whether tokens and USD are the server's own count. Where it told none, or one that cannot be,
            or its answer got lost on the way, they are the most it can have been.
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
    """The calls in a ledger. Raises ``RunError`` where a line is damaged: what was spent must not be lost."""
    return read_rows(path, _CallRow)


class Ledger:
    """Append-only account of a run's calls. Spend never rolls back: a resumed run goes on counting.

    Counts in memory until it is attached to a file: the calls that check the endpoints come before the run
    exists.

    Attributes:
        calls: Calls by purpose.
        usd: What is known to be spent.
        tokens: Sent and received.
        cached_tokens: Of these, read from providers' prefix caches.
        unpriced: Calls whose price is unknown; they are not in ``usd``.
        unmetered: Calls counted at the most they can have cost.
    """

    def __init__(self) -> None:
        self.calls = dict.fromkeys(get_args(Purpose), 0)
        self.usd = 0.0
        self.tokens = self.cached_tokens = 0
        self.unpriced = self.unmetered = 0
        self._path: Path | None = None
        self._pending: list[JsonRow] = []

    def attach(self, path: Path, also: Sequence[Path] = ()) -> None:
        """Goes on with the account in ``path``: counts what it holds, and appends to it from now on.

        Args:
            path: The account.
            also: Accounts that are counted too, and not written to.

        Raises:
            RunError: A line of one is damaged.
        """
        for each in (*also, path):
            self.count(each)
        self._path = path
        journal(path, self._pending, sync=False)

    def count(self, path: Path) -> None:
        """Adds what a file accounts for. Raises ``RunError`` where a line of it is damaged."""
        for row in read_calls(path):
            self._count(row)

    def record(self, call: CallRecord) -> None:
        """Counts a call and appends it."""
        row = vars(call)
        self._count(row)
        if self._path:
            journal(self._path, [row], sync=False)
        else:
            self._pending.append(row)

    def spend(self) -> dict[str, Any]:
        """Calls by purpose, tokens and USD; ``usd`` is None where some answer had no known price."""
        return {
            "judge_calls": self.calls["judge"],
            "gate_calls": self.calls["gate"],
            "meta_calls": self.calls["meta"],
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
