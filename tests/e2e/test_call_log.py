"""The log of calls in whole runs: kept in the run's folder, and no key in what the libraries print."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from mpo_lite.jsonl import read_rows
from tests.support.llm_server import LLMServer
from tests.support.logged import SECRET, scored


def test_a_run_keeps_them_in_its_folder(train: Any, tmp_path: Path) -> None:
    with LLMServer() as server:
        where = ["--judge", "openai/j", "--judge-api-base", server.url, "--baseline", "iter0"]
        train(*where, "--log-calls", "whole.jsonl", steps=1)
        rows = read_rows(tmp_path / "run" / "whole.jsonl")
        assert len(rows) == len(server.requests) and {row["purpose"] for row in rows} == {"check", "judge"}


def test_debug_output_of_the_libraries_shows_no_key_and_that_is_said_once(tmp_path: Path) -> None:
    with LLMServer(key=SECRET) as server:
        code = f"""
import logging, sys
logging.basicConfig(level=logging.DEBUG)
from mpo_lite.cli.main import main
main({scored(server, tmp_path)!r})
"""
        debug = {"LITELLM_LOG": "DEBUG", "OPENAI_LOG": "debug", "MPO_JUDGE_API_KEY": SECRET}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | debug, check=True
        )
    said = done.stdout + done.stderr
    assert "3 rows, 3 with a reward" in said
    assert SECRET not in said and "an answer 1" not in said
    assert said.count("debug output of the libraries is disabled") == 1
    assert "LITELLM_LOG, OPENAI_LOG: debug output" in said
