"""What models, servers and files say is shown on the terminal, and cannot act on it."""

import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from llm_server import LLMServer
from made_run import made_run
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from test_status import on_terminal

import mpo_lite.cli
from mpo_lite.activity import activity
from mpo_lite.cli import status
from mpo_lite.cli._display import Display
from mpo_lite.cli.main import main
from mpo_lite.cli.status import Status
from mpo_lite.cli.terminal import console, echo

TITLE, LINK, CLEAR = (
    "\x1b]0;owned\x07",
    "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "\x1b[2J\x1b[H",
)
COLOUR, EIGHT_BIT, BIDI, BACK = "\x1b[31mred", "\x9b2J", "\u202egpj.exe\u2066", "\rmpo-lite: \x08\x08"
MARKUP = "[bold]fat[/bold] [/] :smile:"
HOSTILE = f"it {MARKUP} {TITLE}{CLEAR}{LINK}{COLOUR}{EIGHT_BIT}{BIDI}{BACK}"
ACTS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What acts on a terminal, or turns its text round."""


def harmless(text: str) -> None:
    """Asserts that of the hostile text all is there to be seen, and nothing to act."""
    assert not ACTS.search(text)
    seen = "".join(text.split())  # lines may have been broken
    assert "[bold]fat[/bold][/]:smile:" in seen
    assert "␛]0;owned" in seen and "␛[2J" in seen and "[U+202E]gpj.exe" in seen


def test_a_line_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    echo(HOSTILE)
    harmless(capsys.readouterr().out)
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
        harmless(stream.getvalue())


def test_what_is_under_way_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = StringIO()
    for name in ("FIRST_S", "EVERY_S", "TICK_S"):
        monkeypatch.setattr(status, name, 0.01)
    with Status(stream), activity(f"loading policy {HOSTILE}"):
        status.time.sleep(0.3)
    harmless(stream.getvalue())


def test_a_runs_rubrics_and_names_are_shown_as_text(tmp_path: Path, capsys: Any) -> None:
    run = made_run(tmp_path / "runs" / "[bold]fat [x", said=HOSTILE)
    main(["runs", str(tmp_path / "runs")])
    assert "[bold]fat[x" in "".join(capsys.readouterr().out.split())
    for command in (["list"], ["show", "0"], ["diff"]):
        main(["rubric", command[0], str(run.path), *command[1:]])
        assert not ACTS.search(capsys.readouterr().out)


def test_an_error_shows_names_as_text(tmp_path: Path, capsys: Any) -> None:
    out = ["--no-judge", "--out", str(tmp_path / "o.jsonl")]
    for arguments in (["score", f"{HOSTILE}.jsonl", *out], ["train", HOSTILE]):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        harmless(capsys.readouterr().err)
    with pytest.raises(SystemExit, match="2"):
        main(["score", f"--{HOSTILE}"])
    assert not ACTS.search(capsys.readouterr().err)


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
