"""``mpo-lite refine``: a rubric is mended on answers at hand."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.cli.main import main
from mpo_lite.sandbox.judge_server import running
from tests.support.llm_server import LLMServer
from tests.support.scoring import eight, failing, malformed, served


def test_refine_fails_where_nothing_is_judged_or_proposed(tmp_path: Path, capsys: Any) -> None:
    data, out = eight(tmp_path / "in.jsonl"), tmp_path / "rubric.yaml"

    def command(server: LLMServer, cache: str) -> list[str]:
        meta = ["--meta", "openai/n", "--meta-api-base", server.url, "--no-use-gate", "--rounds", "2"]
        return ["refine", str(data), *served(server, tmp_path / cache), *meta, "--out", str(out)]

    with LLMServer(malformed(*range(8))) as server:
        line = failing(capsys, *command(server, "one"))
        assert "8 answers, none judged: 8 malformed, more than" in line and "the first: openai/m" in line
        assert not server.prompts("analyse")  # nothing was paid for the meta-judge

    def meta_fails(kind: str, body: Any) -> str | None:
        return "A list." if kind in ("analyse", "refine", "merge", "repair") else None

    with LLMServer(meta_fails) as server:
        line = failing(capsys, *command(server, "two"))
    assert "no usable proposal in 2 rounds: " in line and not out.exists()


def test_a_goal_in_a_sentence_is_refined_for(tmp_path: Path, capsys: Any) -> None:
    data, out = eight(tmp_path / "in.jsonl"), tmp_path / "rubric.yaml"
    with LLMServer() as server:
        meta = ["--meta", "openai/n", "--meta-api-base", server.url, "--no-use-gate", "--rounds", "1"]
        goal = ["--goal", "Letters that a landlord answers.", "--out", str(out)]
        main(["refine", str(data), *served(server, tmp_path), *meta, *goal])
        assert all("Letters that a landlord answers." in text for text in server.prompts("judge"))
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == f"1 of 1 round changed the rubric, spend unpriced, written to {out}" and out.exists()


@pytest.fixture
def url() -> Iterator[str]:
    with running(seed=0) as address:
        yield address


def test_refine_mends_a_rubric_against_labels(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topics = ["dogs", "trains", "books", "ships", "farms", "bands"]
    rows: list[dict[str, Any]] = []
    for n, topic in enumerate(topics * 3):
        reasons = " ".join(f"one reason is that {topic} give {gain} ." for gain in ("joy", "work"))
        good = f"i think that {topic} are good . {reasons} in the end {topic} are useful ."
        text = good if (n + n // 6) % 2 else "moreover thus hence " * (n + 1)
        rows.append(
            {"prompt": f"write a short essay about {topic} .", "response": text, "stars": (n + n // 6) % 2}
        )
    rows.append({"prompt": "write a text about dogs .", "response": "dogs .", "stars": None})
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [
        "--judge",
        "openai/sandbox-j",
        "--judge-api-base",
        url,
        "--meta",
        "openai/sandbox-m",
        "--meta-api-base",
        url,
    ]
    places = ["--cache-dir", str(tmp_path / "cache"), "--out", str(tmp_path / "rubric.yaml")]
    command = [
        "refine",
        "--task",
        "sandbox",
        str(data),
        "--labels",
        "stars",
        "--rounds",
        "2",
        *flags,
        *places,
    ]
    main([*command, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["rounds"][0]["status"] == "accepted"
    assert found["rounds"][-1]["agreement"] > 0.5
    assert (found["judge_calls"], found["meta_calls"]) > (0, 0)
    first = capsys.readouterr(), (tmp_path / "rubric.yaml").read_text()
    main([*command, "--overwrite"])
    told = capsys.readouterr().out
    assert "round 1: new rubric: " in told and "agreement with the labels" in told
    assert (tmp_path / "rubric.yaml").read_text() == first[1]


@pytest.mark.parametrize(
    ("row", "flags", "message"),
    [
        ({"prompt": "p"}, [], "row 1 must have text in 'prompt' and in 'response'"),
        ({"prompt": "p", "response": "r"}, [], "answers to at least two prompts"),
        ({"prompt": "p", "response": "r"}, ["--labels", "stars"], "has no column 'stars'"),
        ({"prompt": "p", "response": "r", "stars": "good"}, ["--labels", "stars"], "must be a number"),
    ],
)
def test_refine_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: dict[str, str], flags: list[str], message: str
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps(row) + "\n")
    sandbox = [part for name in ("judge", "meta", "task") for part in (f"--{name}", "sandbox")]
    with pytest.raises(SystemExit, match="2"):
        main(["refine", *sandbox, str(data), "--out", str(tmp_path / "out.yaml"), *flags])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.yaml").exists()
