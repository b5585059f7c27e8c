"""A calibration as a whole: from judged rows to figures, the worst disagreements and a conclusion."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from mpo_lite.calibration.agreement import Agreement, measure_agreement
from mpo_lite.calibration.biases import Biases, measure_biases
from mpo_lite.calibration.compared import Compared, compare
from mpo_lite.calibration.conclusion import THRESHOLDS, Conclusion, conclude
from mpo_lite.calibration.criteria import CriterionFigures, measure_criteria
from mpo_lite.calibration.judging import Judged
from mpo_lite.calibration.labels import LEAST_ROWS
from mpo_lite.calibration.tricks import TrickResult, measure_tricks
from mpo_lite.errors import JudgeDown
from mpo_lite.rubric import Rubric

WORST = 10
"""Disagreements that are shown."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Calibration:
    """The figures of a judge with a rubric.

    Attributes:
        rubric: What it judged by.
        judged: Everything that was judged.
        compared: The rows that the figures are from.
        agreement: With the labels.
        criteria: By id.
        biases: What moves scores beyond the labels.
        tricks: What known tricks earned.
        conclusion: Whether a policy may be trained.
    """

    rubric: Rubric
    judged: Judged
    compared: Compared
    agreement: Agreement
    criteria: dict[str, CriterionFigures]
    biases: Biases
    tricks: list[TrickResult]
    conclusion: Conclusion


def calibrate(rubric: Rubric, judged: Judged) -> Calibration:
    """Measures a judge.

    Raises:
        JudgeDown: The judged rows are too few, or answers to one prompt alone.
    """
    compared = compare(judged)
    if len(compared.rows) < LEAST_ROWS or len(set(compared.prompts)) < 2:
        raise JudgeDown(
            f"only {len(compared.rows)} of {len(judged.data.rows)} rows were judged; at least {LEAST_ROWS} "
            "with two different prompts are needed"
        )
    agreement = measure_agreement(compared)
    biases = measure_biases(rubric, compared, judged, agreement)
    criteria = measure_criteria(rubric, compared, judged)
    honest = [judged.answers[place][0].verdict.reward for place in judged.probed]
    rewards = [
        judgement.verdict.reward or 0.0 for judgements in compared.judgements for judgement in judgements
    ]
    tricks = measure_tricks(
        judged.planted, [verdict.reward for verdict in judged.tricks], honest, median(rewards)
    )
    conclusion = conclude(agreement, biases, criteria, tricks, len(compared.rows))
    return Calibration(rubric, judged, compared, agreement, criteria, biases, tricks, conclusion)


def list_worst(calibration: Calibration, count: int = WORST) -> list[Row]:
    """The rows where judge and label disagree most, each with the judge's reasons."""
    compared, predicted = calibration.compared, calibration.agreement.predicted
    errors = np.abs(predicted - compared.labels)
    # Among equal errors, those come first about which the judge was surest.
    order = np.lexsort((-np.abs(compared.rewards), -errors)) if compared.is_paired else np.argsort(-errors)
    best = {criterion.id: len(criterion.levels) - 1 for criterion in calibration.rubric.criteria}
    return [
        {
            "row": compared.rows[place].number,
            "prompt": compared.rows[place].prompt,
            "label": compared.rows[place].label,
            "predicted": float(predicted[place]),
            "answers": [
                {
                    "text": answer.completion,
                    "author": author,
                    "reward": judgement.verdict.reward,
                    "by_rule": judgement.verdict.source == "rule",
                    "criteria": [
                        {"id": name, "level": assessed.level, "best": best[name], "reason": assessed.reason}
                        for name, assessed in judgement.verdict.assessments.items()
                    ],
                }
                for answer, author, judgement in zip(
                    compared.rows[place].answers,
                    compared.rows[place].authors or ("", ""),
                    compared.judgements[place],
                    strict=False,
                )
            ],
        }
        for place in map(int, order[:count])
        if errors[place] > 0
    ]


def to_json(calibration: Calibration) -> Row:
    """All figures, as ``--json`` prints them."""
    judged, compared, agreement = calibration.judged, calibration.compared, calibration.agreement
    verdicts = [judgement.verdict for judgements in judged.answers for judgement in judgements]
    failures = Counter(verdict.failure for verdict in verdicts if verdict.failure)
    return {
        "kind": judged.data.kind,
        "rows": len(judged.data.rows),
        "judged": len(compared.rows),
        "unlabelled": judged.data.unlabelled,
        "answers": len(verdicts),
        "failures": dict(failures),
        "by_rule": sum(verdict.source == "rule" for verdict in verdicts),
        "conclusion": asdict(calibration.conclusion),
        "thresholds": asdict(THRESHOLDS),
        "agreement": {
            figure.name: {"title": figure.title, **asdict(figure.estimate), "constant": figure.constant}
            for figure in agreement.figures
        },
        "gain": asdict(agreement.gain),
        "constant": agreement.constant,
        "alpha": asdict(agreement.alpha) if agreement.alpha else None,
        "levels": agreement.levels,
        "confusion": agreement.confusion,
        "criteria": _list_criteria(calibration),
        "probed": len(judged.probed),
        "biases": asdict(calibration.biases),
        "tricks": [asdict(trick) for trick in calibration.tricks],
        "worst": list_worst(calibration),
    }


def _list_criteria(calibration: Calibration) -> list[Row]:
    kinds = {criterion.id: criterion for criterion in calibration.rubric.criteria}
    return [
        {"id": name, "kind": kinds[name].kind, "weight": kinds[name].weight, **asdict(figures)}
        for name, figures in calibration.criteria.items()
    ]
