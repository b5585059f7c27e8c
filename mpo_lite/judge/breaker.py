"""How many judgements of a batch may fail: beyond that a judge is down, and going on would be in vain."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from mpo_lite.errors import FailureKind, JudgeDown, failures_in_words
from mpo_lite.sanitize import pluralize

TOLERATED_FAILURES = 3
"""Failures per batch that do not open the breaker, unless nothing else is in the batch."""

JUDGE_FAILURES: tuple[FailureKind, ...] = ("timeout", "transport", "cut", "parse")
"""What the breaker counts. A refusal says something of the sample, not of the judge."""

_ADVICE: dict[FailureKind, str] = {
    "timeout": "lower --concurrency, raise call_timeout, or give the judge a faster server",
    "transport": "check that the judge's server is running",
    "cut": "raise judge_max_tokens, or use a judge that gives shorter reasons",
    "parse": "'mpo-lite doctor' shows what the judge answers",
    "refusal": "use a judge that does not decline such samples",
    "context": "use a judge with a longer context",
}


class JudgingResult(Protocol):
    """What came of one judgement."""

    @property
    def failure(self) -> FailureKind | None:
        """Why it failed; None where it did not."""
        ...

    @property
    def detail(self) -> str:
        """What was seen of the failure."""
        ...


@dataclass(frozen=True)
class FailureTally:
    """What came of the judgements of a batch.

    Attributes:
        size: How many there were.
        failures: The kind of each that failed.
        share: Share of them that may fail; see ``Config.max_judge_failures``.
        first: What was seen of the first failure; empty where that is not known.
    """

    size: int
    failures: tuple[FailureKind, ...]
    share: float
    first: str = ""

    @classmethod
    def of(cls, judged: Iterable[JudgingResult], share: float) -> FailureTally:
        """Counts judgements."""
        all_of_them = list(judged)
        kinds: tuple[FailureKind, ...] = tuple(one.failure for one in all_of_them if one.failure)
        return cls(
            len(all_of_them), kinds, share, next((one.detail for one in all_of_them if one.failure), "")
        )

    @property
    def broken(self) -> bool:
        """Whether more failed than may."""
        tolerated = min(TOLERATED_FAILURES, self.size - 1)
        return len(self._counted) > max(tolerated, self.share * self.size)

    @property
    def advice(self) -> str:
        """What helps against the most frequent kind of failure."""
        return _ADVICE[max(_ADVICE, key=(self._counted or self.failures).count)]

    def __str__(self) -> str:
        return f"{len(self._counted)} of {self.size} not judged: {failures_in_words(self._counted)}"

    def complaint(self, one: str = "", several: str = "") -> str:
        """What is wrong where too little, or nothing, was judged: how much failed, why, and what helps.

        Args:
            one: What was judged, in the singular; empty: told in figures alone.
            several: The same in the plural; empty: ``one`` with an s.

        Returns:
            A sentence; empty where enough was judged.
        """
        nothing = bool(self.size) and len(self.failures) == self.size
        if not nothing and not self.broken:
            return ""
        said = str(self)
        if nothing and one:
            said = f"{pluralize(self.size, one, several)}, none judged: {failures_in_words(self.failures)}"
        if self.broken:
            said += f", more than --max-judge-failures {self.share:g} allows"
        return f"{said}; {self.advice}" + (f"; the first: {self.first}" if self.first else "")

    def check(self, one: str = "", several: str = "") -> None:
        """Raises ``JudgeDown`` where there is a ``complaint``."""
        if said := self.complaint(one, several):
            raise JudgeDown(said)

    @property
    def _counted(self) -> tuple[FailureKind, ...]:
        return tuple(kind for kind in self.failures if kind in JUDGE_FAILURES)
