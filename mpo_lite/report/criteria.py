"""The current rubric's criteria over the last batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mpo_lite.meta.criterion_stats import CriterionStats, criterion_stats
from mpo_lite.report.run_data import RunData

RECENT = 10
"""Batches that recent figures are the mean of."""


def measure_criteria(data: RunData) -> Mapping[str, CriterionStats]:
    """Statistics of each criterion; empty where no answer was judged by criteria."""
    if not data.rollouts:
        return {}
    last = data.rollouts[-1]
    recent = [
        rollout
        for rollout in data.rollouts
        if rollout.version == last.version and rollout.batch > last.batch - RECENT
    ]
    # Only meta steps judge an answer twice, so noise is that of the last step that did.
    noise = {name: health.noise for step in data.lineage for name, health in step.health.items()}
    stats = criterion_stats(data.versions[last.version].rubric, recent, {})
    return {name: replace(criterion, noise=noise.get(name)) for name, criterion in stats.items()}
