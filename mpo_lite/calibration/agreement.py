"""Agreement of judge and labels, next to what a predictor gets that always says the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mpo_lite.calibration.compared import Compared, credit, outcome
from mpo_lite.stats.agreement import (
    Estimate,
    Floats,
    Rows,
    cohen_kappa,
    estimate,
    kendall,
    krippendorff_alpha,
    level_edges,
    mean,
    pearson,
    predict_labels,
    spearman,
)

OUTCOMES = ("second", "tie", "first")
"""Names of the outcomes of pairs, in the order of their labels."""


@dataclass(frozen=True)
class Figure:
    """A measure of agreement.

    Attributes:
        name: Its key in ``--json``.
        title: Its name for people.
        estimate: Its value and interval.
        constant: The value of a predictor that always says the same; None where it has none.
    """

    name: str
    title: str
    estimate: Estimate
    constant: float | None = None


@dataclass(frozen=True)
class Agreement:
    """Agreement of judge and labels.

    Attributes:
        figures: All measures. The first is what the conclusion depends on: Kendall's tau with scores,
            accuracy with pairs.
        gain: The first measure minus what the best constant predictor gets.
        constant: What that predictor says.
        levels: Names of the levels that both are put into.
        confusion: Number of rows by level of the label and, within it, of the judge.
        predicted: For each row, the label that the judge's score stands for.
        alpha: Krippendorff's alpha of the rewards of a panel or replicates; None for a single judge.
    """

    figures: tuple[Figure, ...]
    gain: Estimate
    constant: str
    levels: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    predicted: Floats
    alpha: Estimate | None

    @property
    def main(self) -> Figure:
        """What the conclusion depends on."""
        return self.figures[0]


def measure_agreement(data: Compared) -> Agreement:
    """Measures agreement with scores or with winners."""
    return _measure_pairs(data) if data.is_paired else _measure_scores(data)


def _measure_scores(data: Compared) -> Agreement:
    scores, labels, prompts = data.rewards, data.labels, data.prompts
    predicted, medians = predict_labels(scores, labels, prompts)
    edges = level_edges(labels)
    levels, guessed = np.digitize(labels, edges), np.digitize(predicted, edges)
    counts = np.bincount(levels, minlength=len(edges) + 1)

    def measure(name: str, title: str, statistic: Callable[[Rows], float], constant: float) -> Figure:
        return Figure(name, title, estimate(statistic, prompts), constant)

    figures = (
        measure("kendall", "Kendall's tau", lambda rows: kendall(scores[rows], labels[rows]), 0.0),
        measure("spearman", "Spearman correlation", lambda rows: spearman(scores[rows], labels[rows]), 0.0),
        measure("pearson", "Pearson correlation", lambda rows: pearson(scores[rows], labels[rows]), 0.0),
        measure(
            "error",
            "mean absolute error after a monotone fit, in units of the labels",
            lambda rows: mean(np.abs(predicted - labels)[rows]),
            mean(np.abs(medians - labels)),
        ),
        measure(
            "accuracy",
            "accuracy by level",
            lambda rows: mean((guessed == levels).astype(float)[rows]),
            float(counts.max() / counts.sum()),
        ),
        *_measure_kappas(guessed, levels, len(counts), prompts),
    )
    return Agreement(
        figures,
        figures[0].estimate,
        "always the same score",
        _name_levels(labels, edges),
        _count_levels(levels, guessed, len(counts)),
        predicted,
        _measure_alpha(data),
    )


def _measure_pairs(data: Compared) -> Agreement:
    labels, prompts = data.labels, data.prompts
    credits = credit(data.rewards, labels)
    by_constant = {name: 1 - np.abs(labels - place / 2) for place, name in enumerate(OUTCOMES)}
    best = max(OUTCOMES, key=lambda name: mean(by_constant[name]))
    by_length = credit(data.words, labels)

    def measure(name: str, title: str, values: Floats) -> Figure:
        return Figure(
            name, title, estimate(lambda rows: mean(values[rows]), prompts), mean(by_constant[best])
        )

    won, said = (np.rint(2 * values).astype(np.intp) for values in (labels, outcome(data.rewards)))
    figures = (
        measure("accuracy", "accuracy, ties as half", credits),
        *_measure_kappas(said, won, len(OUTCOMES), prompts),
        measure("always_first", "accuracy of always the first answer", by_constant["first"]),
        measure("longer", "accuracy of always the longer answer", by_length),
    )
    gains = credits - by_constant[best]
    return Agreement(
        figures,
        estimate(lambda rows: mean(gains[rows]), prompts),
        "always a tie" if best == "tie" else f"always the {best} answer",
        OUTCOMES,
        _count_levels(won, said, len(OUTCOMES)),
        outcome(data.rewards),
        _measure_alpha(data),
    )


def _measure_kappas(guessed: Rows, levels: Rows, count: int, prompts: list[str]) -> tuple[Figure, Figure]:
    plain = estimate(lambda rows: cohen_kappa(guessed[rows], levels[rows], count), prompts)
    weighted = estimate(lambda rows: cohen_kappa(guessed[rows], levels[rows], count, "quadratic"), prompts)
    return (
        Figure("kappa", "Cohen's kappa", plain, 0.0),
        Figure("weighted_kappa", "quadratically weighted kappa", weighted, 0.0),
    )


def _measure_alpha(data: Compared) -> Estimate | None:
    """Krippendorff's alpha of the judges' rewards, over all answers that they judged."""
    judged = [
        (row.prompt, [verdict.reward or 0.0 for verdict in judgement.by_judge.values()])
        for row, judgements in zip(data.rows, data.judgements, strict=True)
        for judgement in judgements
        if len(judgement.by_judge) > 1
    ]
    if not judged:
        return None
    ratings = np.array([rewards for _, rewards in judged]).T
    return estimate(
        lambda answers: krippendorff_alpha(ratings[:, answers], "interval"), [prompt for prompt, _ in judged]
    )


def _count_levels(levels: Rows, guessed: Rows, count: int) -> tuple[tuple[int, ...], ...]:
    table = np.zeros((count, count), dtype=int)
    np.add.at(table, (levels, guessed), 1)
    return tuple(tuple(map(int, row)) for row in table)


def _name_levels(labels: Floats, edges: Floats) -> tuple[str, ...]:
    levels = np.digitize(labels, edges)
    members = [labels[levels == level] for level in range(len(edges) + 1)]
    return tuple(
        f"{values.min():g}" if np.ptp(values) == 0 else f"{values.min():g} to {values.max():g}"
        for values in members
    )
