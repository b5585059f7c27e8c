"""Statistics of agreement: against formulas by hand, and where they are undefined."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpo_lite.stats.agreement import (
    Estimate,
    cohen_kappa,
    estimate,
    kendall,
    krippendorff_alpha,
    level_edges,
    mean,
    partial_spearman,
    predict_labels,
    spearman,
)


def test_an_interval_of_a_mean_is_that_of_normal_theory_over_groups() -> None:
    draw = np.random.default_rng(3)
    by_group = draw.normal(0.5, 0.2, size=100)
    values = np.repeat(by_group, 5)  # five equal rows per group: as uncertain as one
    groups = [f"prompt {place // 5}" for place in range(500)]
    result = estimate(lambda rows: mean(values[rows]), groups)
    half = 1.96 * by_group.std() / 10
    assert result.value == pytest.approx(by_group.mean())
    assert result.low == pytest.approx(by_group.mean() - half, abs=0.005)
    assert result.high == pytest.approx(by_group.mean() + half, abs=0.005)


def test_few_groups_give_no_interval_and_a_constant_no_correlation() -> None:
    values, constant = np.arange(40.0), np.ones(40)
    few = estimate(lambda rows: mean(values[rows]), [f"{place % 9}" for place in range(40)])
    assert few == Estimate(19.5)
    undefined = estimate(lambda rows: kendall(values[rows], constant[rows]), [f"{n}" for n in range(40)])
    assert undefined == Estimate(None)
    assert np.isnan(cohen_kappa(np.zeros(4, int), np.zeros(4, int), 3))
    assert np.isnan(krippendorff_alpha(np.ones((2, 4)), "interval"))


def test_a_partial_correlation_is_what_the_formula_gives() -> None:
    draw = np.random.default_rng(5)
    given_, noise, other = draw.normal(size=(3, 200))
    first, second = given_ + noise, given_ + 0.5 * noise + other
    plain = spearman(first, second), spearman(first, given_), spearman(second, given_)
    expected = (plain[0] - plain[1] * plain[2]) / np.sqrt((1 - plain[1] ** 2) * (1 - plain[2] ** 2))
    assert partial_spearman(first, second, given_) == pytest.approx(expected, abs=1e-4)
    # What depends on the third alone has nothing left.
    assert np.isnan(partial_spearman(given_, second, given_))


def test_a_label_is_predicted_from_other_prompts_alone() -> None:
    scores = np.repeat(np.linspace(0, 1, 10), 3)
    labels = np.where(scores < 0.5, 1.0, 5.0)
    labels[-3:] = 100.0  # the last prompt's, which no other prompt foretells
    groups = [f"prompt {place // 3}" for place in range(30)]
    predicted, constant = predict_labels(scores, labels, groups)
    assert predicted[:12].tolist() == [1.0] * 12 and predicted[-3:].max() <= 5.0
    assert set(constant) <= {1.0, 3.0, 5.0}


@given(st.lists(st.floats(-5, 5, allow_nan=False).map(lambda x: round(x, 1)), min_size=2, max_size=60))
def test_each_level_has_a_label(labels: list[float]) -> None:
    values = np.array(labels)
    edges = level_edges(values)
    assert set(np.digitize(values, edges)) == set(range(len(edges) + 1))
    assert np.all(np.diff(edges) > 0)


def test_kappa_and_alpha_are_those_of_the_textbook() -> None:
    first, second = np.array([0, 0, 1, 1, 2, 2, 2, 0]), np.array([0, 1, 1, 1, 2, 0, 2, 0])
    table = np.zeros((3, 3))
    np.add.at(table, (first, second), 1)
    expected = np.outer(table.sum(1), table.sum(0)) / 8
    weights = (np.subtract.outer(range(3), range(3)) ** 2).astype(float)
    assert cohen_kappa(first, second, 3, "quadratic") == pytest.approx(
        1 - (weights * table).sum() / (weights * expected).sum()
    )
    # Krippendorff, interval: one minus observed over expected squared differences.
    ratings = np.array([first, second], float)
    every = ratings.ravel()
    within = ((ratings[0] - ratings[1]) ** 2).mean()
    between = np.subtract.outer(every, every) ** 2
    assert krippendorff_alpha(ratings, "interval") == pytest.approx(1 - within / (between.sum() / (16 * 15)))
