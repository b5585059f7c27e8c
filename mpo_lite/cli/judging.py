"""Judging for commands that do not train: what an outage cost is asked for again, and money is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from mpo_lite.errors import LOST
from mpo_lite.judge.breaker import JudgingResult
from mpo_lite.sanitize import pluralize

S = TypeVar("S")
V = TypeVar("V", bound=JudgingResult)


def judge_twice(judge: Callable[[Sequence[S]], list[V]], samples: Sequence[S]) -> list[V]:
    """Judges samples, and once more those that the server lost.

    Args:
        judge: Judges samples, in order.
        samples: N samples.

    Returns:
        N verdicts, in order.
    """
    found = judge(samples)
    lost = [place for place, one in enumerate(found) if one.failure in LOST]
    for place, one in zip(lost, judge([samples[place] for place in lost]) if lost else [], strict=True):
        found[place] = one
    return found


def spend_in_words(usd: float | None, unmetered: int = 0) -> str:
    """What was spent, e.g. ``$0.0412``, and how many calls are in it at the most they can have cost."""
    if not unmetered:
        return "unpriced" if usd is None else f"${usd:.4f}"
    calls = pluralize(unmetered, "call")
    return f"unpriced, {calls} unmetered" if usd is None else f"${usd:.4f} at most ({calls} unmetered)"
