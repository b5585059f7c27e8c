"""The log-probability of what is rewarded, from the sums that each process contributes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mpo_lite.training.logprob_gap import advantage_sums, gap_of

LOGPS = torch.tensor([[-1.0, -3.0, -9.0], [-2.0, -2.0, -2.0]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])  # the first answer ends after two tokens


def test_the_gap_is_between_rewarded_and_other_tokens() -> None:
    gap = gap_of(advantage_sums(LOGPS, torch.tensor([0.5, -0.5]), MASK))
    assert gap == pytest.approx(-2.0 + 2.0)
    assert gap_of(advantage_sums(LOGPS, torch.tensor([-0.5, 0.25]), MASK)) == pytest.approx(0.0)
    likely = torch.tensor([[-0.5, -0.5, 0.0], [-4.0, -4.0, -4.0]])
    assert gap_of(advantage_sums(likely, torch.tensor([1.0, -1.0]), MASK)) == pytest.approx(3.5)
    # PPO has an advantage per token.
    per_token = torch.tensor([[1.0, -1.0, 5.0], [0.0, 0.0, 0.0]])
    assert gap_of(advantage_sums(LOGPS, per_token, MASK)) == pytest.approx(-1.0 + 3.0)


@pytest.mark.parametrize("advantages", [[0.0, 0.0], [1.0, 2.0], [-1.0, 0.0]])
def test_there_is_no_gap_where_only_one_side_is_there(advantages: list[float]) -> None:
    assert gap_of(advantage_sums(LOGPS, torch.tensor(advantages), MASK)) is None


@given(st.lists(st.tuples(st.floats(-20, 0), st.floats(-3, 3)), min_size=4, max_size=12), st.integers(1, 3))
def test_sums_of_processes_add_up(rows: list[tuple[float, float]], cut: int) -> None:
    logps = torch.tensor([[logp] for logp, _ in rows])
    advantages = torch.tensor([advantage for _, advantage in rows])
    mask = torch.ones_like(logps)
    whole = gap_of(advantage_sums(logps, advantages, mask))
    parts = [
        advantage_sums(logps[part], advantages[part], mask[part]) for part in (slice(cut), slice(cut, None))
    ]
    summed = gap_of(parts[0] + parts[1])
    assert (whole is None) == (summed is None)
    assert whole is None or math.isclose(whole, summed or 0.0, abs_tol=1e-3)
