"""``mpo-lite eval``: what it says of settings it cannot use."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.scoring import refused, write


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["NOPE"],
            "NOPE: no such directory; give a run (mpo-lite runs lists them), a model directory, or a Hub id",
        ),
        (["runs/nope"], "runs/nope: no such directory; "),
        (["./some/model"], "./some/model: no such directory; "),
        (["a.jsonl"], "a.jsonl: no such file"),
        (["prompts.jsonl"], "prompts.jsonl: is a file; give a run, a model directory, or a Hub id"),
        (
            ["some/model"],
            "task essay: has no gold metric; choose a task that has one with --task (ethics, math, qa",
        ),
        (["some/model", "--task", "essay"], "task essay: has no gold metric; choose"),
        (["some/model", "--goal", "Short poems."], "task goal: has no gold metric; choose"),
    ],
)
def test_eval_says_what_is_missing(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "prompts.jsonl", [{"prompt": "p"}])
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "config.yaml").write_text("steps: 1\n")
    message = refused(capsys, "eval", *arguments)
    assert said in message and "Traceback" not in message
