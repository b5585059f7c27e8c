"""Commands that judge files of answers: the files, the flags, and judges that fail."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.cli.main import main
from tests.support.llm_server import LLMServer, kind_of, prompt_text


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == 2
    return capsys.readouterr().err


def failing(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The last line of a command that ends with exit code 1."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    said = capsys.readouterr()
    assert stopped.value.code == 1
    return said.err.splitlines()[-1]


def served(server: LLMServer, tmp_path: Path) -> list[str]:
    where = ["--judge-api-base", server.url, "--cache-dir", str(tmp_path / "cache")]
    return ["--judge", "openai/m", *where]


def malformed(*numbers: int) -> Any:
    """A judge whose verdicts and matches on some answers are malformed, and cannot be repaired."""

    def fault(kind: str, body: Any) -> str | None:
        asked = kind_of(prompt_text(body))
        bad = asked != "check" and any(f"answer {n}" in prompt_text(body) for n in numbers)
        tie = json.dumps({"reason": "r", "winner": "tie"}) if asked == "match" else None
        return "No." if kind == "repair" or bad else tie

    return fault


def eight(path: Path) -> Path:
    return write(path, [{"prompt": f"question {n}", "response": f"answer {n}"} for n in range(8)])


def rows(path: Path, count: int) -> Path:
    told = ({"prompt": f"question {n}", "response": f"answer {n}"} for n in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in told))
    return path


def prefers_longer(kind: str, body: Any) -> str | None:
    """A judge of matches that takes the longer answer, and the first of two that are as long."""
    text = prompt_text(body)
    if kind_of(text) != "match":
        return None
    shown = re.findall(r"<completion-\w+>\n(.*?)\n</completion", text, re.DOTALL)
    won = "first" if len(shown[0]) >= len(shown[1]) else "second"
    return json.dumps({"reason": "longer", "winner": won})
