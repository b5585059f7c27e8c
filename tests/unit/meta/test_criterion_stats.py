"""The health of criteria: spread, saturation, noise."""

from dataclasses import replace

from mpo_lite.meta.criterion_stats import CriterionStats, criterion_stats, describe_stats
from mpo_lite.rubric import Rubric
from mpo_lite.types import Assessment, Rollout, Verdict


def test_criterion_health_tells_spread_saturation_and_noise(rubric: Rubric) -> None:
    def judged(row: int, prompt: str, structure: int, evidence: int, version: int = 0) -> Rollout:
        levels = {"structure": structure, "evidence": evidence, "on_task": 1}
        verdict = Verdict(0.5, "h", {name: Assessment("r", level) for name, level in levels.items()})
        return Rollout(0, row, prompt, "c", verdict, version, 0.5)

    rollouts = [judged(0, "p", 0, 1), judged(1, "p", 2, 1), judged(2, "q", 1, 1), judged(3, "q", 1, 1)]
    foreign = replace(rollouts[0], verdict=Verdict(0.5, "h", {"other": Assessment("r", 0)}))
    repeats = {"b0r0": judged(0, "p", 1, 1).verdict, "b0r1": judged(1, "p", 2, 1).verdict}
    found = criterion_stats(rubric, [*rollouts, foreign], repeats)
    assert found["structure"] == CriterionStats(mean=0.5, spread=0.25, saturated=0.25, noise=0.25)
    assert found["evidence"] == CriterionStats(mean=1.0, spread=0.0, saturated=1.0, noise=0.0)
    assert "structure: mean level 0.50 of 1" in describe_stats(found) and "25%" in describe_stats(found)
    assert criterion_stats(rubric, [foreign], {}) == {}
