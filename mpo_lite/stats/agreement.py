# scipy and scikit-learn have no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
"""Agreement of two ratings, with intervals; the only module that knows scipy, scikit-learn and krippendorff.

A statistic that is undefined, such as the correlation with a constant, is NaN here, and None in an estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import krippendorff
import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyRegressor
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LinearRegression
from sklearn.metrics import cohen_kappa_score
from sklearn.model_selection import GroupKFold, cross_val_predict

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
DRAWS = 1000
LEAST_GROUPS = 10
"""Groups that an interval needs: bootstrapped from fewer, it is too narrow."""
FOLDS = 5
MAX_LEVELS = 10
"""Different labels up to which each is a level; more are put into ``QUANTILES`` levels."""
QUANTILES = 5


@dataclass(frozen=True)
class Estimate:
    """A statistic with its 95% interval.

    Attributes:
        value: On all rows; None where it is undefined.
        low: Lower end; None where there are too few groups for an interval.
        high: Upper end, or None.
    """

    value: float | None
    low: float | None = None
    high: float | None = None

    def excludes(self, value: float) -> bool:
        """Whether the interval is known and does not include a value."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high


def estimate(statistic: Callable[[Rows], float], groups: Sequence[str]) -> Estimate:
    """A statistic of rows, with an interval by resampling groups of rows (percentile bootstrap).

    Args:
        statistic: From N row indices, possibly repeated, to a number or NaN.
        groups: N names; rows of one group, such as answers to one prompt, are not independent.
    """
    names = np.asarray(groups)
    value = statistic(np.arange(len(names)))
    members = [np.flatnonzero(names == name) for name in dict.fromkeys(groups)]
    if len(members) < LEAST_GROUPS or np.isnan(value):
        return Estimate(_or_none(value))

    def resample(drawn: Rows) -> float:
        return statistic(np.concatenate([members[group] for group in drawn]))

    draws = stats.bootstrap(
        (np.arange(len(members)),),
        resample,
        n_resamples=DRAWS,
        vectorized=False,
        method="percentile",
        rng=0,
    ).bootstrap_distribution
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))


def mean(values: Floats) -> float:
    """The mean; NaN without values."""
    return float(values.mean()) if len(values) else np.nan


def kendall(first: Floats, second: Floats) -> float:
    """Kendall's tau-b."""
    return _correlate(stats.kendalltau, first, second)


def spearman(first: Floats, second: Floats) -> float:
    """Spearman's rank correlation."""
    return _correlate(stats.spearmanr, first, second)


def pearson(first: Floats, second: Floats) -> float:
    """Pearson's correlation."""
    return _correlate(stats.pearsonr, first, second)


def partial_spearman(first: Floats, second: Floats, given: Floats) -> float:
    """Spearman's correlation of two variables beyond a third: of what a line in its ranks leaves of theirs.

    Source: partial rank correlation as in Conover, Practical Nonparametric Statistics (1999), section 5.4.
    """
    ranks = stats.rankdata(given).reshape(-1, 1)
    rests: list[Floats] = []
    for values in (first, second):
        own = stats.rankdata(values)
        rests.append((own - LinearRegression().fit(ranks, own).predict(ranks)).round(6))
    return pearson(*rests)


def cohen_kappa(first: Rows, second: Rows, levels: int, weights: Literal["quadratic"] | None = None) -> float:
    """Cohen's kappa of two assignments to levels 0 to ``levels - 1``."""
    if len(np.union1d(first, second)) < 2:
        return np.nan
    return float(cohen_kappa_score(first, second, labels=range(levels), weights=weights))


def krippendorff_alpha(ratings: Floats, scale: Literal["ordinal", "interval"]) -> float:
    """Krippendorff's alpha.

    Args:
        ratings: One row per rater, one column per answer; NaN where a rater gave none.
        scale: How far ratings are apart: by ranks, or by their difference.
    """
    if len(ratings) < 2 or len(np.unique(ratings[~np.isnan(ratings)])) < 2:
        return np.nan
    return float(krippendorff.alpha(reliability_data=ratings, level_of_measurement=scale))


def predict_labels(scores: Floats, labels: Floats, groups: Sequence[str]) -> tuple[Floats, Floats]:
    """Labels as predicted from scores by a monotone fit, and by the median label alone.

    Each prediction is cross-validated: made from the rows of other groups.

    Args:
        scores: N scores on any scale.
        labels: N labels on any scale.
        groups: N names, at least two different ones.

    Returns:
        N predictions by isotonic regression, and N medians.
    """
    folds = GroupKFold(min(FOLDS, len(set(groups))))

    def predict(model: BaseEstimator) -> Floats:
        return np.asarray(cross_val_predict(model, scores, labels, groups=groups, cv=folds), np.float64)

    return predict(IsotonicRegression(out_of_bounds="clip")), predict(DummyRegressor(strategy="median"))


def level_edges(labels: Floats) -> Floats:
    """Where one level of labels ends and the next begins: for ``np.digitize``.

    Few different labels are levels themselves; of more, quantiles are.
    """
    values = np.unique(labels)
    if len(values) <= MAX_LEVELS:
        return (values[1:] + values[:-1]) / 2
    # Edges are labels, and none is the lowest: each level has a label.
    edges = np.unique(np.quantile(labels, np.linspace(0, 1, QUANTILES + 1)[1:-1], method="inverted_cdf"))
    return edges[edges > values[0]]


def _correlate(function: Callable[..., object], first: Floats, second: Floats) -> float:
    if len(first) < 2 or not np.ptp(first) or not np.ptp(second):
        return np.nan
    return float(getattr(function(first, second), "statistic"))  # noqa: B009


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
