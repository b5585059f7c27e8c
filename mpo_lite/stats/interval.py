"""Confidence intervals of means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000


def mean_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The 95% interval of a mean, by resampling the values (percentile bootstrap)."""
    sample: NDArray[np.float64] = np.array(list(values), dtype=np.float64)
    indices = np.random.default_rng(seed).integers(0, len(sample), size=(DRAWS, len(sample)))
    means: NDArray[np.float64] = sample[indices].mean(axis=1)
    ends: NDArray[np.floating[Any]] = np.percentile(means, [2.5, 97.5])
    return float(ends[0]), float(ends[1])
