"""The reward that the optimiser is given: the rubric's, or a composition of the same levels that teaches
more.

Everything else (journal, metrics, alarms, gate, meta step) keeps the rubric's own reward. A training reward
depends on the batch's verdicts and on the rubric version alone: all processes, and a resumed run, compute the
same.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from math import fsum
from typing import Literal

from mpo_lite.loop.reward import Reward, groups, mean_spread
from mpo_lite.loop.session import Session
from mpo_lite.meta.criterion_stats import criterion_stats
from mpo_lite.rubric import Rubric
from mpo_lite.types import Rollout

FLOOR = 0.1
"""Share of its weight that a criterion without contrast keeps: once answers differ in it again, it counts."""


def training_rewards(session: Session, rollouts: Sequence[Rollout], scale: float) -> list[Reward]:
    """What the optimiser is given for a batch, by ``criterion_weights`` and ``aggregate``.

    Args:
        session: The run; the weights of the batch's criteria go to its metrics where they are not the
            rubric's.
        rollouts: The whole batch, of all processes.
        scale: Factor on all of them; what a verifier decided is not scaled.

    Returns:
        B rewards; None where the rollout has none.
    """
    rewards = [rollout.reward for rollout in rollouts]
    if any(rollout.verdict.source == "verifier" for rollout in rollouts):
        return rewards
    if (session.config.criterion_weights, session.config.aggregate) != ("rubric", "sum"):
        rewards = _compose(session, rollouts)
    return [None if reward is None else scale * reward for reward in rewards]


def _compose(session: Session, rollouts: Sequence[Rollout]) -> list[Reward]:
    config, rubric = session.config, session.rubric
    weights = merit_weights(rubric)
    if config.criterion_weights == "contrast":
        weights = contrast_weights(rubric, rollouts)
        session.add_metrics(weights={name: round(weight, 4) for name, weight in weights.items()})
    return compose_rewards(rubric, rollouts, config.group_size, weights, config.aggregate)


def merit_weights(rubric: Rubric) -> dict[str, float]:
    """The rubric's own weights of its merits."""
    return {
        criterion.id: float(criterion.weight) for criterion in rubric.criteria if criterion.kind == "merit"
    }


def contrast_weights(rubric: Rubric, rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Weights each merit by how much its levels differ between answers to the same prompt.

    A criterion in which all answers of a group are alike teaches nothing there, but takes its share of the
    reward's range. Source: the idea of POW3R (arXiv 2605.20164).

    Args:
        rubric: What the rollouts were judged by.
        rollouts: A batch of whole prompt groups.

    Returns:
        Merit id → the rubric's weight times a factor in [``FLOOR``, 1], which is 1 for the merit with the
        largest spread within groups. The rubric's weights where no merit has any.
    """
    stats = criterion_stats(rubric, [rollout for rollout in rollouts if rollout.reward is not None], {})
    weights = merit_weights(rubric)
    largest = max(stats[name].spread for name in weights) if stats else 0.0
    if not largest:
        return weights
    return {
        name: weight * (FLOOR + (1 - FLOOR) * (stats[name].spread / largest))
        for name, weight in weights.items()
    }


def compose_rewards(
    rubric: Rubric,
    rollouts: Sequence[Rollout],
    group_size: int,
    weights: Mapping[str, float],
    aggregate: Literal["sum", "normalize"],
) -> list[Reward]:
    """Composes the rewards of a batch from the levels of its verdicts.

    A veto cuts what every merit gives, and a zero by rule gives nothing for any of them.

    Args:
        rubric: What the rollouts were judged by.
        rollouts: B rollouts, ``group_size`` to each prompt, none of them scored by a verifier.
        group_size: Completions per prompt, G.
        weights: Merit id → its weight.
        aggregate: ``sum``: the weighted mean of the merits. ``normalize``: each merit is standardised within
            its prompt group before (GDPO, arXiv 2601.05242). The sum is put back on the scale of the rubric's
            rewards, each group's mean and the batch's mean spread within groups, so that penalties and
            further rewards weigh what they did.

    Returns:
        B rewards, in [0, 1] with ``sum``; None where the rollout has none.
    """
    if aggregate == "sum":
        return [_reward(rubric, rollout, weights) for rollout in rollouts]
    rewards = [rollout.reward for rollout in rollouts]
    combined = [
        value for group in groups(rollouts, group_size) for value in _sum_standardized(rubric, group, weights)
    ]
    spread = mean_spread(groups(combined, group_size))
    factor = (mean_spread(groups(rewards, group_size)) or 0.0) / spread if spread else 0.0
    return [
        None if value is None else level + factor * value
        for value, level in zip(combined, _group_means(rewards, group_size), strict=True)
    ]


def _reward(rubric: Rubric, rollout: Rollout, weights: Mapping[str, float]) -> Reward:
    if rollout.reward is None:
        return None
    if rollout.verdict.source == "rule":
        return rollout.reward
    return rubric.reward(rollout.verdict.assessments, weights)


def _sum_standardized(rubric: Rubric, group: Sequence[Rollout], weights: Mapping[str, float]) -> list[Reward]:
    """Per answer of a group the weighted mean of its merits, each with mean 0 and variance 1 in the group."""
    columns = {
        name: _standardize([_reward(rubric, rollout, {name: 1.0}) for rollout in group]) for name in weights
    }
    total = fsum(weights.values())
    return [
        None
        if rollout.reward is None
        else fsum(weight * (columns[name][row] or 0.0) for name, weight in weights.items()) / total
        for row, rollout in enumerate(group)
    ]


def _standardize(values: Sequence[Reward]) -> list[Reward]:
    """Mean 0 and variance 1; all 0 where the values are equal."""
    present = [value for value in values if value is not None]
    spread = statistics.pstdev(present) if present else 0.0
    mean = statistics.fmean(present) if present else 0.0
    return [None if value is None else (value - mean) / spread if spread else 0.0 for value in values]


def _group_means(rewards: Sequence[Reward], group_size: int) -> list[float]:
    """For each answer, the mean reward of its group; 0 for a group without rewards."""
    means: list[float] = []
    for group in groups(rewards, group_size):
        present = [reward for reward in group if reward is not None]
        means += [statistics.fmean(present) if present else 0.0] * len(group)
    return means
