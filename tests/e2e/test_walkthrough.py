"""The walkthrough's commands run again, in their order, on a tiny policy and a server that says anything.

What the models of the recorded session wrote is elided there by an ellipsis; other lines are compared without
their figures.
"""

import os
import re
import shlex
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.cli.main import main
from mpo_lite.jsonl import read_rows
from mpo_lite.sandbox.data import policy_dir
from tests.support.llm_server import LLMServer

PAGE = (Path(__file__).parents[2] / "docs/walkthrough.md").read_text(encoding="utf-8")
SERVER, POLICY = "http://localhost:8000/v1", "SmolLM2-135M-Instruct"
JUDGED = (
    *("✓", "✗", "–", "+", "~", "-", "[?]"),
    *("meta step after", "first  ", "shown first", "0 alarms in", POLICY),
)
"""How lines begin that say what a model is worth, or what it changed: another model's are others."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def session() -> Iterator[tuple[list[str], list[str]]]:
    """Each command of ours as words, with the lines that it printed."""
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *lines = part.replace("\\\n", " ").splitlines()
            words = shlex.split(command)
            if words[0] == "mpo-lite":
                yield words[1:], lines


def skeleton(line: str) -> str:
    """A line without figures and alarms, and without what stands behind an ellipsis."""
    line = re.sub(r"  alarms .*?(?=  )", "", line)
    return " ".join(re.sub(r"[-+]?\d[\d.,:]*|unpriced|\$", "#", line.partition("…")[0]).split())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the session took place: prompts, settings and a policy under the name of the recorded one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.copytree(policy_dir(), POLICY)
    first, *_ = blocks("json")
    rows = first.splitlines()
    (tmp_path / "new_prompts.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    more = [row.replace('"}', f' ({number})"}}') for number in range(12) for row in rows]
    (tmp_path / "my_prompts.jsonl").write_text("\n".join([*rows, *more]) + "\n", encoding="utf-8")
    return tmp_path


def test_the_session_repeats(folder: Path, capsys: Any) -> None:
    metrics = folder / "runs/first/metrics.jsonl"
    interrupts = [signal.SIGINT] if "^C" in PAGE else []

    def press_ctrl_c(kind: str, body: Any) -> None:
        if interrupts and metrics.exists() and len(read_rows(metrics)) == 2:
            os.kill(os.getpid(), interrupts.pop())

    with LLMServer(press_ctrl_c) as server:
        (settings,) = blocks("yaml")
        (folder / "experiment.yaml").write_text(settings.replace(SERVER, server.url), encoding="utf-8")
        for words, expected in session():
            code = 0
            try:
                main([word.replace(SERVER, server.url) for word in words])
            except SystemExit as left:
                code = left.code if isinstance(left.code, int) else 1
            told = capsys.readouterr()
            lines = [
                skeleton(line.replace(server.url, SERVER)) for line in (told.out + told.err).splitlines()
            ]
            # The recorded judge could train nothing; this one may.
            assert code in ({"try": (0, 1), "train": (130,)}.get(words[0], (0,))), told.err
            for line in expected:
                wanted = skeleton(line)
                if not wanted or line.strip().startswith(JUDGED) or line == "^C":
                    continue
                same = str.startswith if "…" in line else str.__eq__
                assert any(same(each, wanted) for each in lines), (
                    f"{' '.join(words)}: {line}\n{told.out}{told.err}"
                )
    assert not interrupts
