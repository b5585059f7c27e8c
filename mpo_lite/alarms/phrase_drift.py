"""Phrase drift: what has become frequent since a baseline, and goes with reward.

Candidates are fixed before anything is tested: every closing, opening, word, bigram and form of layout that
stands in enough responses of the window. Counted are responses, not occurrences, so that one response that
repeats itself counts once. A candidate is tested one-sided by Fisher's exact test; the procedure of Benjamini
and Hochberg (1995) keeps the share of false ones at q over all candidates; how far one drifted is the
log-odds ratio with a Jeffreys prior, which small counts cannot blow up.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mpo_lite.alarms.features import ResponseFeatures

Q = 0.1
"""False discovery rate."""
LEAST_GAIN, LEAST_COUNT = 0.25, 4
"""A candidate must stand in a quarter more of the responses than before, and in this many, to as many
different prompts: what the answers to one prompt share comes from the prompt."""
LEAST_LOG_ODDS = 2.0
"""Its odds must have grown seven times: what is merely significant is no shortcut."""
_PRIOR = 0.5
_FAMILIES = ("closing", "opening", "word", "bigram", "layout")


@dataclass(frozen=True)
class Drift:
    """A phrase that has become frequent.

    Attributes:
        family: Where it was found: closing, opening, word, bigram or layout.
        phrase: The phrase.
        log_odds: Log-odds ratio of window against baseline, with prior.
        p: One-sided p-value of Fisher's exact test.
        share: Share of the window's responses that hold it.
        before: Share of the baseline's.
        ids: The window's rows that hold it.
    """

    family: str
    phrase: str
    log_odds: float
    p: float
    share: float
    before: float
    ids: tuple[str, ...]


class PhraseCounts:
    """In how many responses each phrase stood at first; counted once, compared with many windows."""

    def __init__(self, rows: Sequence[ResponseFeatures]) -> None:
        self.size = len(rows)
        self.counts = {family: count(rows, family) for family in _FAMILIES}


def count(rows: Sequence[ResponseFeatures], family: str) -> Counter[str]:
    """Phrase → number of responses that hold it."""
    counted: Counter[str] = Counter()
    for row in rows:
        counted.update(row.phrases[family])
    return counted


def find_phrase_drift(window: Sequence[ResponseFeatures], baseline: PhraseCounts) -> list[Drift]:
    """What has drifted, surest first.

    Args:
        window: N responses; where they have rewards, only what goes with a higher reward is told.
        baseline: What the policy wrote at first, or anything that is as it should be.

    Returns:
        Phrases that pass the test at ``Q`` and have grown by ``LEAST_LOG_ODDS`` and ``LEAST_GAIN``.
    """
    size, least = len(window), max(LEAST_COUNT, math.ceil(LEAST_GAIN * len(window)))
    asked = len({row.prompt for row in window})
    least_prompts = min(asked, max(LEAST_COUNT, math.ceil(LEAST_GAIN * asked)))
    tested = [
        (_fisher(seen, size, baseline.counts[family][phrase], baseline.size), family, phrase, seen)
        for family in _FAMILIES
        for phrase, seen in count(window, family).items()
        if seen >= least
    ]
    tested.sort()
    # Benjamini-Hochberg: all up to the largest rank whose p-value is within its share of q are accepted.
    passed = max((rank for rank, (p, *_) in enumerate(tested, 1) if p <= Q * rank / len(tested)), default=0)
    drifts: list[Drift] = []
    for p, family, phrase, seen in tested[:passed]:
        before = baseline.counts[family][phrase]
        share, share_before = seen / size, before / max(1, baseline.size)
        log_odds = _log_odds(seen, size) - _log_odds(before, baseline.size)
        holders = [row for row in window if phrase in row.phrases[family]]
        grown = log_odds >= LEAST_LOG_ODDS and share - share_before >= LEAST_GAIN
        general = len({row.prompt for row in holders}) >= least_prompts
        if grown and general and _pays(window, holders):
            ids = tuple(row.id for row in holders)
            drifts.append(Drift(family, phrase, log_odds, p, share, share_before, ids))
    return drifts


def _log_odds(seen: int, of: int) -> float:
    return math.log((seen + _PRIOR) / (of - seen + _PRIOR))


def _pays(window: Sequence[ResponseFeatures], holders: Sequence[ResponseFeatures]) -> bool:
    """Whether those that hold it earn more on average; also where that cannot be told: where nobody has a
    reward, or everybody who has one holds it.
    """
    held = {row.id for row in holders}
    with_it = [row.reward for row in holders if row.reward is not None]
    without = [row.reward for row in window if row.reward is not None and row.id not in held]
    if not with_it:
        return not without
    return not without or statistics.fmean(with_it) > statistics.fmean(without)


def _fisher(seen: int, size: int, before: int, baseline: int) -> float:
    """P(at least ``seen`` of ``size``) if window and baseline were one: the hypergeometric tail."""
    total, holding = size + baseline, seen + before

    def log_choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    whole = log_choose(total, holding)
    return math.fsum(
        math.exp(log_choose(size, k) + log_choose(baseline, holding - k) - whole)
        for k in range(seen, min(size, holding) + 1)
        if 0 <= holding - k <= baseline
    )
