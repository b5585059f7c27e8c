"""The ledger: one JSON line per call that reached a model. It holds figures, never prompts or keys, and of
answers only how those began that could not be used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

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
        self._pending: list[str] = []

    def attach(self, path: Path, also: Sequence[Path] = ()) -> None:
        """Goes on with the account in ``path``: counts what it holds, and appends to it from now on.

        Args:
            path: The account.
            also: Accounts that are counted too, and not written to.
        """
        for each in (*also, path):
            for line in each.read_text(encoding="utf-8").splitlines() if each.exists() else []:
                try:
                    self._count(json.loads(line))
                except (ValueError, KeyError, TypeError):
                    continue  # a line torn by a kill
        self._path = path
        # The empty line ends a torn one.
        self._write("\n" * path.exists() + "".join(self._pending))

    def record(self, call: CallRecord) -> None:
        """Counts a call and appends it."""
        row = vars(call)
        self._count(row)
        line = json.dumps(row) + "\n"
        if self._path:
            self._write(line)
        else:
            self._pending.append(line)

    @property
    def total(self) -> int:
        """Calls of all purposes."""
        return sum(self.calls.values())

    def _write(self, text: str) -> None:
        if self._path:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text)

    def _count(self, row: dict[str, Any]) -> None:
        self.calls[row["purpose"]] += 1
        self.usd += row["usd"] or 0.0
        self.tokens += row["input_tokens"] + row["output_tokens"]
        self.cached_tokens += row["cached_tokens"]
        self.unpriced += row["usd"] is None
        self.unmetered += not row["metered"]
