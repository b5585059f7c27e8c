"""How rewards of rubric versions compare: their spread and mean on the initial policy's answers.

A rubric with more criteria, or with saturated ones, spreads the same answers less. GRPO divides a group's
rewards by their standard deviation; RLOO and PPO do not, so that under such a rubric the KL penalty would
weigh more and learning would slow down although nothing but the rubric changed.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from mpo_lite.judge.base import Sample
from mpo_lite.meta.gate_judge import BudgetedJudge
from mpo_lite.rubric import Rubric
from mpo_lite.rubric_versions import RubricVersion

LEAST_ANSWERS = 4
LEAST_SPREAD = 0.02
"""Answers with both rewards, and their standard deviation, below which a ratio says nothing."""
LARGEST = 4.0
"""A scale is between this and its inverse."""


def version_scale(
    current: RubricVersion, rubric: Rubric, anchor: Sequence[Sample], gate_judge: BudgetedJudge
) -> float:
    """The factor under which the anchor's rewards by a new rubric spread as they do by the current version.

    Nothing is asked for: the gate has had the anchor judged by both before it accepts a proposal.

    Args:
        current: The version that the rubric follows, with its own scale.
        rubric: The new rubric.
        anchor: The initial policy's answers to fixed prompts.
        gate_judge: Remembers their verdicts.

    Returns:
        A factor in [1 / ``LARGEST``, ``LARGEST``]; the current version's where too little is known.
    """
    pairs = _recall_pairs(current, rubric, anchor, gate_judge)
    if len(pairs) < LEAST_ANSWERS:
        return current.scale
    before, after = (statistics.pstdev(pair[side] for pair in pairs) for side in (0, 1))
    if min(before, after) < LEAST_SPREAD:
        return current.scale
    return min(LARGEST, max(1 / LARGEST, current.scale * before / after))


def version_offset(
    current: RubricVersion, rubric: Rubric, anchor: Sequence[Sample], gate_judge: BudgetedJudge
) -> float:
    """How much more the anchor earns by a new rubric than by the run's first version, in [-1, 1].

    Args:
        current: The version that the rubric follows, with its own offset.
        rubric: The new rubric.
        anchor: The initial policy's answers to fixed prompts.
        gate_judge: Remembers their verdicts; nothing is asked for.

    Returns:
        The mean difference; the current version's offset where too little is known.
    """
    pairs = _recall_pairs(current, rubric, anchor, gate_judge)
    if len(pairs) < LEAST_ANSWERS:
        return current.offset
    return current.offset + statistics.fmean(new - old for old, new in pairs)


def _recall_pairs(
    current: RubricVersion, rubric: Rubric, anchor: Sequence[Sample], gate_judge: BudgetedJudge
) -> list[tuple[float, float]]:
    """The anchor's rewards by the current version and by the new rubric, where both are known."""
    by_current, by_new = (gate_judge.recall(anchor, each) for each in (current.rubric, rubric))
    both = zip(by_current, by_new, strict=True)
    return [(old, new) for old, new in both if old is not None and new is not None]
