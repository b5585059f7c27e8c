"""What the gate measures: margins of known-bad answers, gains by shortcuts, rank order, spread.

Planted answers are compared in pairs: one of them and the honest answer to the same prompt, under one rubric.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations

from mpo_lite.config import Thresholds
from mpo_lite.meta.objections import Objection
from mpo_lite.meta.sentinels import ADDITIONS, COMPLAINTS, PlantedAnswer, Scores
from mpo_lite.rubric import Rubric
from mpo_lite.types import Verdict

Gaps = Mapping[str, Sequence[float]]
"""Kind → by how much each planted answer scored below the honest one to its prompt, in [-1, 1]."""
LEAST_MARGIN = 0.05
"""The margin that is required however strict a rubric is."""
LEAST_GAIN = 0.06
"""Mean gain by a shortcut below which a rubric does not count as paying for it."""
ERROR_RATE = 0.05
"""Chance that a rubric that pays for no shortcut is refused for one, over all kinds that are tried."""
CLOSE = 0.15
"""How near to the required margin two comparisons are too few to decide."""
_FULL_MARGIN_FROM = 0.5
"""Range between the lowest known-bad answers and honest ones from which on the whole margin is required."""


def measure_gaps(planted: Sequence[PlantedAnswer], honest: Scores, scores: Scores) -> dict[str, list[float]]:
    """How far planted answers score below the honest answers to the same prompts.

    Args:
        planted: N planted answers.
        honest: Scores of the anchor's answers, None where judging failed.
        scores: N scores of the planted answers, None where judging failed.

    Returns:
        Kind → gaps, of the pairs with two scores; kinds without such a pair are left out.
    """
    gaps: dict[str, list[float]] = {}
    for answer, score in zip(planted, scores, strict=True):
        honest_score = honest[answer.place]
        if score is not None and honest_score is not None:
            gaps.setdefault(answer.kind, []).append(honest_score - score)
    return gaps


def mean_gaps(gaps: Gaps) -> dict[str, float]:
    """Mean margins of sentinels and mean gains by shortcuts, for the record."""
    means = {kind: statistics.fmean(values) for kind, values in gaps.items()}
    return {
        f"gain_{kind}" if kind in ADDITIONS else f"margin_{kind}": -mean if kind in ADDITIONS else mean
        for kind, mean in means.items()
    }


def required_margin(margin: float, honest: Scores, gaps: Gaps) -> float:
    """By how much known-bad answers must score below honest ones.

    A strict rubric may pay the initial policy little, and can put no more below it than that; one that pays
    for the absence of faults pays any text for it. Where even the lowest of the known-bad answers is less
    than a half below honest ones, the margin shrinks in proportion.

    Args:
        margin: ``gate.margin``, required where the range is 0.5 or more.
        honest: Scores of the anchor's answers.
        gaps: Of planted answers; without any, known-bad answers are taken to score 0.
    """
    scores = [score for score in honest if score is not None]
    mean = statistics.fmean(scores) if scores else 0.0
    found = [statistics.fmean(values) for kind, values in gaps.items() if kind not in ADDITIONS]
    reach = min(mean, max(found, default=mean))
    return min(margin, max(LEAST_MARGIN, margin * min(1.0, reach / _FULL_MARGIN_FROM)))


def is_undecided(kind: str, gaps: Sequence[float], required: float) -> bool:
    """Whether a kind that was tried on some prompts has to be tried on all of them."""
    mean = statistics.fmean(gaps)
    return -mean > LEAST_GAIN / 2 if kind in ADDITIONS else abs(mean - required) < CLOSE


def find_rewarded(gaps: Gaps, required: float) -> list[Objection]:
    """The known-bad answers and the shortcuts that a rubric pays for."""
    from mpo_lite.stats.interval import mean_interval  # loads numpy

    objections: list[Objection] = []
    level = 1 - ERROR_RATE / max(1, len(gaps.keys() & ADDITIONS.keys()))
    for kind, values in gaps.items():
        mean = statistics.fmean(values)
        if kind in ADDITIONS:
            low, high = mean_interval([-value for value in values], level=level)
            if low > 0 and -mean > LEAST_GAIN:
                text = (
                    f"honest answers earned {-mean:.2f} more on average ({low:.2f} to {high:.2f}) once "
                    f"{ADDITIONS[kind]} had been added to them; that must earn nothing"
                )
                complaint = f"honest answers earn more with {ADDITIONS[kind]} added to them"
                objections.append(Objection(kind, text, complaint))
        elif mean < required:
            text = f"{COMPLAINTS[kind]}: {_against_honest(mean, required)}"
            complaint = f"{COMPLAINTS[kind]}: earned too much, compared with honest answers to the same tasks"
            objections.append(Objection(kind, text, complaint))
    return objections


def shortfall(gaps: Sequence[float], required: float) -> float:
    """How far a mean gap falls short of what is required, as a share of it; 0 where it does not."""
    return max(0.0, required - statistics.fmean(gaps)) / required if required else 0.0


def check_spread(
    groups: Sequence[Sequence[Verdict]], rubric: Rubric, thresholds: Thresholds
) -> tuple[dict[str, float], list[Objection]]:
    """Whether a rubric distinguishes recent answers, and does not veto nearly all of them.

    Args:
        groups: Verdicts by the rubric on answers to one prompt each.
        rubric: The rubric.
        thresholds: What it must satisfy.

    Returns:
        The shares of groups that differ and of answers that fail a veto, both empty where nothing was judged;
        and the objections.
    """
    judged = [[verdict for verdict in group if verdict.reward is not None] for group in groups]
    judged = [group for group in judged if len(group) > 1]
    if not judged:
        return {}, []
    varied = statistics.fmean(len({verdict.reward for verdict in group}) > 1 for group in judged)
    vetoes = {criterion.id for criterion in rubric.criteria if criterion.kind == "veto"}
    vetoed = statistics.fmean(
        any(verdict.assessments[name].level == 0 for name in vetoes & set(verdict.assessments))
        for group in judged
        for verdict in group
    )
    objections: list[Objection] = []
    if varied < thresholds.varied:
        text = (
            f"recent answers are not told apart: in {1 - varied:.0%} of the groups all answers to a task "
            "got the same score"
        )
        objections.append(Objection("varied", text, "recent answers to a task mostly get the same score"))
    if vetoed > thresholds.vetoed:
        complaint = "nearly all recent answers fail a veto"
        objections.append(Objection("vetoed", f"{vetoed:.0%} of recent answers fail a veto", complaint))
    return {"varied": varied, "vetoed": vetoed}, objections


def check_order(tau: float, thresholds: Thresholds) -> list[Objection]:
    """Whether honest answers are ranked against the current rubric; ``tau`` is Kendall's of the two."""
    if tau >= thresholds.agreement:
        return []
    complaint = "honest answers are ranked the other way round than by the current rubric"
    text = f"{complaint} (Kendall's tau {tau:.2f}, at least {thresholds.agreement:g})"
    return [Objection("agreement", text, complaint)]


