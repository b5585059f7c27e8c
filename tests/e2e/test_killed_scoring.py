"""A scoring that is killed goes on where it was."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.cli.main import main
from mpo_lite.jsonl import read_rows
from tests.support.llm_server import LLMServer


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_scoring_that_is_killed_loses_nothing_and_goes_on(
    number: signal.Signals, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out.jsonl"
    with LLMServer(delay=0.2) as server:
        rows = ({"prompt": f"question {n}", "response": f"answer {n}"} for n in range(8))
        data = tmp_path / "in.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        models = [
            "--judge",
            "openai/m",
            "--judge-api-base",
            server.url,
            "--cache-dir",
            str(tmp_path / "cache"),
        ]
        command = ["score", str(data), "--out", str(out), *models, "--concurrency", "2"]
        before = data.read_bytes()
        process = subprocess.Popen([sys.executable, "-m", "mpo_lite", *command], stderr=subprocess.DEVNULL)
        while len(server.prompts("judge")) < 5:
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait() == {signal.SIGTERM: 130}.get(number, -number)
        assert not out.exists() and data.read_bytes() == before
        assert number == signal.SIGKILL or not list(tmp_path.glob(".*"))
        main(command)
        asked = server.prompts("judge")
    assert len(read_rows(out)) == 8 and len(asked) < 8 + 5  # what was answered is not asked for again
    assert not list(tmp_path.glob(".*"))
