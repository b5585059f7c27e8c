"""What moves a judge's scores beyond the labels: length, the place of an answer, its author, and chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpo_lite.calibration.agreement import Agreement
from mpo_lite.calibration.compared import Compared
from mpo_lite.calibration.criteria import level_changes
from mpo_lite.calibration.judging import Judged
from mpo_lite.rubric import Rubric
from mpo_lite.stats.agreement import Estimate, estimate, mean, partial_spearman


@dataclass(frozen=True)
class Biases:
    """Biases and noise.

    Attributes:
        length: Partial rank correlation of the score with the number of words, given the label.
        noise: Share of levels that changed when answers were judged again at the judge's temperature.
        reward_noise: Mean absolute difference between the two rewards.
        position: Mean reward of an answer shown first minus that of the same answer shown second; None unless
            pairs are judged groupwise.
        authors: Author → mean of what the judge thinks of the author's answers minus what the labels say, as
            a share of the labels' range; empty if authors are unknown.
    """

    length: Estimate
    noise: Estimate
    reward_noise: Estimate
    position: Estimate | None
    authors: dict[str, Estimate]


def measure_biases(rubric: Rubric, data: Compared, judged: Judged, agreement: Agreement) -> Biases:
    """Measures all of them; what there is no data for has no value."""
    return Biases(
        _measure_length(data),
        _measure_noise(rubric, judged),
        _measure_reward_noise(judged),
        _measure_position(judged),
        _measure_authors(data, agreement),
    )


def _measure_length(data: Compared) -> Estimate:
    scores, words, labels = data.rewards, data.words, data.labels
    return estimate(lambda rows: partial_spearman(scores[rows], words[rows], labels[rows]), data.prompts)


def _measure_noise(rubric: Rubric, judged: Judged) -> Estimate:
    changes = [change for criterion in rubric.criteria for change in level_changes(criterion, judged)]
    return _estimate_mean([(prompt, float(changed)) for prompt, changed in changes])


def _measure_reward_noise(judged: Judged) -> Estimate:
    differences: list[tuple[str, float]] = []
    for place, again in zip(judged.probed, judged.again, strict=True):
        for first, second in zip(judged.answers[place], again, strict=True):
            if first.verdict.reward is not None and second.verdict.reward is not None:
                change = abs(first.verdict.reward - second.verdict.reward)
                differences.append((judged.data.rows[place].prompt, change))
    return _estimate_mean(differences)


def _measure_position(judged: Judged) -> Estimate | None:
    """Of each answer of a pair: what it earns where it is shown first minus what it earns as the second."""
    if not judged.orders:
        return None
    return _estimate_mean(
        [(prompt, (there[0] - back[1] + back[0] - there[1]) / 2) for prompt, there, back in judged.orders]
    )


def _measure_authors(data: Compared, agreement: Agreement) -> dict[str, Estimate]:
    excess = (agreement.predicted - data.labels) / max(np.ptp(data.labels), 1e-9)
    by_author: dict[str, list[tuple[str, float]]] = {}
    for row, value in zip(data.rows, excess, strict=True):
        # What is too much for the first answer of a pair is too little for the second.
        for author, sign in zip(row.authors, (1, -1), strict=False):
            by_author.setdefault(author, []).append((row.prompt, sign * float(value)))
    return {author: _estimate_mean(values) for author, values in sorted(by_author.items())}


def _estimate_mean(values: Sequence[tuple[str, float]]) -> Estimate:
    """The mean of values, each with its prompt."""
    if not values:
        return Estimate(None)
    numbers = np.array([value for _, value in values])
    return estimate(lambda rows: mean(numbers[rows]), [prompt for prompt, _ in values])
