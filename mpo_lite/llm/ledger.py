"""The ledger: one JSON line per call that reached a model. It holds figures, never prompts, answers or
keys.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Purpose = Literal["judge", "meta", "check"]


@dataclass(frozen=True)
class CallRecord:
    """One attempt at a call.

    Attributes:
        time: Unix time at its end, in seconds.
        purpose: What it was for.
        model: Full model name.
        outcome: ``ok``, or ``failed`` where no answer came.
        seconds: From sending to the answer.
        input_tokens: Prompt tokens, the provider-cached ones included; None where the server reports no
        usage. cached_tokens: Of these, read from the provider's prefix cache.
        output_tokens: Answer tokens, thinking included.
        usd: What it cost, at most where the server reports no usage; None where the price is unknown.
    """

    time: float
    purpose: Purpose
    model: str
    outcome: str
    seconds: float
    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    usd: float | None = None


class Ledger:
    """Append-only account of a run's calls. Spend never rolls back: a resumed run goes on counting.

    Counts in memory until it is attached to a file: the calls that check the endpoints come before the run
    exists.
    """

    def __init__(self) -> None:
        self.calls = {"judge": 0, "meta": 0, "check": 0}
        self.usd = 0.0
        self.unpriced = 0
        self._path: Path | None = None
        self._pending: list[str] = []

    def attach(self, path: Path) -> None:
        """Goes on with the account in ``path``: counts what it holds, and appends to it from now on."""
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for line in lines:
            try:
                self._count(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue  # a line torn by a kill
        self._path = path
        # The empty line ends a torn one.
        self._write("\n" * bool(lines) + "".join(self._pending))

    def record(self, call: CallRecord) -> None:
        """Counts a call and appends it."""
        row = asdict(call)
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
        self.unpriced += row["usd"] is None and row["outcome"] == "ok"
