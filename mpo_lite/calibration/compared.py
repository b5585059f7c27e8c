"""Judged rows as numbers: what the judge says of each, and what the label says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mpo_lite.calibration.judging import Judged, Judgement
from mpo_lite.calibration.labels import LabelledRow
from mpo_lite.stats.agreement import Floats, kendall, mean
from mpo_lite.tasks.rules import count_words
from mpo_lite.types import Verdict


@dataclass(frozen=True)
class Compared:
    """Rows whose answers were all judged. What is measured of a pair is a difference: first minus second.

    Attributes:
        rows: N rows.
        judgements: For each row, those of its answers.
        rewards: N rewards, or differences of rewards.
        labels: N labels; of pairs 1 if the first answer won, 0.5 for a tie, 0 if the second won.
        is_paired: Whether the rows are pairs.
    """

    rows: tuple[LabelledRow, ...]
    judgements: tuple[list[Judgement], ...]
    rewards: Floats
    labels: Floats
    is_paired: bool

    @property
    def prompts(self) -> list[str]:
        """The prompt of each row; rows are resampled by prompt."""
        return [row.prompt for row in self.rows]

    @property
    def words(self) -> Floats:
        """Number of words of each row's answer; of a pair, by how many the first answer has more."""
        counts = ([count_words(answer.completion) for answer in row.answers] for row in self.rows)
        return np.array([difference(row) for row in counts])

    def agreement(self, values: Floats, labels: Floats) -> float:
        """Agreement of values with labels: Kendall's tau, or of pairs the accuracy, to which a tie of one
        side alone contributes a half.
        """
        return mean(credit(values, labels)) if self.is_paired else kendall(values, labels)


def compare(judged: Judged) -> Compared:
    """The rows of which every answer has a reward; a failed judgement is no score."""
    judged_rows = [
        (row, judgements, values)
        for row, judgements in zip(judged.data.rows, judged.answers, strict=True)
        if (values := measure_answers(judgements, lambda verdict: verdict.reward))
    ]
    return Compared(
        tuple(row for row, _, _ in judged_rows),
        tuple(judgements for _, judgements, _ in judged_rows),
        np.array([difference(values) for _, _, values in judged_rows]),
        np.array([row.label for row, _, _ in judged_rows]),
        judged.data.kind == "pairs",
    )


def measure_answers(
    judgements: Sequence[Judgement], measure: Callable[[Verdict], float | None]
) -> list[float] | None:
    """A measure of the verdict on each answer of a row; None where one has none."""
    values = [measure(judgement.verdict) for judgement in judgements]
    complete = [value for value in values if value is not None]
    return complete if len(complete) == len(values) else None


def difference(values: Sequence[float]) -> float:
    """The value of a row's only answer, or of its first answer minus the second."""
    # Rounded: equal rewards may differ in the last bits.
    return round(values[0] - (values[1] if len(values) > 1 else 0.0), 9)


def outcome(differences: Floats) -> Floats:
    """Who wins by differences, as labels of pairs say it: 1, 0.5 or 0."""
    return (np.sign(differences) + 1) / 2


def credit(differences: Floats, labels: Floats) -> Floats:
    """How far each pair's outcome agrees with its label: 1, 0.5 where only one of them is a tie, or 0."""
    return 1 - np.abs(outcome(differences) - labels)
