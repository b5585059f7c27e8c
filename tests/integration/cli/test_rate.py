"""``mpo-lite fit_ratings``: ratings of real matches, and what it says of rows that are none."""

import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.cli.main import main

PUBLISHED = {1: (989.80, 1010.20), 2: (1004.49, 995.51), 3: (974.15, 1025.85)}


def real() -> list[dict[str, Any]]:
    folder = os.environ.get("MPO_TEST_DATA")
    if not folder:
        pytest.skip("MPO_TEST_DATA is unset")
    lines = (Path(folder) / "essay_matches.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.data
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


@pytest.mark.data
def test_the_first_position_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "matches.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in real()))
    main(["rate", str(file), "--json"])
    assert json.loads(capsys.readouterr().out)["position_bias"] == 876 / 1500
    main(["rate", str(file)])
    assert "shown first won 876 of 1500 (58.4%)" in capsys.readouterr().out


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
