"""On a real terminal, what models and servers say cannot act."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.hostile import CLEAR, HOSTILE, TITLE
from tests.support.llm_server import LLMServer
from tests.support.on_terminal import on_terminal


@pytest.mark.parametrize("failing", [False, True])
def test_on_a_terminal_answers_and_reasons_cannot_act(failing: bool, tmp_path: Path) -> None:
    """As ``try`` shows them, live lines and all; and what a server says where it fails."""
    rows = [{"prompt": f"{n} {HOSTILE}", "response": f"{n} {HOSTILE}"} for n in range(4)]
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def fault(kind: str, body: Any) -> str | None:
        if kind == "check":
            return None
        return HOSTILE if failing else json.dumps({"discourse": {"reason": HOSTILE, "level": 3}})

    with LLMServer(fault) as server:
        models = ["--judge", "openai/m", "--judge-api-base", server.url, "--baseline", "iter0"]
        places = ["--responses", str(file), "--cache-dir", str(tmp_path / "cache")]
        text, _ = on_terminal(["try", *models, *places])
    assert "✗" in text
    for act in (TITLE, "\x1b]", CLEAR, "\x1b[2J", "\x1b[31m", "\x9b", "\u202e", "\u2066", "\x08", "\rmpo"):
        assert act not in text
    assert "[bold]fat[/bold]" in text and "␛]0;owned␇␛[2J" in text
