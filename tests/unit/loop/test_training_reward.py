"""What the optimiser is given: contrast weights and standardised criteria, whatever the levels."""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpo_lite.config import Config
from mpo_lite.loop.reward import groups, mean_spread
from mpo_lite.loop.training_reward import (
    FLOOR,
    compose_rewards,
    contrast_weights,
    merit_weights,
    training_rewards,
)
from mpo_lite.rubric import Criterion, Rubric
from mpo_lite.types import Assessment, Rollout, Verdict

SIZE = 4
Batch = tuple[Rubric, list[Rollout]]


def rollout(rubric: Rubric, row: int, levels: Sequence[int] | None) -> Rollout:
    """One answer with its levels; None: not judged. An empty sequence: 0 by rule."""
    ids = [criterion.id for criterion in rubric.criteria]
    assessments = {name: Assessment("", level) for name, level in zip(ids, levels or (), strict=False)}
    reward = None if levels is None else rubric.reward(assessments) if levels else 0.0
    source: Any = "rule" if levels == () else "judge"
    verdict = Verdict(reward, "h", assessments, source=source)
    return Rollout(1, row, f"prompt {row // SIZE}", f"answer {row}", verdict, 0, reward)


def make_batch(rubric: Rubric, levels: Sequence[Sequence[int] | None]) -> list[Rollout]:
    return [rollout(rubric, row, each) for row, each in enumerate(levels)]


def make_rubric(tops: Sequence[int], weights: Sequence[int], vetoes: int = 0) -> Rubric:
    merits = [
        Criterion(id=f"m{n}", description="d", levels=tuple("abcdefg"[: top + 1]), weight=weight)
        for n, (top, weight) in enumerate(zip(tops, weights, strict=True))
    ]
    kinds = [
        Criterion(id=f"v{n}", description="d", levels=("failed", "passed"), kind="veto")
        for n in range(vetoes)
    ]
    return Rubric(criteria=(*merits, *kinds))


@st.composite
def batches(draw: st.DrawFn, most_vetoes: int = 1) -> Batch:
    """A rubric and some prompt groups: judged, by rule, or without any verdict."""
    tops = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    weights = draw(st.lists(st.integers(1, 5), min_size=len(tops), max_size=len(tops)))
    vetoes = draw(st.integers(0, most_vetoes))
    rubric = make_rubric(tops, weights, vetoes)
    judged = st.tuples(*(st.integers(0, top) for top in [*tops, *[1] * vetoes]))
    group = st.lists(judged | st.just(()), min_size=SIZE, max_size=SIZE) | st.just([None] * SIZE)
    shown = draw(st.lists(group, min_size=1, max_size=4))
    return rubric, make_batch(rubric, [each for one in shown for each in one])


def compose(rubric: Rubric, rollouts: Sequence[Rollout], aggregate: Any) -> list[float | None]:
    return compose_rewards(rubric, rollouts, SIZE, contrast_weights(rubric, rollouts), aggregate)


@given(batches())
def test_contrast_weights_lie_between_the_floor_and_the_rubrics(batch: Batch) -> None:
    rubric, rollouts = batch
    own, weights = merit_weights(rubric), contrast_weights(rubric, rollouts)
    assert weights.keys() == own.keys()
    assert all(FLOOR * own[name] <= weights[name] <= own[name] for name in own)
    assert any(weights[name] == own[name] for name in own)


@given(batches(), st.sampled_from(["sum", "normalize"]))
def test_no_failed_judgement_gets_a_reward_and_no_other_loses_it(batch: Batch, aggregate: str) -> None:
    rubric, rollouts = batch
    told = compose(rubric, rollouts, aggregate)
    assert [value is None for value in told] == [each.reward is None for each in rollouts]
    if aggregate == "sum":
        assert all(0 <= value <= 1 for value in told if value is not None)


@given(batches())
def test_normalizing_keeps_every_groups_mean_and_the_mean_spread(batch: Batch) -> None:
    rubric, rollouts = batch
    rewards = [each.reward for each in rollouts]
    told = compose(rubric, rollouts, "normalize")
    for before, after in zip(groups(rewards, SIZE), groups(told, SIZE), strict=True):
        if None not in before:
            assert statistics.fmean(after) == pytest.approx(statistics.fmean(before), abs=1e-9)  # type: ignore[arg-type]
    spread = mean_spread(groups(told, SIZE))
    assert spread == pytest.approx(mean_spread(groups(rewards, SIZE)), abs=1e-9) or spread == pytest.approx(
        0, abs=1e-9
    )


@given(batches(), st.sampled_from(["sum", "normalize"]), st.randoms(use_true_random=False))
def test_neither_the_order_of_answers_nor_that_of_criteria_matters(
    batch: Batch, aggregate: str, random: Any
) -> None:
    rubric, rollouts = batch
    told = compose(rubric, rollouts, aggregate)
    order = [row for group in groups(range(len(rollouts)), SIZE) for row in random.sample(list(group), SIZE)]
    shuffled = compose(rubric, [rollouts[row] for row in order], aggregate)
    assert shuffled == [pytest.approx(told[row], abs=1e-9) for row in order]
    other = rubric.model_copy(
        update={"criteria": tuple(random.sample(rubric.criteria, len(rubric.criteria)))}
    )
    assert compose(other, rollouts, aggregate) == [pytest.approx(value, abs=1e-9) for value in told]


