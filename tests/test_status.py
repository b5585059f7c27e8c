"""What a command shows while it works: no silence, nothing torn, nothing after its last line."""

import errno
import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from jobs import arguments
from llm_server import LLMServer, completion_of, kind_of, prompt_text

from mpo_lite import activity as activity_module
from mpo_lite.activity import activities, activity
from mpo_lite.cli import status
from mpo_lite.cli._display import Display
from mpo_lite.cli.main import main
from mpo_lite.cli.status import Status, format_activities, format_activity

FASTER = 10
"""How many times faster than for people things are told in these tests."""
SLACK = 4
"""How many times longer than meant the silence may be: a machine under load is that slow."""
RUN = f"""
import sys
from mpo_lite.cli import score, status
for name in ("FIRST_S", "EVERY_S", "SHORT_S", "TICK_S"):
    setattr(status, name, getattr(status, name) / {FASTER})
score.CHUNK = 4
from mpo_lite.cli.main import main
main(sys.argv[1:])
"""


class Clock:
    """Stands in for the module ``time``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (activity_module, status):
        monkeypatch.setattr(module, "time", clock)
    return clock


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


def test_an_activity_is_one_phrase(clock: Clock) -> None:
    with activity("judging", 96, "answers") as work, activity("loading policy p"):
        clock.now += 2
        work.advance()
        for _ in range(36):
            clock.now += 1
            work.advance()
        clock.now += 4
        judging, loading = activities()
        assert format_activity(judging, clock.now) == "judging: 37 of 96 answers, 42 s, about 1 min left"
        assert format_activity(loading, clock.now) == "loading policy p: 42 s"
        assert format_activities([judging, loading], clock.now).endswith("1 min left; loading policy p: 42 s")
    assert activities() == []


@pytest.mark.parametrize(
    ("passed", "done", "expected"),
    [
        (0.0, 0, "work: 0 of 2,000 tokens, 0 s"),
        (200.0, 1000, "work: 1,000 of 2,000 tokens, 3 min 20 s, about 3 min left"),
        (8000.0, 1000, "work: 1,000 of 2,000 tokens, 2 h 13 min, about 2.2 h left"),
        (90.0, 1900, "work: 1,900 of 2,000 tokens, 1 min 30 s, about 5 s left"),
        (90.0, 2000, "work: 2,000 of 2,000 tokens, 1 min 30 s"),
    ],
)
def test_times_are_as_exact_as_a_person_needs(clock: Clock, passed: float, done: int, expected: str) -> None:
    with activity("work", 2000, "tokens") as work:
        work.advance(0)
        clock.now += passed
        work.advance(done)
        assert format_activity(work, clock.now) == expected


def test_time_left_follows_the_recent_pace(clock: Clock) -> None:
    with activity("work", 1000) as work:
        for _ in range(200):
            work.advance()
            clock.now += 10
        for _ in range(200):
            work.advance()
            clock.now += 1
        left = work.seconds_left()
    assert left is not None and 550 < left < 650  # 600 steps of a second; by the mean it were 3,300


def test_overlapping_blocks_of_one_name_are_one_activity() -> None:
    with activity("judging", 4, "answers") as first:
        with activity("judging", 2, "answers") as second:
            first.advance()
            second.advance(2)
            (both,) = activities()
            assert (both.done, both.total) == (3, 6)
        (both,) = activities()
        assert (both.done, both.total) == (3, 6)  # goes on counting where one of them has ended
    with activity("judging", 2, "answers"):
        (fresh,) = activities()
        assert (fresh.done, fresh.total) == (0, 2)


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


def test_what_is_quick_is_not_told_and_what_is_slow_every_ten_seconds(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "TICK_S", 0.01)
    stream = StringIO()

    def after(seconds: float) -> list[str]:
        clock.now += seconds
        time.sleep(0.3)
        return stream.getvalue().splitlines()

    with Status(stream):
        with activity("loading"):
            assert after(4.9) == []
        with activity("judging"):
            assert after(4.9) == []  # 9.8 s without a line, none of one thing longer than 5 s
            assert after(0.3) == ["judging: 5 s"]
            assert after(9.0) == ["judging: 5 s"]
            assert after(1.1) == ["judging: 5 s", "judging: 15 s"]
        assert len(after(60.0)) == 2  # nothing is under way


def test_an_error_is_the_last_line(tmp_path: Path) -> None:
    with LLMServer(delay=0.7) as server:
        lines, out, code = timed_lines(score(tmp_path, server, "--max-calls", "9"))
    assert code == 3 and out == ""
    assert lines[-1][1].startswith("mpo-lite: ") and any("of 24 rows" in line for _, line in lines)


def test_only_the_leading_process_shows_anything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("FIRST_S", "EVERY_S", "TICK_S"):
        monkeypatch.setattr(status, name, 0.01)
    for rank, shows in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        with Status(sys.stderr), activity("judging"):
            time.sleep(0.2)
        assert ("judging: 0 s" in capsys.readouterr().err) is shows


def test_the_thread_ends_with_an_exception() -> None:
    before = threading.active_count()
    with pytest.raises(RuntimeError), Status(StringIO()):
        raise RuntimeError
    assert threading.active_count() == before


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


def on_terminal(command: list[str]) -> tuple[str, int]:
    """All that a command writes to a terminal, and its exit code."""
    read, write = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, *command],
        stdin=write, stdout=write, stderr=write, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(write)
    parts: list[bytes] = []
    try:
        while part := os.read(read, 65536):
            parts.append(part)
    except OSError as error:
        if error.errno != errno.EIO:  # how a terminal says that nobody writes to it any more
            raise
    os.close(read)
    return b"".join(parts).decode(), process.wait()


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


def fails_on(kind: str, answer: str) -> Any:
    def fault(asked: str, body: Any) -> str | None:
        return "No." if asked == "repair" or (asked == kind and answer in prompt_text(body)) else None

    return fault


def test_score_says_how_many_were_not_judged_and_why(tmp_path: Path, capsys: Any) -> None:
    with LLMServer(fails_on("judge", "answer 3")) as server:
        main(score(tmp_path, server, count=6))
        line = capsys.readouterr().out.splitlines()[-1]
        main(score(tmp_path, server, "--json", "--overwrite", count=6))
        assert json.loads(capsys.readouterr().out)["failures"] == {"parse": 1}
    assert "1 of 6 not judged: 1 malformed" in line


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


def test_a_batch_line_says_why_judgements_failed() -> None:
    row = {
        "batch": 1, "version": 0, "reward": 0.5, "spread": 0.1, "words": 4.0, "judge_failures": 3,
        "failures": {"timeout": 2, "cut": 1}, "cache_hits": 0, "judge_calls": 8, "gate_calls": 0,
        "meta_calls": 0, "usd": 0.0,
    }  # fmt: skip
    stream = StringIO()
    Display(2, Status(stream))("step", row)
    assert "failed 3 (2 timed out, 1 cut off)" in stream.getvalue()
