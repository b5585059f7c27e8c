"""Criterion statistics: which criteria still distinguish answers, and which the judge cannot repeat.

A criterion that every answer meets no longer teaches anything (EvoRubrics, arXiv 2606.23038); one whose level
changes when the judge is sampled again on the same answer teaches noise.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mpo_lite.rubric import Rubric
from mpo_lite.types import Rollout, Verdict


@dataclass(frozen=True)
class CriterionStats:
    """One criterion over a stretch of training. Levels are put on the scale from 0, worst, to 1, best.

    Attributes:
        mean: Mean level.
        spread: Standard deviation of levels within prompt groups, mean over groups, in [0, 0.5].
        saturated: Share of answers at the best level.
        noise: Mean difference between two judgements of one answer; None where none was judged twice.
    """

    mean: float
    spread: float
    saturated: float
    noise: float | None


def criterion_stats(
    rubric: Rubric, rollouts: Sequence[Rollout], repeats: Mapping[str, Verdict]
) -> dict[str, CriterionStats]:
    """Measures every criterion.

    Args:
        rubric: What the rollouts were judged by; those judged by another one are left out.
        rollouts: Rollouts of whole prompt groups.
        repeats: Rollout id → a second verdict on it.

    Returns:
        Criterion id → health; empty where nothing was judged.
    """
    known = {criterion.id for criterion in rubric.criteria}
    judged = [rollout for rollout in rollouts if set(rollout.verdict.assessments) == known]
    if not judged:
        return {}
    stats: dict[str, CriterionStats] = {}
    for criterion in rubric.criteria:
        top = len(criterion.levels) - 1
        groups: dict[tuple[int, str], list[float]] = {}
        differences: list[float] = []
        for rollout in judged:
            level = rollout.verdict.assessments[criterion.id].level / top
            groups.setdefault((rollout.batch, rollout.prompt), []).append(level)
            again = repeats.get(rollout.id)
            if again and criterion.id in again.assessments:
                differences.append(abs(level - again.assessments[criterion.id].level / top))
        levels = [level for group in groups.values() for level in group]
        stats[criterion.id] = CriterionStats(
            mean=statistics.fmean(levels),
            spread=statistics.fmean(statistics.pstdev(group) for group in groups.values()),
            saturated=sum(level == 1 for level in levels) / len(levels),
            noise=statistics.fmean(differences) if differences else None,
        )
    return stats


def describe_stats(health: Mapping[str, CriterionStats]) -> str:
    """One line per criterion, for the meta-judge."""
    lines: list[str] = []
    for name, one in health.items():
        noise = "" if one.noise is None else f", differs by {one.noise:.2f} when judged again"
        lines.append(
            f"{name}: mean level {one.mean:.2f} of 1, spread within a prompt's answers {one.spread:.2f}, "
            f"best level in {one.saturated:.0%}{noise}"
        )
    return "\n".join(lines)
