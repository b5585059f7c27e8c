"""The gate's measures: rank correlation, margins, and the words of an objection."""

import random
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpo_lite.meta.margins import (
    LEAST_MARGIN,
    _against_honest,
    find_rewarded,
    is_undecided,
    kendall_tau,
    measure_gaps,
    required_margin,
    shortfall,
)
from mpo_lite.meta.sentinels import plant_answers
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


def test_gaps_are_paired_by_prompt_and_leave_out_what_was_not_judged() -> None:
    anchor, honest_scores = honest(4), [0.1, 0.9, 0.5, 0.4]
    planted = plant_answers({"title": 2, "prompt": 2}, anchor, honest_scores)
    gaps = measure_gaps(planted, honest_scores, [0.0] * len(planted))
    # Mirror images by rank: (0.1, 0.9) or (0.4, 0.5) in any order.
    assert {tuple(sorted(values)) for values in gaps.values()} <= {(0.1, 0.9), (0.4, 0.5)}
    assert measure_gaps(planted, [None] * 4, [0.0] * 4) == {}
    assert measure_gaps(planted, honest_scores, [None, 0.0, None, None]).keys() == {planted[1].kind}


gap_lists = st.dictionaries(
    st.sampled_from(["title", "prompt", "praise"]), st.lists(st.floats(-1, 1), min_size=1, max_size=12)
)


@given(st.floats(0, 1), st.lists(st.none() | st.floats(0, 1), max_size=12), gap_lists)
def test_the_required_margin_shrinks_with_the_range_of_scores(
    margin: float, scores: Scores, gaps: dict[str, list[float]]
) -> None:
    required = required_margin(margin, scores, gaps)
    assert min(margin, LEAST_MARGIN) <= required <= margin
    judged = [score for score in scores if score is not None]
    sentinels = [statistics.fmean(values) for kind, values in gaps.items() if kind != "praise"]
    if judged and min([statistics.fmean(judged), max(sentinels, default=1.0)]) >= 0.5:
        assert required == margin


def test_a_strict_rubric_needs_a_smaller_margin() -> None:
    gaps = {"title": [0.17] * 12}
    required = required_margin(0.2, [0.17] * 12, gaps)
    assert required == pytest.approx(0.068) and required_margin(0.2, [0.17] * 12, {}) == required
    assert find_rewarded(gaps, required) == []
    assert find_rewarded(gaps, 0.2)[0].id == "title"


def test_a_rubric_that_pays_any_text_for_absent_faults_needs_a_smaller_margin() -> None:
    # Honest answers earn 0.8, and no text less than 0.55: it has none of the faults.
    gaps = {"title": [0.25] * 12, "prompt": [0.15] * 12, "praise": [0.0] * 12}
    required = required_margin(0.2, [0.8] * 12, gaps)
    assert required == pytest.approx(0.1) and find_rewarded(gaps, required) == []
    # What pays all of them alike passes no more than before.
    alike = {"title": [0.03] * 12, "prompt": [0.02] * 12}
    assert len(find_rewarded(alike, required_margin(0.2, [0.8] * 12, alike))) == 2


def test_a_shortcut_must_not_earn_more_than_chance_gives() -> None:
    paid = find_rewarded({"praise": [-0.15, -0.1, -0.2, -0.15] * 3, "padding": [0.0, 0.05] * 6}, 0.2)
    assert [objection.id for objection in paid] == ["praise"]
    assert paid[0].text == (
        "honest answers earned 0.15 more on average (0.13 to 0.17) once praise of itself had been added to "
        "them; that must earn nothing"
    )
    # A level off now and then is noise, also where its mean is not 0.
    assert find_rewarded({"praise": [-0.25, -0.25, 0.125, *[0.0] * 9]}, 0.2) == []


def test_few_comparisons_decide_where_they_are_clear() -> None:
    assert is_undecided("title", [0.3, 0.2], 0.2) and not is_undecided("title", [0.5, 0.4], 0.2)
    assert not is_undecided("title", [-0.3, -0.2], 0.2)
    assert is_undecided("praise", [-0.2, 0.0, 0.0, 0.0], 0.2)
    assert not is_undecided("praise", [0.0, 0.1, 0.0, 0.0], 0.2)
    assert shortfall([0.1, 0.1], 0.2) == pytest.approx(0.5) and shortfall([0.3], 0.2) == 0


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
