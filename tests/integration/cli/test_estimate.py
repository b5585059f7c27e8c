"""What a run is said to cost, held against what it then takes."""

import json
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.cli.main import main
from mpo_lite.config_sources import load_config
from mpo_lite.loop.context import prepare_run
from mpo_lite.loop.estimate import estimate, paid_for


def write_prompts(folder: Path, words: int = 4) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": f"number {n} " + "word " * words}) + "\n" for n in range(50))
    )
    return path


def expected(folder: Path, **options: Any) -> dict[str, Any]:
    given = {"judge": "openai/m", "meta": "openai/n", "judge_price": [1.0, 10.0], "meta_price": [2.0, 20.0]}
    given |= dict.fromkeys(("judge_api_base", "meta_api_base"), "http://127.0.0.1:9/v1")
    given |= {"data": str(write_prompts(folder)), "cache_dir": folder / "cache", "steps": 25} | options
    session = prepare_run(load_config(given=given, environ={}))
    try:
        return estimate(session)
    finally:
        session.close()


def test_calls_scale_with_panel_replicates_and_groups(tmp_path: Path) -> None:
    single = expected(tmp_path)
    rows = 25 * 8 * 8
    assert single["judge"]["calls"][0] <= rows <= single["judge"]["calls"][1]
    assert single["meta"]["calls"][0] <= 34 <= single["meta"]["calls"][1]
    calls = single["judge"]["calls"][1]
    assert expected(tmp_path, replicates=3)["judge"]["calls"][1] == pytest.approx(3 * calls, abs=3)
    assert expected(tmp_path, judge=["a/b", "c/d"])["judge"]["calls"][1] == pytest.approx(2 * calls, abs=2)
    grouped = expected(tmp_path, judge_mode="groupwise")
    assert grouped["judge"]["calls"][1] == pytest.approx(calls / 8, abs=1)
    assert grouped["judge"]["input_tokens"][0] < single["judge"]["input_tokens"][0]
    nothing = {"calls": 0, "input_tokens": 0, "output_tokens": 0, "usd": 0}
    assert expected(tmp_path, baseline="iter0")["meta"] == {
        **{name: [0, 0] for name in nothing}, "middle": nothing
    }  # fmt: skip


def test_examples_are_input_of_every_judgement(tmp_path: Path) -> None:
    file = tmp_path / "examples.jsonl"
    file.write_text(json.dumps({"prompt": "p", "answers": ["word " * 4000], "label": "good"}))
    plain, shown = expected(tmp_path)["judge"], expected(tmp_path, examples=file)["judge"]
    assert shown["input_tokens"][0] - plain["input_tokens"][0] > 3000 * plain["calls"][0]


def test_usd_follows_tokens_and_prices_and_is_unknown_without_a_price(tmp_path: Path) -> None:
    found = expected(tmp_path)
    for role, (sent, received) in {"judge": (1.0, 10.0), "meta": (2.0, 20.0)}.items():
        middle = found[role]["middle"]
        told = middle["input_tokens"] * sent + middle["output_tokens"] * received
        assert middle["usd"] == pytest.approx(told / 1e6, rel=1e-2)
    parts = found["judge"]["middle"]["usd"] + found["meta"]["middle"]["usd"]
    assert found["total"]["middle"]["usd"] == pytest.approx(parts, abs=1e-3)
    unpriced = expected(tmp_path, judge_price=None)
    assert unpriced["judge"]["usd"] is None and unpriced["total"]["usd"] is None
    assert any("openai/m is unpriced" in line for line in unpriced["assumptions"])
    assert unpriced["meta"]["usd"] is not None


def test_estimate_reads_a_file_and_shows_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(
        f"judge: openai/gpt-4o-mini\nmeta: claude\nsteps: 100\ndata: {write_prompts(tmp_path)}\n"
        f"cache_dir: {tmp_path / 'cache'}\n"
    )
    main(["estimate", str(path), "--steps", "50"])
    output = capsys.readouterr().out
    assert "50 batches of 64 completions" in output
    assert "unpriced" not in output and output.count("$") == 9 + 2 * 4  # low, middle, high; what moves it
    assert "criteria of the rubric, over the run: 1 to 12: $" in output


def test_the_range_is_around_a_middle_and_says_what_moves_it(tmp_path: Path) -> None:
    found = expected(tmp_path, steps=300, max_new_tokens=512)
    for role in ("judge", "meta", "total"):
        row = found[role]
        for name in ("calls", "input_tokens", "output_tokens", "usd"):
            low, high = row[name]
            assert low < row["middle"][name] < high
    low, high = found["total"]["usd"]
    assert high < 9 * low
    moved = [abs(row["usd"][1] - row["usd"][0]) for row in found["moves"]]
    assert len(moved) == 4 and moved == sorted(moved, reverse=True)
    # No factor alone leads out of the range, and the range is no wider than all of them together.
    assert all(low <= row["usd"][0] and row["usd"][1] <= high for row in found["moves"])
    assert high - low <= sum(moved) + 6 * moved[-1]
    unpriced = expected(tmp_path, judge_price=None)
    assert unpriced["total"]["middle"]["usd"] is None and all("tokens" in row for row in unpriced["moves"])


def test_a_cap_says_what_it_pays_for(tmp_path: Path) -> None:
    def told(**caps: Any) -> list[str]:
        given = {"judge": "openai/m", "baseline": "iter0", "judge_price": [1.0, 10.0], "steps": 40}
        given |= {"data": str(write_prompts(tmp_path)), "cache_dir": tmp_path / "cache"} | caps
        session = prepare_run(load_config(given=given, environ={}))
        try:
            return paid_for(session, estimate(session))
        finally:
            session.close()

    assert told() == told(max_usd=1e6) == told(max_calls=10**9, max_tokens=10**12) == []
    (line,) = told(max_calls=64 * 10)
    assert line == "the cap of 640 calls pays for about 9 to 12 of 40 batches"
    assert told(max_calls=3) == ["the cap of 3 calls pays for about 0 of 40 batches"]
    both = told(max_usd=0.5, max_tokens=1000)
    assert len(both) == 2 and both[0].startswith("the cap of $0.50 pays for about ")
    assert both[1] == "the cap of 1,000 tokens pays for about 0 of 40 batches"
