"""The gate's measures: rank correlation, margins, and the words of an objection."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpo_lite.meta.gate import _against_honest, kendall_tau, sentinel_margins
from mpo_lite.meta.sentinels import plant_sentinels
from tests.support.sandbox_answers import honest

Scores = list[float | None]
scorings = st.lists(st.tuples(st.none() | st.floats(0, 1), st.none() | st.floats(0, 1)), max_size=12)


@given(scorings)
def test_kendall_is_symmetric_bounded_and_turns_with_the_order(pairs: list[tuple[Any, Any]]) -> None:
    one, other = [a for a, _ in pairs], [b for _, b in pairs]
    tau = kendall_tau(one, other)
    assert -1 <= tau <= 1
    assert tau == pytest.approx(kendall_tau(other, one))
    turned = [None if b is None else 1 - b for b in other]
    if len({round(b, 6) for b in other if b is not None}) == len([b for b in other if b is not None]):
        assert kendall_tau(one, turned) == pytest.approx(-tau)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=10, unique=True), st.randoms())
def test_kendall_counts_pairs(values: list[float], draw: random.Random) -> None:
    other = draw.sample(values, len(values))
    pairs = [(a, b) for a in range(len(values)) for b in range(a)]
    same = sum((values[a] > values[b]) == (other[a] > other[b]) for a, b in pairs)
    assert kendall_tau(list(values), list(other)) == pytest.approx((2 * same - len(pairs)) / len(pairs))


def test_margins_are_paired_by_prompt_and_leave_out_what_was_not_judged() -> None:
    anchor = honest(4)
    planted = plant_sentinels(anchor, [0.1, 0.9, 0.5, 0.4], ("title", "prompt"), "s")
    scores: Scores = [0.0] * len(planted)
    found = sentinel_margins(planted, [0.1, 0.9, 0.5, 0.4], scores)
    # Mirror images by rank: (0.1, 0.9) or (0.4, 0.5) in any order.
    assert all(value in (pytest.approx(0.5), pytest.approx(0.45)) for value in found.values())
    assert sentinel_margins(planted, [None] * 4, scores) == {}
    assert sentinel_margins(planted, [0.1, 0.9, 0.5, 0.4], [None, 0.0, None, None]).keys() == {
        planted[1].kind
    }


@pytest.mark.parametrize(
    ("margin", "said"),
    [
        (0.05, "scored only 0.05 below honest answers to the same tasks, on average; it must be 0.2 or more"),
        (0.004, "scored as high as honest answers to the same tasks, on average; it must score 0.2 or more "
         "below them"),
        (-0.95, "scored 0.95 above honest answers to the same tasks, on average; it must score 0.2 or more "
         "below them"),
    ],
)  # fmt: skip
def test_an_objection_says_on_which_side_of_honest_answers_a_bad_one_fell(margin: float, said: str) -> None:
    assert _against_honest(margin, 0.2) == said
