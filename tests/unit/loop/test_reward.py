"""Rewards of a batch: which groups count, and which can teach anything."""

from hypothesis import given
from hypothesis import strategies as st

from mpo_lite.loop.reward import drop_thin_groups, has_spread


@given(st.integers(2, 8), st.data())
def test_groups_with_too_few_verdicts_lose_all_of_them(size: int, data: st.DataObject) -> None:
    rewards = data.draw(st.lists(st.none() | st.floats(0, 1), min_size=size, max_size=size))
    known = sum(reward is not None for reward in rewards)
    kept = drop_thin_groups(rewards, size)
    assert kept == (rewards if known >= max(2, -(-size // 2)) else [None] * size)


@given(st.lists(st.lists(st.none() | st.sampled_from([0.0, 0.5, 1.0]), min_size=3, max_size=3), max_size=5))
def test_spread_needs_two_different_rewards_in_one_group(groups: list[list[float | None]]) -> None:
    flat = [reward for group in groups for reward in group]
    assert has_spread(flat, 3) == any(len(set(group) - {None}) > 1 for group in groups)
