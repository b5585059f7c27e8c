"""``mpo-lite compare`` on files of answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.cli.main import main
from mpo_lite.jsonl import read_rows
from tests.support.llm_server import LLMServer, kind_of, prompt_text
from tests.support.scoring import (
    eight,
    failing,
    malformed,
    prefers_longer,
    refused,
    rows,
    served,
    told,
    write,
)


def test_files_are_compared_in_both_orders_and_rated(tmp_path: Path, capsys: Any) -> None:
    prompts = [f"question {n}" for n in range(10)]
    short = write(tmp_path / "short.jsonl", [{"prompt": one, "response": "brief"} for one in prompts])
    long = write(tmp_path / "long.jsonl", [{"prompt": one, "response": "long " * 9} for one in prompts])
    twin = write(tmp_path / "twin.jsonl", [{"prompt": one, "completion": "long " * 9} for one in prompts[1:]])
    with LLMServer(prefers_longer) as server:
        flags = served(server, tmp_path)
        flags += ["--out", str(tmp_path / "out"), "--json"]
        main(["compare", str(short), str(long), str(twin), *flags])
        summary, asked = told(capsys), len(server.requests)
        main(["compare", str(short), str(long), str(twin), *flags, "--overwrite"])
        assert told(capsys)["ratings"] == summary["ratings"]
        assert len(server.requests) == asked + 1  # the one that sees whether the judge is there
    matches = read_rows(tmp_path / "out" / "matches.jsonl")
    assert len(matches) == 9 * 6 and summary["failed"] == 0
    assert {(row["model_a"], row["model_b"]) for row in matches} == {
        (a, b) for a in ("short", "long", "twin") for b in ("short", "long", "twin") if a != b
    }
    ratings = summary["ratings"]
    assert ratings["short"]["wins"] == 0 and list(ratings)[-1] == "short"
    assert ratings["long"]["elo"] == pytest.approx(ratings["twin"]["elo"], abs=1e-6)  # each first one won


def test_compare_says_what_is_wrong(tmp_path: Path, capsys: Any) -> None:
    one = write(tmp_path / "one.jsonl", [{"prompt": "p", "response": "r"}])
    other = write(tmp_path / "other.jsonl", [{"prompt": "q", "response": "r"}])
    out = ["--judge", "openai/m", "--out", str(tmp_path / "out")]
    assert "at least two" in refused(capsys, "compare", str(one), *out)
    assert "no prompt has answers of all" in refused(capsys, "compare", str(one), str(other), *out)
    assert "two models are called 'one'" in refused(capsys, "compare", str(one), str(one), *out)
    gone = str(tmp_path / "nofile.jsonl")
    assert refused(capsys, "compare", str(one), gone, *out).endswith(f"{gone}: no such file\n")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_compare_fails_where_too_little_is_judged(tmp_path: Path, capsys: Any) -> None:
    one, other, out = eight(tmp_path / "one.jsonl"), eight(tmp_path / "other.jsonl"), tmp_path / "out"
    with LLMServer(malformed(*range(8))) as server:
        command = ["compare", str(one), str(other), *served(server, tmp_path), "--out", str(out)]
        line = failing(capsys, *command)
    assert "16 matches, none judged: 16 malformed, more than --max-judge-failures 0.05 allows" in line
    assert "the first: openai/m gave no usable answer" in line and not (out / "matches.jsonl").exists()
    with LLMServer(malformed(1, 2, 3, 4)) as server:
        command = ["compare", str(one), str(other), *served(server, tmp_path / "c"), "--out", str(out)]
        assert "8 of 16 not judged: 8 malformed, more than" in failing(capsys, *command)
        main([*command, "--max-judge-failures", "0.5"])
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("8 of 16 not judged: 8 malformed, spend unpriced; saved in ")


def test_compare_says_how_many_were_not_judged_and_why(tmp_path: Path, capsys: Any) -> None:
    one, other = rows(tmp_path / "one.jsonl", 4), rows(tmp_path / "other.jsonl", 4)

    def fault(kind: str, body: Any) -> str | None:
        if kind_of(prompt_text(body)) == "repair" or "answer 3" in prompt_text(body):
            return "No."
        return json.dumps({"reason": "r", "winner": "tie"}) if kind == "match" else None

    with LLMServer(fault) as server:
        judge = ["--judge", "openai/m", "--judge-api-base", server.url, "--cache-dir", str(tmp_path / "c")]
        command = ["compare", str(one), str(other), *judge, "--out", str(tmp_path / "out")]
        main(command)
        assert "2 of 8 not judged: 2 malformed" in capsys.readouterr().out
        main([*command, "--json", "--overwrite"])
    summary = json.loads(capsys.readouterr().out)
    assert (summary["failed"], summary["failures"], summary["matches"]) == (2, {"parse": 2}, 6)
