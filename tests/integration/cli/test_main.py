import json
import os
from pathlib import Path

import pytest

from mpo_lite.cli.main import COMMANDS, main
from mpo_lite.config import Config
from mpo_lite.tasks.data import load_prompts
from mpo_lite.tasks.spec import DataSource


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and the one line that a failing command says."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return int(str(stopped.value.code)), lines[0]


@pytest.mark.parametrize("command", [*COMMANDS, "sandbox serve", "sandbox policy", "cache prune"])
def test_every_command_has_a_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([*command.split(), "--help"])
    output = capsys.readouterr().out
    assert "Usage" in output
    assert all(isinstance(field.description, str) for field in Config.model_fields.values())


def test_no_judge_is_one_line_that_names_the_ways_to_name_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = fails(capsys, "train")
    assert code == 2
    assert all(word in line for word in ("--judge", "MPO_JUDGE", "mpo-lite quickstart"))


def test_no_meta_judge_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = fails(capsys, "train", "--judge", "gpt-4o")
    assert code == 2
    assert all(word in line for word in ("--meta", "MPO_META", "--baseline", "iter0"))


def test_a_hub_out_of_reach_is_one_line_that_names_policy_and_data(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = ("--judge", "gpt-4o", "--meta", "claude", "--cache-dir", str(tmp_path))
    code, line = fails(capsys, "train", *flags)
    assert code == 2
    assert "--policy" in line and "--data" in line


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('{"text": "x"}\n', "row 1 has no column 'prompt'; available: text"),
        ('{"prompt": "x"}\n{"prompt": 3}\n', "row 2: 'prompt' must be non-empty text"),
        ('{"prompt": "x"}\nnot json\n', ":2: not JSON"),
        ('["x"]\n', ":1: must be an object"),
        ('{"prompt": "x"}\n', "1 distinct prompt; at least 2 are needed"),
        (None, "no such file"),
    ],
)
def test_wrong_data_is_refused_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, rows: str | None, message: str
) -> None:
    data = tmp_path / "data.jsonl"
    if rows is not None:
        data.write_text(rows)
    code, line = fails(capsys, "train", "--judge", "gpt-4o", "--baseline", "iter0", "--data", str(data))
    assert (code, message in line, str(data) in line) == (2, True, True), line


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("latin.csv", "prompt\ncafé\n".encode("latin-1"), "latin.csv: cannot be read"),
        ("latin.jsonl", '{"prompt": "café"}\n'.encode("latin-1"), "latin.jsonl: cannot be read"),
        ("huge.csv", b"prompt\n" + b"a" * 200_000 + b"\n", "huge.csv: not a csv file"),
        (":x", b"", "data ':x': neither a file nor a Hub dataset ID"),
        ("semicolon.csv", b"prompt;x\nhello;1\n", "semicolon.csv: columns are separated by ';'"),
        ("long.csv", b"prompt\nhello\nhello, world\n", "long.csv: row 2 has more fields than the header"),
    ],
)
def test_odd_data_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    data = name
    if content:
        (tmp_path / name).write_bytes(content)
        data = str(tmp_path / name)
    code, line = fails(capsys, "train", "--judge", "gpt-4o", "--baseline", "iter0", "--data", data)
    assert code == 2 and message in line


def test_files_saved_by_a_spreadsheet_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("prompt\r\ncafé\r\ntea\r\n".encode("utf-8-sig"))
    (tmp_path / "a.jsonl").write_bytes('{"prompt": "café"}\r\n{"prompt": "tea"}\r\n'.encode("utf-8-sig"))
    for name in ("a.csv", "a.jsonl"):
        prompts = load_prompts(DataSource(source=str(tmp_path / name)))
        assert sorted(prompts.train) == ["café", "tea"]


def test_an_endpoint_that_does_not_answer_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"p {n}"}) + "\n" for n in range(9)))
    flags = ["--judge", "openai/x", "--judge-api-base", "http://127.0.0.1:9/v1", "--baseline", "iter0"]
    flags += ["--policy", "sandbox"]
    with pytest.raises(SystemExit) as stopped:
        main(["train", *flags, "--data", str(data), "--json", "--cache-dir", str(tmp_path / "cache")])
    output = capsys.readouterr()
    assert stopped.value.code == 2
    said = output.err.splitlines()[-1]
    assert "judge openai/x at http://127.0.0.1:9/v1: cannot connect; check that the server" in said
    assert said.count("127.0.0.1") == 1
    assert output.out == ""


def test_resuming_what_is_no_run_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, line = fails(capsys, "resume", str(tmp_path))
    assert (code, "not a run directory" in line) == (2, True)


@pytest.mark.parametrize(("flags", "shown"), [((), False), (("--traceback",), True)])
def test_where_an_error_came_from_is_shown_to_who_asks(
    flags: tuple[str, ...], shown: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MPO_TRACEBACK", raising=False)
    with pytest.raises(SystemExit):
        main([*flags, "report", "nowhere"])
    said = capsys.readouterr().err
    monkeypatch.delenv("MPO_TRACEBACK", raising=False)
    assert said.splitlines()[-1].startswith("mpo-lite: nowhere: not a run directory")
    assert ("Traceback" in said) is shown


def written(path: Path, *prompts: str) -> str:
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return str(path)


def test_a_hub_out_of_reach_is_said_in_our_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    flags = ["--judge", "openai/m", "--baseline", "iter0", "--cache-dir", str(tmp_path / "cache")]
    for more in (
        ["--data", "me/prompts"],
        ["--data", written(tmp_path / "p.jsonl", *"abc"), "--policy", "me/p"],
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["train", *flags, *more, "--run-dir", str(tmp_path / "run")])
        said = capsys.readouterr().err.splitlines()[-1]
        assert "from the hub (127.0.0.1 cannot be reached and there is no local copy" in said.lower()
        assert "--policy DIR" in said and "HF_HUB_OFFLINE" not in said
    assert "HF_HUB_OFFLINE" not in os.environ