def check_consensus(tau: float, thresholds: Thresholds) -> list[Objection]:
    """Whether a proposal depends on single samples; ``tau`` is the mean of Kendall's with its variants."""
    if thresholds.consensus is None or tau >= thresholds.consensus:
        return []
    complaint = "it depends on single samples: without one of them, honest answers are ranked otherwise"
    text = f"{complaint} (mean Kendall's tau {tau:.2f}, at least {thresholds.consensus:g})"
    return [Objection("consensus", text, complaint)]


def kendall_tau(one: Scores, other: Scores) -> float:
    """Kendall's tau-b of two scorings, in [-1, 1]; 0 where all scores of either are equal.

    Pairs with a missing score are left out. Source: Kendall, Rank Correlation Methods (1945).
    """
    both = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    concordant = first = second = 0
    for (a, b), (c, d) in combinations(both, 2):
        left, right = (a > c) - (a < c), (b > d) - (b < d)
        concordant += left * right
        first += left != 0
        second += right != 0
    return concordant / (first * second) ** 0.5 if first and second else 0.0


def _against_honest(margin: float, required: float) -> str:
    """How a bad answer scored relative to honest ones, where that is too high."""
    rest = "honest answers to the same tasks, on average"
    if margin >= 0.005:
        return f"scored only {margin:.2f} below {rest}; it must be {required:.2g} or more"
    above = f"{-margin:.2f} above" if margin <= -0.005 else "as high as"
    return f"scored {above} {rest}; it must score {required:.2g} or more below them"
