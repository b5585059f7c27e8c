"""A real small judge and meta-judge behind a real vLLM: ``MPO_REAL_JUDGE=FOLDER make test-vllm``.

What is asserted holds for any usable judge; a model of 1.5 billion parameters is a weak one.
"""

import json
import os
import statistics
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from vllm_server import NO_BLANKS, serving

from mpo_lite.cli.main import main
from mpo_lite.jsonl import read_rows
from mpo_lite.judge.base import REASON_CHARS
from mpo_lite.rubric import load_rubric

MODEL, DATA = os.environ.get("MPO_REAL_JUDGE"), os.environ.get("MPO_TEST_DATA")
pytestmark = [
    pytest.mark.skipif(not MODEL, reason="MPO_REAL_JUDGE names no model"),
    pytest.mark.skipif(not DATA, reason="MPO_TEST_DATA names no data"),
]
COUNT = 8


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The flags that name the judge."""
    with serving(str(MODEL), tmp_path_factory.mktemp("log"), NO_BLANKS, name="judge") as url:
        yield ["--judge", "hosted_vllm/judge", "--judge-api-base", url]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return ["--cache-dir", str(tmp_path_factory.mktemp("cache"))]


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """Real essays, and real titles that a policy wrote in their place."""

    def rows(name: str) -> Iterator[dict[str, Any]]:
        with (Path(str(DATA)) / name).open() as lines:
            yield from map(json.loads, islice(lines, COUNT))

    essays = [{"prompt": row["prompt"], "response": row["response_a"]} for row in rows("essay_matches.jsonl")]
    titles = [{"prompt": row["prompt"], "response": row["response"]} for row in rows("title_hack.jsonl")]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*essays, *titles]))
    return path


def test_every_essay_is_judged_and_no_reason_rambles(
    judge: list[str], cache: list[str], answers: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out.jsonl"
    main(["score", str(answers), "--task", "essay", *judge, *cache, "--out", str(out), "--json"])
    rows = read_rows(out)
    assert [row["failure"] for row in rows] == [None] * 2 * COUNT
    reasons = [each["reason"] for row in rows for each in row["criteria"].values()]
    assert max(map(len, reasons)) <= REASON_CHARS
    essays, titles = ([row["reward"] for row in part] for part in (rows[:COUNT], rows[COUNT:]))
    assert statistics.fmean(essays) > statistics.fmean(titles)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["failures"] == {}


def test_a_refinement_ends_in_a_rubric_or_a_reason(
    judge: list[str], cache: list[str], answers: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "rubric.yaml"
    meta = [flag.replace("judge", "meta") if flag.startswith("--") else flag for flag in judge]
    main(["refine", str(answers), "--task", "essay", *judge, *meta, *cache, "--rounds", "1",
          "--meta-samples", "4", "--out", str(out), "--json"])  # fmt: skip
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    (only,) = summary["rounds"]
    assert only["accepted"] or only["reason"]
    assert load_rubric(out).criteria
