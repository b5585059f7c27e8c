"""Judging for commands that do not train: retries after an outage, and the spend in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from mpo_lite.errors import LOST
from mpo_lite.judge.breaker import JudgingResult
from mpo_lite.sanitize import pluralize

S = TypeVar("S")
V = TypeVar("V", bound=JudgingResult)


def judge_twice(judge: Callable[[Sequence[S]], list[V]], samples: Sequence[S]) -> list[V]:
    """Judges samples, and retries those that were lost to server errors.

    Args:
        judge: Judges samples, in order.
        samples: N samples.

    Returns:
        N verdicts, in order.
    """
    verdicts = judge(samples)
    lost = [place for place, verdict in enumerate(verdicts) if verdict.failure in LOST]
    retried = judge([samples[place] for place in lost]) if lost else []
    for place, verdict in zip(lost, retried, strict=True):
        verdicts[place] = verdict
    return verdicts


def format_spend(usd: float | None, unmetered: int = 0) -> str:
    """The spend, e.g. ``$0.0412``, and how many calls in it are counted at their highest possible cost."""
    if not unmetered:
        return "unpriced" if usd is None else f"${usd:.4f}"
    calls = pluralize(unmetered, "call")
    return f"unpriced, {calls} unmetered" if usd is None else f"${usd:.4f} at most ({calls} unmetered)"
