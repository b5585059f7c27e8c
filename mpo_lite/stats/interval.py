"""Confidence intervals of means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000


def mean_interval(values: Sequence[float], seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """The interval of a mean at a confidence level, by resampling the values (percentile bootstrap)."""
    sample: NDArray[np.float64] = np.array(list(values), dtype=np.float64)
    indices = np.random.default_rng(seed).integers(0, len(sample), size=(DRAWS, len(sample)))
    means: NDArray[np.float64] = sample[indices].mean(axis=1)
    outside = 50 * (1 - level)
    ends: NDArray[np.floating[Any]] = np.percentile(means, [outside, 100 - outside])
    return float(ends[0]), float(ends[1])
