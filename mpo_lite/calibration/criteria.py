"""What each criterion contributes: agreement with the labels, contrast between answers, stability."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mpo_lite.calibration.compared import Compared, difference, measure_answers
from mpo_lite.calibration.judging import Judged, Judgement
from mpo_lite.rubric import Criterion, Rubric
from mpo_lite.stats.agreement import Estimate, estimate, krippendorff_alpha
from mpo_lite.types import Verdict


@dataclass(frozen=True)
class CriterionFigures:
    """One criterion.

    Attributes:
        agreement: Of its level with the label: Kendall's tau, or the accuracy of pairs.
        shares: Share of answers at each level, worst first.
        changed: Share of answers whose level changed when they were judged again; None if none was.
        alpha: Krippendorff's alpha of the levels of a panel or replicates; None where it is undefined.
    """

    agreement: Estimate
    shares: tuple[float, ...]
    changed: float | None
    alpha: float | None


def measure_criteria(rubric: Rubric, data: Compared, judged: Judged) -> dict[str, CriterionFigures]:
    """The figures of each criterion; empty if the judge saw no answer."""
    figures: dict[str, CriterionFigures] = {}
    for criterion in rubric.criteria:
        levels = [level for _, level in _levels(criterion, data.judgements)]
        if levels:
            counts = Counter(levels)
            changes = [changed for _, changed in level_changes(criterion, judged)]
            figures[criterion.id] = CriterionFigures(
                _measure_agreement(criterion, data),
                tuple(counts[level] / len(levels) for level in range(len(criterion.levels))),
                sum(changes) / len(changes) if changes else None,
                _measure_alpha(criterion, data.judgements),
            )
    return figures


def level_changes(criterion: Criterion, judged: Judged) -> Iterator[tuple[str, bool]]:
    """The prompt of each answer that was judged again, and whether the level changed."""
    for place, again in zip(judged.probed, judged.again, strict=True):
        for first, second in zip(judged.answers[place], again, strict=True):
            levels = [_level(criterion, judgement.verdict) for judgement in (first, second)]
            if None not in levels:
                yield judged.data.rows[place].prompt, levels[0] != levels[1]


def _level(criterion: Criterion, verdict: Verdict) -> int | None:
    """The level in a verdict; None where a rule decided or judging failed."""
    assessment = verdict.assessments.get(criterion.id)
    return assessment.level if assessment else None


def _levels(
    criterion: Criterion, judgements: Sequence[Sequence[Judgement]]
) -> Iterator[tuple[Judgement, int]]:
    for row in judgements:
        for judgement in row:
            level = _level(criterion, judgement.verdict)
            if level is not None:
                yield judgement, level


def _measure_agreement(criterion: Criterion, data: Compared) -> Estimate:
    rows = [
        (difference(levels), row.label, row.prompt)
        for row, judgements in zip(data.rows, data.judgements, strict=True)
        if (levels := measure_answers(judgements, lambda verdict: _level(criterion, verdict)))
    ]
    if not rows:
        return Estimate(None)
    values, labels = (np.array([row[part] for row in rows], dtype=np.float64) for part in (0, 1))
    return estimate(lambda drawn: data.agreement(values[drawn], labels[drawn]), [row[2] for row in rows])


def _measure_alpha(criterion: Criterion, judgements: Sequence[Sequence[Judgement]]) -> float | None:
    panel = [
        [verdict.assessments[criterion.id].level for verdict in judgement.by_judge.values()]
        for judgement, _ in _levels(criterion, judgements)
        if len(judgement.by_judge) > 1
    ]
    alpha = krippendorff_alpha(np.array(panel, dtype=np.float64).T, "ordinal") if panel else np.nan
    return None if np.isnan(alpha) else alpha