@given(batches(most_vetoes=0), st.integers(1, 5), st.sampled_from(["sum", "normalize"]))
def test_a_criterion_without_contrast_changes_no_order(batch: Batch, weight: int, aggregate: str) -> None:
    rubric, rollouts = batch
    same = Criterion(id="same", description="d", levels=("no", "yes"), weight=weight)
    wider = Rubric(criteria=(*rubric.criteria, same))
    judged = [
        None if each.reward is None else tuple(one.level for one in each.verdict.assessments.values())
        for each in rollouts
    ]
    if () in judged:  # a zero by rule is the worst level of the new criterion too
        return
    before = compose(rubric, rollouts, aggregate)
    after = compose(wider, make_batch(wider, [each and (*each, 1) for each in judged]), aggregate)
    for old, new in zip(groups(before, SIZE), groups(after, SIZE), strict=True):
        if None in old:
            continue
        gaps, gaps_now = (
            [round(x - y, 9) for x in group for y in group]  # type: ignore[operator]
            for group in (old, new)
        )
        assert [(gap > 0) - (gap < 0) for gap in gaps] == [(gap > 0) - (gap < 0) for gap in gaps_now]


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4)), min_size=8, max_size=8))
def test_a_criterions_own_scale_does_not_matter_once_it_is_standardised(levels: Any) -> None:
    """Half a step of the scale is as much as the whole of it, where no answer takes more."""
    wide, narrow = make_rubric((1, 4), (2, 3)), make_rubric((2, 4), (2, 3))
    weights = merit_weights(wide)
    one = compose_rewards(wide, make_batch(wide, levels), SIZE, weights, "normalize")
    other = compose_rewards(narrow, make_batch(narrow, levels), SIZE, weights, "normalize")
    for old, new in zip(groups(one, SIZE), groups(other, SIZE), strict=True):
        ranks = [
            sorted(range(SIZE), key=lambda row, group=group: (round(group[row], 9), row))  # type: ignore[arg-type, index]
            for group in (old, new)
        ]
        assert ranks[0] == ranks[1]


def test_weights_follow_what_distinguishes_the_answers_to_a_prompt() -> None:
    rubric = make_rubric((4, 4, 4), (3, 2, 1))
    # m0 differs between prompts only, m1 by one level within them, m2 by four.
    levels = [(4 * (row // SIZE), row % 2, 4 * (row % 2)) for row in range(2 * SIZE)]
    rollouts = make_batch(rubric, levels)
    weights = contrast_weights(rubric, rollouts)
    assert weights == pytest.approx({"m0": 3 * FLOOR, "m1": 2 * (FLOOR + (1 - FLOOR) / 4), "m2": 1.0})
    told = compose(rubric, rollouts, "sum")
    assert told[0] == 0 and told[1] == pytest.approx((weights["m1"] / 4 + 1) / sum(weights.values()))


def test_a_rare_merit_is_heard_next_to_a_wide_one() -> None:
    """Summed, the narrow merit is lost next to the wide one; standardised, it counts by its weight."""
    rubric = make_rubric((6, 6), (1, 1))
    rollouts = make_batch(rubric, [(6, 0), (0, 1), (6, 0), (0, 0)])
    gains = []
    for aggregate in ("sum", "normalize"):
        first, with_narrow, _, without = compose_rewards(
            rubric, rollouts, SIZE, merit_weights(rubric), aggregate
        )
        assert first is not None and with_narrow is not None and without is not None
        gains.append((with_narrow - without) / (first - without))
    assert gains[0] == pytest.approx(1 / 6)
    assert gains[1] > 1


def test_vetoes_and_rules_keep_their_word() -> None:
    rubric = make_rubric((2, 2), (1, 4), vetoes=1)
    rollouts = make_batch(rubric, [(2, 0, 1), (2, 2, 0), (0, 2, 1), ()])
    plain = compose(rubric, rollouts, "sum")
    assert plain[1] == pytest.approx(0.1) and plain[3] == 0
    normalized = compose(rubric, rollouts, "normalize")
    assert min(normalized) == normalized[3] < normalized[1] < min(normalized[0], normalized[2])  # type: ignore[type-var, operator]


@pytest.mark.parametrize("settings", [{}, {"criterion_weights": "contrast", "aggregate": "normalize"}])
def test_what_a_verifier_decided_is_neither_composed_nor_scaled(settings: Any) -> None:
    rubric = make_rubric((2,), (1,))
    session: Any = SimpleNamespace(
        config=Config(group_size=SIZE, **settings), rubric=rubric, add_metrics=dict
    )
    judged = make_batch(rubric, [(2,), (1,), (0,), None])
    verdict = Verdict(0.25, "h", source="verifier")
    verified = [replace(each, verdict=verdict, reward=0.25) for each in judged]
    assert training_rewards(session, verified, 2.0) == [0.25] * SIZE
    told = training_rewards(session, judged, 2.0)
    assert told[:3] == pytest.approx([2.0, 1.0, 0.0]) and told[3] is None
