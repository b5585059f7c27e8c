"""How many judgements of a batch may fail before the judge counts as down and the run stops."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from mpo_lite.errors import FailureKind, JudgeDown, failures_in_words
from mpo_lite.sanitize import pluralize

TOLERATED_FAILURES = 3
"""Failures per batch that never open the breaker, unless the whole batch failed."""

JUDGE_FAILURES: tuple[FailureKind, ...] = ("timeout", "transport", "cut", "parse")
"""Failures that the breaker counts. A refusal is due to the sample, not to the judge."""

_ADVICE: dict[FailureKind, str] = {
    "timeout": "lower --concurrency, raise call_timeout, or give the judge a faster server",
    "transport": "check that the judge's server is running",
    "cut": "raise judge_max_tokens, or use a judge that gives shorter reasons",
    "parse": "'mpo-lite doctor' shows what the judge answers",
    "refusal": "use a judge that does not decline such samples",
    "context": "use a judge with a longer context",
}


class JudgingResult(Protocol):
    """The outcome of one judgement."""

    @property
    def failure(self) -> FailureKind | None:
        """Why it failed; None if it did not."""
        ...

    @property
    def detail(self) -> str:
        """Details of the failure."""
        ...


@dataclass(frozen=True)
class FailureTally:
    """The outcomes of the judgements of a batch.

    Attributes:
        size: Number of judgements.
        failures: The kind of each failure.
        share: Share of the batch that may fail; see ``Config.max_judge_failures``.
        first: Details of the first failure; empty if unknown.
        rest: Answers of the batch besides: a rule decided them, or they were judged before.
    """

    size: int
    failures: tuple[FailureKind, ...]
    share: float
    first: str = ""
    rest: int = 0

    @classmethod
    def of(cls, results: Iterable[JudgingResult], share: float) -> FailureTally:
        """Counts judgements."""
        judgements = list(results)
        failed = [judgement for judgement in judgements if judgement.failure]
        kinds: tuple[FailureKind, ...] = tuple(judgement.failure for judgement in failed if judgement.failure)
        return cls(len(judgements), kinds, share, failed[0].detail if failed else "")

    @property
    def broken(self) -> bool:
        """Whether too many failed."""
        # A single judgement that fails is the whole batch, so it is not tolerated.
        batch = self.size + self.rest
        tolerated = min(TOLERATED_FAILURES, batch - 1)
        return len(self._judge_failures) > max(tolerated, self.share * batch)

    @property
    def advice(self) -> str:
        """How to fix the most frequent kind of failure."""
        # If only the samples were at fault, advise about those.
        return _ADVICE[max(_ADVICE, key=(self._judge_failures or self.failures).count)]

    def __str__(self) -> str:
        failures = self._judge_failures
        return f"{len(failures)} of {self.size} not judged: {failures_in_words(failures)}"

    def describe_problem(self, singular: str = "", plural: str = "") -> str:
        """Describes the problem if too little was judged: how much failed, why, and how to fix it.

        Args:
            singular: What was judged, in the singular; empty: the message has numbers only.
            plural: The same in the plural; empty: ``singular`` with an s.

        Returns:
            A sentence; empty if enough was judged.
        """
        all_failed = bool(self.size) and len(self.failures) == self.size
        if not all_failed and not self.broken:
            return ""
        message = str(self)
        if all_failed and singular:
            kinds = failures_in_words(self.failures)
            message = f"{pluralize(self.size, singular, plural)}, none judged: {kinds}"
        if self.broken:
            message += f", more than --max-judge-failures {self.share:g} allows"
        return f"{message}; {self.advice}" + (f"; the first: {self.first}" if self.first else "")

    def check(self, singular: str = "", plural: str = "") -> None:
        """Raises ``JudgeDown`` if too little was judged."""
        if message := self.describe_problem(singular, plural):
            raise JudgeDown(message)

    @property
    def _judge_failures(self) -> tuple[FailureKind, ...]:
        return tuple(kind for kind in self.failures if kind in JUDGE_FAILURES)
