import json
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.cli._display import Display
from mpo_lite.cli.main import COMMANDS, main
from mpo_lite.cli.status import Status
from mpo_lite.config import Config
from mpo_lite.errors import ConfigError, TaskError, refusals
from mpo_lite.tasks.data import load_prompts
from mpo_lite.tasks.spec import DataSource
from mpo_lite.wording import simulated_note


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and the one line that a failing command says."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return int(str(stopped.value.code)), lines[0]


def test_help_lists_all_commands_and_loads_neither_torch_nor_litellm() -> None:
    code = (
        "import sys; from mpo_lite.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print('LOADED', [m for m in ('torch', 'litellm', 'transformers', 'trl') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "LOADED []" in output
    assert all(name in output for name in COMMANDS)


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
        ('{"text": "x"}\n', "row 1 has no column 'prompt'; it has: text"),
        ('{"prompt": "x"}\n{"prompt": 3}\n', "row 2: 'prompt' must be a non-empty text"),
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
        (":x", b"", "data ':x': neither a file nor the id of a hub data set"),
        ("semicolon.csv", b"prompt;x\nhello;1\n", "semicolon.csv: its columns are separated by ';'"),
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
    assert "judge openai/x at http://127.0.0.1:9/v1: no connection (is the server up" in said
    assert said.count("127.0.0.1") == 1
    assert output.out == ""


def test_resuming_what_is_no_run_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, line = fails(capsys, "resume", str(tmp_path))
    assert (code, "not a run directory" in line) == (2, True)


ROW: dict[str, Any] = {
    "batch": 3, "version": 1, "reward": 0.5, "spread": 0.1, "words": 40.0, "judge_failures": 2, "kl": 0.01,
    "cache_hits": 5, "judge_calls": 100, "gate_calls": 5, "meta_calls": 7, "usd": 0.1234,
}  # fmt: skip


def shown(*events: tuple[str, dict[str, Any]]) -> str:
    stream = StringIO()
    display = Display(10, Status(stream))
    for kind, row in events:
        display(kind, row)
    display.close()
    return stream.getvalue()


def test_progress_away_from_a_terminal_is_one_plain_line_per_batch() -> None:
    text = shown(
        ("gold", {"batch": 0, "gold": 0.45, "n": 64}),
        ("step", ROW),
        ("step", ROW | {"reward": None, "usd": None}),
    )
    lines = text.splitlines()
    assert lines[0] == "gold before training: 0.450 on 64 held-out prompts"
    for part in ("batch 3/10", "reward 0.500 (v1)", "gold 0.450", "kl 0.010", "spread 0.100", "words 40",
                 "failed 2", "cache hits so far 5", "calls so far 112", "spend so far $0.1234"):  # fmt: skip
        assert part in lines[1]
    assert "reward – (v1)" in lines[2] and "spend so far unpriced" in lines[2]
    assert "alarms" not in text
    assert "failed 2  alarms phrase drift, repetition  calls" in shown(
        ("step", ROW | {"alarms": ["phrase_drift", "repetition"]})
    )
    assert "\x1b" not in text


def test_a_meta_step_is_one_line_that_says_what_changed() -> None:
    changed = {"kind": "meta", "batch": 10, "status": "accepted", "version": 2, "reason": ""}
    changed |= {"added": ["a", "b"], "changed": ["c"], "dropped": ["d"]}
    kept = changed | {"status": "failed", "version": 1, "reason": "merging failed"}
    back = changed | {"kind": "rollback", "reason": "a title pays"}
    alarm = {"batch": 9, "name": "length_collapse", "detail": "few words"}
    text = shown(("meta", changed), ("meta", kept), ("meta", back), ("alarm", alarm))
    assert text.splitlines() == [
        "meta step after batch 10: rubric v2: added a, b; changed c; dropped d",
        "meta step after batch 10: rubric v1 unchanged (merging failed)",
        "rollback after batch 10: rubric v2: added a, b; changed c; dropped d (a title pays)",
        "alarm after batch 9: length collapse: few words",
    ]


def test_a_meta_step_quotes_the_first_two_of_many_objections() -> None:
    said = [f"{kind}: scored only 0.05 below honest answers; it must be 0.2 or more" for kind in "abcdef"]
    objections = [{"id": text[0], "text": text} for text in said]
    kept = {"kind": "meta", "batch": 10, "status": "refused", "version": 1, "reason": "; ".join(said)}
    kept |= {"added": [], "changed": [], "dropped": []}
    refused = kept | {"refused": [{"reason": "; ".join(said), "objections": objections}]}
    back = refused | {
        "kind": "rollback",
        "status": "accepted",
        "reason": "rolled back: " + "; ".join(said[:3]),
    }
    back |= {"refused": [], "recheck": {"objections": objections[:3]}}
    first, second, third = shown(("meta", refused), ("meta", back), ("meta", kept)).splitlines()
    assert first.endswith(f"rubric v1 unchanged ({said[0]}; {said[1]}; and 4 more, see lineage.jsonl)")
    assert second.endswith(f"(rolled back: {said[0]}; {said[1]}; and 1 more, see lineage.jsonl)")
    assert third.endswith(f"({'; '.join(said)})")  # a run of before, whose objections are in one text


def test_an_alarm_names_the_first_of_what_it_saw() -> None:
    detail = "; ".join(f"word 'w{n}' in 90%, before 10%" for n in range(5))
    line = shown(("alarm", {"batch": 9, "name": "phrase_drift", "detail": detail}))
    assert line.endswith("word 'w1' in 90%, before 10%; word 'w2' in 90%, before 10%; …\n")


def test_clusters_are_read_with_the_prompts(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(f'{{"prompt": "p{n}", "subject": "s{n % 3}"}}\n' for n in range(12)))
    prompts = load_prompts(DataSource(source=str(path), cluster="subject"))
    assert all(prompts.cluster(f"p{n}") == f"s{n % 3}" for n in range(12))
    assert load_prompts(DataSource(source=str(path))).cluster("p1") == ""
    path.write_text("".join(f'{{"prompt": "p{n}", "subject": "s{n}"}}\n' for n in range(80)))
    with pytest.raises(TaskError, match="80 kinds in 'subject'"):
        load_prompts(DataSource(source=str(path), cluster="subject"))


def test_a_bug_of_ours_is_no_refusal_of_a_library() -> None:
    with pytest.raises(ConfigError, match="trainer: Expecting value"), refusals("trainer"):
        json.loads("")
    with pytest.raises(TypeError), refusals("trainer"):
        simulated_note(1)  # pyright: ignore[reportArgumentType]


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
