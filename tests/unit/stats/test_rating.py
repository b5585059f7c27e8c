"""Ratings from matches: real ones, and simulated ones whose truth is known."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo_lite.stats.interval import mean_interval
from mpo_lite.stats.rating import Match, fit_ratings, online_elo


def simulated(strengths: dict[str, float], bias: float, prompts: int, draw: random.Random) -> list[Match]:
    names = list(strengths)
    return [
        Match(
            f"p{prompt}",
            a,
            b,
            a if draw.random() < 1 / (1 + math.exp(strengths[b] - strengths[a] - bias)) else b,
        )
        for prompt in range(prompts)
        for a in names
        for b in names
        if a != b
    ]


def test_strengths_and_the_advantage_of_the_first_are_found() -> None:
    truth = {"a": 0.8, "b": 0.0, "c": -0.8}
    table = fit_ratings(simulated(truth, 0.7, 2000, random.Random(0)))
    points = 400 / math.log(10)
    assert list(table.ratings) == ["a", "b", "c"]
    for name, strength in truth.items():
        assert table.ratings[name].elo == pytest.approx(1000 + points * strength, abs=12)
    assert table.advantage == pytest.approx(points * 0.7, abs=12)


def test_order_does_not_count_and_an_unbeaten_model_stays_finite() -> None:
    matches = [Match(f"p{n}", *pair, "a") for n in range(20) for pair in (("a", "b"), ("b", "a"))]
    table = fit_ratings(matches)
    assert fit_ratings(matches[::-1]) == table
    assert 1000 < table.ratings["a"].elo < 2000
    assert online_elo(matches, 4) != online_elo([*matches, Match("p", "a", "b", "b")], 4)


names = st.sampled_from("abc")
games = st.tuples(st.integers(0, 5), names, names, st.integers(0, 2)).filter(lambda game: game[1] != game[2])


@given(st.lists(games, min_size=1, max_size=30))
@settings(deadline=None, max_examples=50)
def test_ratings_hold_together_for_any_matches(played: list[tuple[int, str, str, int]]) -> None:
    matches = [Match(f"p{prompt}", a, b, (a, b, "tie")[won]) for prompt, a, b, won in played]
    table = fit_ratings(matches, draws=50)
    assert sum(one.elo for one in table.ratings.values()) == pytest.approx(1000 * len(table.ratings))
    assert sum(one.wins for one in table.ratings.values()) == pytest.approx(len(matches))
    assert all(math.isfinite(one.elo) and one.lo is one.hi is None for one in table.ratings.values())
    assert sorted(name for group in table.groups for name in group) == sorted(table.ratings)
    for group in table.groups:
        assert sum(table.ratings[name].elo for name in group) == pytest.approx(1000 * len(group))
    mirrored = [Match(one.prompt, one.second, one.first, one.winner) for one in matches]
    swapped = fit_ratings(mirrored, draws=50)
    for (
        name,
        one,
    ) in table.ratings.items():  # who is shown first is known
        assert swapped.ratings[name].elo == pytest.approx(one.elo, abs=1e-6)
    assert swapped.advantage == pytest.approx(-table.advantage, abs=1e-6)


def test_an_interval_is_told_from_ten_prompts_on() -> None:
    matches = simulated({"a": 0.5, "b": 0.0}, 0.0, 10, random.Random(1))
    for one in fit_ratings(matches).ratings.values():
        assert one.lo is not None and one.hi is not None and one.lo < one.elo < one.hi


def test_an_interval_of_a_mean_holds_the_mean() -> None:
    low, high = mean_interval([0.0, 1.0] * 50)
    assert 0.38 < low < 0.42 and 0.58 < high < 0.62
    assert mean_interval([0.5] * 9) == (0.5, 0.5)
