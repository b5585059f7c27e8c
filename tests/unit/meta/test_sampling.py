"""Which rollouts the meta-judge is shown."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mpo_lite.meta.sampling import stratified_sample
from mpo_lite.types import Assessment, Rollout, Verdict


def rollout(row: int, reward: float | None, source: Any = "judge") -> Rollout:
    verdict = Verdict(reward, "h", {"structure": Assessment(f"reason {row}", 1)}, source=source)
    return Rollout(0, row, f"prompt {row}", f"completion {row}", verdict, 0, reward)


@given(st.lists(st.none() | st.floats(0, 1), max_size=40), st.integers(1, 12), st.text(max_size=5))
def test_selection_is_stratified_distinct_and_deterministic(
    rewards: list[float | None], count: int, seed: str
) -> None:
    rollouts = [rollout(row, reward) for row, reward in enumerate(rewards)]
    chosen = stratified_sample(rollouts, count, seed)
    judged = sorted((r for r in rollouts if r.reward is not None), key=lambda r: (r.reward or 0.0, r.row))
    assert chosen == stratified_sample(rollouts, count, seed)
    assert len({r.id for r in chosen}) == len(chosen) == min(count, len(judged))
    assert all(r.reward is not None for r in chosen)
    if count >= 3 and len(judged) >= 3:
        thirds = [judged[len(judged) * n // 3 : len(judged) * (n + 1) // 3] for n in range(3)]
        assert all(any(r in third for r in chosen) for third in thirds)


def test_what_a_rule_decided_is_not_shown_to_the_meta_judge() -> None:
    assert stratified_sample([rollout(0, 0.0, "rule"), rollout(1, 0.5)], 4, "s") == [rollout(1, 0.5)]


def test_suspicious_rollouts_come_first_and_clusters_take_turns() -> None:
    rollouts = [replace(rollout(row, row / 20), cluster="ab"[row % 10 == 0]) for row in range(20)]
    chosen = stratified_sample(rollouts, 6, "s", first=("b0r7", "unknown", "b0r7", "b0r3", "b0r5", "b0r9"))
    names = [one.id for one in chosen]
    assert {"b0r7", "b0r3", "b0r5"} <= set(names) and len(names) == 6  # half of the places, no more
    assert {one.cluster for one in stratified_sample(rollouts, 6, "s")} == {"a", "b"}
