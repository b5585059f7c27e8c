"""Ratings from matches: real ones, and simulated ones whose truth is known."""

import json
import math
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo_lite.cli.main import main
from mpo_lite.stats.interval import mean_interval
from mpo_lite.stats.rating import Match, fit_ratings, online_elo

PUBLISHED = {1: (989.80, 1010.20), 2: (1004.49, 995.51), 3: (974.15, 1025.85)}


def real() -> list[dict[str, Any]]:
    folder = os.environ.get("MPO_TEST_DATA")
    if not folder:
        pytest.skip("MPO_TEST_DATA is unset")
    lines = (Path(folder) / "essay_matches.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("run", [1, 2, 3])
def test_real_matches_give_the_published_elo_and_the_winner_of_the_matches_first(
    run: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row for row in real() if int(row["run"]) == run]
    file = tmp_path / "matches.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["rate", str(file), "--online-elo", "4", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert tuple(round(told["online_elo"][name], 2) for name in ("32b_32b", "32b_72b")) == PUBLISHED[run]
    won = Counter(row["winner"] for row in rows)
    assert next(iter(told["ratings"])) == won.most_common(1)[0][0]
    assert told["matches"] == 500
    for name, one in told["ratings"].items():
        assert (one["wins"], one["games"]) == (won[name], 500)
        assert one["lo"] < one["elo"] < one["hi"]
    assert len(told["groups"]) == 1
    assert sum(one["elo"] for one in told["ratings"].values()) == pytest.approx(2000)


def test_the_first_position_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "matches.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in real()))
    main(["rate", str(file), "--json"])
    assert json.loads(capsys.readouterr().out)["position_bias"] == 876 / 1500
    main(["rate", str(file)])
    assert "shown first won 876 of 1500 (58.4%)" in capsys.readouterr().out


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


@pytest.mark.parametrize("prompts", [1, 9, 50])
def test_an_interval_that_cannot_be_known_is_not_told(prompts: int, tmp_path: Path, capsys: Any) -> None:
    """One match, a few, and many that one model won all of: no draw of them differs from another."""
    file = tmp_path / "m.jsonl"
    rows = [{"prompt": f"p{n}", "model_a": "a", "model_b": "b", "winner": "a"} for n in range(prompts)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["rate", str(file), "--json"])
    ratings = json.loads(capsys.readouterr().out)["ratings"]
    assert all(one["lo"] is one["hi"] is None for one in ratings.values())
    main(["rate", str(file)])
    said = capsys.readouterr().out
    assert "  [?]  " in said and "None" not in said
    assert "[?]: no interval, because there are too few prompts or every match had the same outcome" in said


def test_an_interval_is_told_from_ten_prompts_on() -> None:
    matches = simulated({"a": 0.5, "b": 0.0}, 0.0, 10, random.Random(1))
    for one in fit_ratings(matches).ratings.values():
        assert one.lo is not None and one.hi is not None and one.lo < one.elo < one.hi


def test_models_that_never_met_are_not_put_on_one_scale(tmp_path: Path, capsys: Any) -> None:
    chain = [("x", "y", 0.9), ("y", "z", 0.7), ("v", "w", 0.8)]
    draw, file = random.Random(0), tmp_path / "m.jsonl"
    rows = [
        {"prompt": f"p{n}", "model_a": a, "model_b": b, "winner": a if draw.random() < share else b}
        for n in range(40)
        for a, b, share in chain
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["rate", str(file), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert [sorted(group) for group in told["groups"]] == [["x", "y", "z"], ["v", "w"]]
    for group in told["groups"]:
        elos = [told["ratings"][name]["elo"] for name in group]
        assert elos == sorted(elos, reverse=True) and sum(elos) == pytest.approx(1000 * len(group))
    main(["rate", str(file)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "no matches connect these 2 groups; each is rated on its own scale"
    assert lines[1] == "group 1" and lines[5] == "group 2"


@pytest.mark.parametrize(
    "row", [{"prompt": "p"}, {"prompt": "p", "model_a": "a", "model_b": "a", "winner": "a"},
            {"prompt": "p", "model_a": "a", "model_b": "b", "winner": "c"}]
)  # fmt: skip
def test_rows_that_are_no_matches_are_named(row: dict[str, str], tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "m.jsonl"
    file.write_text(json.dumps(row) + "\n")
    with pytest.raises(SystemExit) as stopped:
        main(["rate", str(file)])
    assert stopped.value.code == 2 and "m.jsonl: row 1" in capsys.readouterr().err


def test_an_interval_of_a_mean_holds_the_mean() -> None:
    low, high = mean_interval([0.0, 1.0] * 50)
    assert 0.38 < low < 0.42 and 0.58 < high < 0.62
    assert mean_interval([0.5] * 9) == (0.5, 0.5)
