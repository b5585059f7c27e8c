"""What models, servers and files say is shown as text."""

import re
from io import StringIO
from pathlib import Path

import pytest
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

import mpo_lite.cli
from mpo_lite.activity import activity
from mpo_lite.cli import status
from mpo_lite.cli._display import Display
from mpo_lite.cli.status import Status
from mpo_lite.cli.terminal import console, echo
from tests.support.hostile import (
    ACTS,
    CLEAR,
    HOSTILE,
    MARKUP,
    TITLE,
    assert_harmless,
)


def test_a_line_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    echo(HOSTILE)
    assert_harmless(capsys.readouterr().out)
    echo("two\nlines\tand a tab", stderr=True)
    assert capsys.readouterr().err == "two\nlines\tand a tab\n"


def test_tables_panels_and_texts_hold_text() -> None:
    table = Table("column")
    table.add_row(f"{MARKUP} {TITLE}{CLEAR}")
    for one in (HOSTILE, Text(HOSTILE, "red"), Panel(Text(HOSTILE)), table):
        stream = StringIO()
        console(stream, soft_wrap=False).print(one)
        said = re.sub(r"[│┃╭╰╮╯─]", "", stream.getvalue())
        assert not ACTS.search(said) and MARKUP in said and "␛]0;owned" in said


def test_no_command_writes_past_it() -> None:
    for path in Path(mpo_lite.cli.__file__).parent.glob("*.py"):
        past = re.findall(
            r"click\.(?:echo|secho|style)\(|\bConsole\(|\bprint\(", path.read_text(encoding="utf-8")
        )
        allowed = {
            "terminal.py": 3,
            "status.py": 2,
            "_display.py": 6,
            "estimate.py": 7,
            "runs.py": 1,
            "rubric.py": 1,
        }
        assert len(past) <= allowed.get(path.name, 0), path.name


def test_what_training_shows_is_text() -> None:
    changed = {"added": [HOSTILE], "changed": [], "dropped": []}
    for kind, row in (
        ("note", {"text": HOSTILE}),
        ("alarm", {"batch": 1, "name": "phrase_drift", "detail": HOSTILE}),
        ("meta", {"kind": "meta", "batch": 1, "status": "refused", "version": 0, "reason": HOSTILE}),
        ("meta", {"kind": "meta", "batch": 1, "status": "accepted", "version": 1, "reason": "", **changed}),
    ):
        stream = StringIO()
        Display(4, Status(stream))(kind, row)
        assert_harmless(stream.getvalue())


def test_what_is_under_way_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = StringIO()
    for name in ("FIRST_S", "EVERY_S", "TICK_S"):
        monkeypatch.setattr(status, name, 0.01)
    with Status(stream), activity(f"loading policy {HOSTILE}"):
        status.time.sleep(0.3)
    assert_harmless(stream.getvalue())
