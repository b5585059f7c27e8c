"""What a command shows while it works: no silence, nothing torn, nothing after its last line."""

import json
import re
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.cli import status
from mpo_lite.cli.main import main
from tests.support.jobs import arguments
from tests.support.llm_server import LLMServer, completion_of
from tests.support.on_terminal import FASTER, RUN, on_terminal

SLACK = 4
"""How many times longer than meant the silence may be: a machine under load is that slow."""


def timed_lines(command: list[str]) -> tuple[list[tuple[float, str]], str, int]:
    """Runs a command without a terminal: its stderr by time, its stdout, its exit code."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    out: list[str] = []
    with process:
        assert process.stdout and process.stderr
        reader = threading.Thread(target=lambda stream=process.stdout: out.append(stream.read()))
        reader.start()
        lines = [(time.monotonic() - started, line.rstrip("\n")) for line in process.stderr]
        reader.join()
    return lines, out[0], process.returncode


def rows(path: Path, count: int) -> Path:
    told = ({"prompt": f"question {n}", "response": f"answer {n}"} for n in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in told))
    return path


def score(tmp_path: Path, server: LLMServer, *flags: str, count: int = 24) -> list[str]:
    data, out = rows(tmp_path / "in.jsonl", count), tmp_path / "out.jsonl"
    judge = ["--judge", "openai/m", "--judge-api-base", server.url, "--cache-dir", str(tmp_path / "cache")]
    return ["score", "--task", "essay", *judge, str(data), "--out", str(out), *flags]


def test_a_slow_command_says_how_far_it_is_and_nothing_after_its_last_line(tmp_path: Path) -> None:
    with LLMServer(delay=0.7) as server:
        lines, out, code = timed_lines(score(tmp_path, server, "--json"))
    assert code == 0
    told = [line for _, line in lines]
    assert json.loads(out)["rewarded"] == 24 and len(out.splitlines()) == 1
    assert any(re.search(r"scoring: \d+ of 24 rows, \d+ s", line) for line in told)
    assert any("checking judge openai/m at http://127.0.0.1" in line for line in told)
    times = [when for when, line in lines if "of 24 rows" in line]
    gaps = [after - before for before, after in pairwise(times)]
    assert max(gaps) < SLACK * status.EVERY_S / FASTER and len(times) > 2


def test_an_error_is_the_last_line(tmp_path: Path) -> None:
    with LLMServer(delay=0.7) as server:
        lines, out, code = timed_lines(score(tmp_path, server, "--max-calls", "9"))
    assert code == 3 and out == ""
    assert lines[-1][1].startswith("mpo-lite: ") and any("of 24 rows" in line for _, line in lines)


def screen(text: str) -> list[str]:
    """What stands on a terminal in the end, by the sequences that rich and we write."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            column = 0
        elif found := re.fullmatch(r"\x1b\[(\d*)A", part):
            row = max(0, row - int(found[1] or 1))
        elif re.fullmatch(r"\x1b\[2?K", part):
            lines[row] = ""
        elif not part.startswith("\x1b"):
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines]


def test_on_a_terminal_live_lines_vanish_and_the_text_stays(tmp_path: Path) -> None:
    with LLMServer(delay=0.7) as server:
        text, code = on_terminal(score(tmp_path, server))
    assert code == 0 and re.search(r"[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] scoring: \d+ of 24 rows", text)
    (line,) = [line for line in screen(text) if line]
    assert line.startswith("24 rows, 24 with a reward") and line.endswith("out.jsonl")


def test_training_on_a_terminal_keeps_its_panel_up_to_date(tmp_path: Path, prompts: Path) -> None:
    with LLMServer(delay=0.4) as server:
        models = ["--judge", "openai/j", "--meta", "openai/m"]
        models += ["--judge-api-base", server.url, "--meta-api-base", server.url]
        flags = [flag for flag in arguments(tmp_path, prompts, steps=3) if flag != "--json"]
        text, code = on_terminal([*flags, *models])
    assert code == 0
    left = screen(text)
    assert sum(line.startswith("╭─ mpo-lite") for line in left) == 1  # only the last state stays
    assert any("3/3" in line for line in left) and text.count("╭─ mpo-lite") > 4
    assert left[-3].startswith("3 batches in") and left[-2].startswith("report: ")
    assert any(line.startswith("meta step after batch 2: ") for line in left)
    assert not any(re.search(r"[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] ", line) for line in left)


def test_training_without_a_terminal_is_never_silent(tmp_path: Path, prompts: Path) -> None:
    with LLMServer(delay=1.5) as server:
        models = ["--judge", "openai/j", "--meta", "openai/m"]
        models += ["--judge-api-base", server.url, "--meta-api-base", server.url]
        lines, out, code = timed_lines([*arguments(tmp_path, prompts, steps=3), *models])
    assert code == 0 and len(out.splitlines()) == 1
    told = [line for _, line in lines]
    assert any(line.startswith("loading the policy ") for line in told)
    assert any(re.match(r"training: [0-2] of 3 batches, \d+ s", line) for line in told)
    # Before that, importing torch keeps the thread waiting on a machine under load.
    times = [when for when, _ in lines[next(n for n, line in enumerate(told) if "run directory" in line) :]]
    gaps = [after - before for before, after in pairwise(times)]
    assert max(gaps) < SLACK * status.EVERY_S / FASTER


def test_training_says_at_its_end_why_judgements_failed(
    tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every third verdict is malformed, and cannot be repaired."""

    def fault(kind: str, body: Any) -> str | None:
        bad = kind == "judge" and sum(completion_of(body).encode()) % 3 == 0
        return "No." if kind == "repair" or bad else None

    settings = {"steps": 1, "max_judge_failures": 1.0}
    flags = [flag for flag in arguments(tmp_path, prompts, **settings) if flag != "--json"]
    with LLMServer(fault) as server:
        main([*flags, "--judge", "openai/j", "--judge-api-base", server.url, "--baseline", "iter0"])
    lines = capsys.readouterr().out.splitlines()
    batch = next(line for line in lines if line.startswith("batch 1/1"))
    found = re.search(r"failed (\d+) \((\d+) malformed\)", batch)
    assert found and found[1] == found[2]
    assert lines[-2].endswith(f"; {found[1]} of 16 not judged: {found[1]} malformed")
