"""A run whose files were damaged, read by every command: what is wrong is one line, or no harm."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpo_lite.checkpoints import complete_checkpoint, resumable_checkpoint
from mpo_lite.cli.main import main
from mpo_lite.errors import MPOError, RunError
from mpo_lite.jsonl import append_rows, journal, read_rows, write_atomically
from mpo_lite.llm.ledger import read_calls
from mpo_lite.report.comparison import compare_runs
from mpo_lite.report.figures import compute_figures
from mpo_lite.report.page import write_report
from mpo_lite.run_dir import RunDir
from tests.support.made_run import made_run

SAVED = 6
"""Batches done at the last checkpoint of the run here; there is one at half of them, too."""
TRAINERS = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
JOURNALS = ("metrics", "gold", "lineage", "alarms", "anchor", "probes", "trials", "rollouts")
LEDGERS = ("calls", "calls-1")
CHECKPOINT = tuple(
    f"checkpoints/checkpoint-{SAVED}/{name}" for name in (*TRAINERS, "mpo_state.json", "manifest.json")
)
FILES = (
    "config.yaml",
    "env.json",
    "pin.json",
    "rubrics/v000.yaml",
    "rubrics/v001.yaml",
    "superseded/lineage.jsonl",
    *(f"{name}.jsonl" for name in (*JOURNALS, *LEDGERS)),
)

NO_HARM = {
    ("gone", "pin.json"),  # as where nobody pinned a version
    ("gone", "superseded/lineage.jsonl"),  # steps that a resumed run holds anew
    ("halved", "superseded/lineage.jsonl"),  # likewise: a torn last line is left out
    ("gone", f"checkpoints/checkpoint-{SAVED}/manifest.json"),  # as where a kill came before it was written
}


def halved(content: bytes) -> bytes:
    return content[: len(content) // 2]


def zeroed(content: bytes) -> bytes:
    return bytes(len(content))


def changed(content: bytes) -> bytes:
    place = len(content) // 3
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def not_utf_8(content: bytes) -> bytes:
    place = len(content) // 3
    return content[:place] + b"\xff" + content[place + 1 :]


def gone(content: bytes) -> None:
    return None


def first_line(line: bytes) -> Callable[[bytes], bytes]:
    return lambda content: line + b"\n" + content.split(b"\n", 1)[-1]


def other_types(content: bytes) -> bytes:
    """The first object with a text for each number, a number for each text, and so on."""
    try:
        row = json.loads(content.split(b"\n")[0])
    except ValueError:
        try:
            row = json.loads(content)
        except ValueError:
            row = dict.fromkeys(("judge", "steps", "criteria", "max_usd"), 0.5)
            return json.dumps(row).encode()
    swapped = {str: 7, int: "text", float: "text", bool: 1, list: {}, dict: []}
    row = {key: swapped.get(type(value), value) for key, value in row.items() if key != "crc"}
    return first_line(json.dumps(row).encode())(content)


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "halved": halved,
    "zeroed": zeroed,
    "changed": changed,
    "not UTF-8": not_utf_8,
    "gone": gone,
    "a list": first_line(b"[1]"),
    "a number": first_line(b"3"),
    "nothing": first_line(b"null"),
    "no keys": first_line(b"{}"),
    "other types": other_types,
    "nested": first_line(b"[" * 100_000),
    "nested object": first_line(b'{"a":' * 100_000),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made run of some batches with two checkpoints, and another one beside it."""
    folder = tmp_path_factory.mktemp("runs")
    no_gold = {"task": "essay", "policy": str(folder / "no-such-policy")}
    run = made_run(folder / "run", batches=SAVED, every=2, **no_gold)
    made_run(folder / "other", batches=2)
    verdict = json.loads(run.rollouts.read_text().splitlines()[0])["verdict"]
    journal(run.trials, [{"batch": 4, "key": "k", "verdict": verdict, "calls": ["c"]}])
    (run.path / "superseded").mkdir()
    shutil.copy(run.lineage, run.path / "superseded")
    write_atomically(run.pinned, json.dumps({"version": 0}))
    for batch in (SAVED // 2, SAVED):
        checkpoint = run.checkpoints / f"checkpoint-{batch}"
        checkpoint.mkdir()
        for name in TRAINERS:
            (checkpoint / name).write_bytes(bytes(range(256)) * 4)
        complete_checkpoint(run, checkpoint, {"batch": batch, "version": int(batch > 4)})
    return folder


@pytest.fixture
def damaged(whole: Path, tmp_path: Path) -> Iterator[Callable[[str, str], Path]]:
    """Damages a file of a copy of the run, which is whole again at the next call."""
    folder = Path(shutil.copytree(whole, tmp_path / "runs"))

    def damage(name: str, how: str) -> Path:
        shutil.copytree(whole / "run", folder / "run", dirs_exist_ok=True)
        path = folder / "run" / name
        content = DAMAGES[how](path.read_bytes())
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        return folder / "run"

    return damage


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and what stands on stderr; an error that is not ours goes through."""
    code = 0
    try:
        main([str(each) for each in arguments])
    except SystemExit as left:
        code = int(left.code or 0)
    return code, capsys.readouterr().err


def readers(run: Path) -> dict[str, tuple[object, ...]]:
    other, out = run.parent / "other", run.parent / "out"
    return {
        "report": ("report", run, "--out", out, "--overwrite"),
        "comparison": ("report", run, other, "--out", out, "--overwrite"),
        "runs": ("runs", run.parent),
        "list": ("rubric", "list", run),
        "diff": ("rubric", "diff", run),
        "pin": ("rubric", "pin", run, 0),
        "release": ("rubric", "pin", run, "--release"),
        "alarms": ("alarms", run / "rollouts.jsonl"),
        "eval": ("eval", run),
    }


@pytest.mark.slow
@pytest.mark.parametrize("how", DAMAGES)
def test_every_reader_says_in_one_line_what_is_wrong(
    how: str, damaged: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in FILES:
        for reader, arguments in readers(damaged(name, how)).items():
            code, errors = said(capsys, *arguments)
            lines = [line for line in errors.splitlines() if not line.startswith("writing")]
            assert code in (0, 2) and len(lines) <= 1, (name, reader, errors)
            assert "Traceback" not in errors
            if reader in ("comparison", "runs"):
                assert code == 0, (name, reader, errors)  # the other run is shown


@pytest.mark.slow
@pytest.mark.parametrize("how", DAMAGES)
def test_no_run_goes_on_from_a_damaged_file(
    how: str, damaged: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (*FILES, *CHECKPOINT):
        if (how, name) in NO_HARM:
            continue
        run = damaged(name, how)
        code, errors = said(capsys, "resume", run)
        assert code == 2 and len(errors.splitlines()) == 1, (name, errors)
        assert Path(name).name in errors or (name, how) == ("config.yaml", "gone"), (name, errors)
        if name in CHECKPOINT:
            assert f"or continue from an earlier state: mpo-lite resume {run} --from checkpoint-3" in errors
            for command in (("export", run, "--merge", run / "out"), ("eval", run)):
                code, errors = said(capsys, *command)
                assert code == 2 and f"--from checkpoint-{SAVED // 2}" in errors


def test_what_is_damaged_is_named_with_its_line(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    good = (whole / "run" / "metrics.jsonl").read_bytes().splitlines()
    row = json.loads(good[0])
    del row["crc"]
    mend = "; restore the file from a copy, or delete that line"
    for line, what in {
        b'{"batch": 1': "not JSON (Expecting ',' delimiter)",
        b"\0\0": "not JSON (Expecting value)",
        b'{"a": "\xff"}': "not UTF-8",
        b"[" * 100_000: "not JSON (nested too deep)",
        b"[1]": 'must be an object such as {"batch": 1}',
        b"{}": "batch is missing",
        good[0].replace(b'"reward"', b'"rewarD"'): "changed since it was written",
        json.dumps(row | {"reward": "0.5"}).encode(): "reward must be a number",
        json.dumps(row | {"reward": 7}).encode(): "reward must be 1 or less",
        json.dumps(row | {"rows": 1.5}).encode(): "rows must be a whole number",
        json.dumps(row | {"alarms": [3]}).encode(): "alarms.0 must be a text",
        json.dumps(row | {"alarms": "x"}).encode(): "alarms must be a list such as [a, b]",
    }.items():
        path.write_bytes(b"\n".join([*good[:2], line, *good[3:], b""]))
        with pytest.raises(RunError) as caught:
            RunDir(tmp_path).rows(path)
        assert str(caught.value) == f"{path}:3: {what}{mend}"


def test_a_damaged_run_hides_no_other(
    damaged: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = damaged("metrics.jsonl", "not UTF-8")
    main(["runs", str(run.parent), "--json"])
    listed = {one["name"]: one["state"] for one in json.loads(capsys.readouterr().out)["runs"]}
    assert listed["other"] == "done" and "metrics.jsonl:" in listed["run"]
    out = run.parent / "c.html"
    code, errors = said(capsys, "report", run, run.parent / "other", "--out", out)
    assert code == 0 and errors.startswith("left out: ") and "not UTF-8" in errors
    page = out.read_text(encoding="utf-8")
    assert "run cannot be read and is left out" in page and str(run.parent) not in page
    assert said(capsys, "report", run, run.parent / "none", "--out", out)[0] == 2  # a name mistyped


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_damage_is_told_too(whole: Path, tmp_path: Path, data: st.DataObject) -> None:
    run = RunDir(tmp_path / "run")
    shutil.rmtree(run.path, ignore_errors=True)
    shutil.copytree(whole / "run", run.path)
    path = run.path / data.draw(st.sampled_from((*FILES, *CHECKPOINT)))
    if path.suffix == ".jsonl" and data.draw(st.booleans()):  # as if the damage had a checksum of its own
        rows = read_rows(path)
        path.unlink()
        append_rows(path, rows)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path.write_bytes(content)
    other = whole / "other"
    looks: tuple[Callable[[], Any], ...] = (
        lambda: write_report(run, tmp_path / "report.html"),
        lambda: compare_runs([run.path, other]),
        lambda: compute_figures(*RunDir.open(run.path, {})),
        lambda: resumable_checkpoint(run, None),
    )
    for look in looks:
        try:
            look()
        except MPOError as error:
            assert "\n" not in str(error)


READERS: dict[str, Callable[[RunDir], Any]] = {
    "metrics.jsonl": lambda run: run.rows(run.metrics),
    "calls.jsonl": lambda run: read_calls(run.path / "calls.jsonl"),
    "env.json": lambda run: run.environment,
}


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_in_place_of_a_file_is_told_and_not_waited_for(name: str, tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    (run.path / name).unlink(missing_ok=True)
    os.mkfifo(run.path / name)
    with pytest.raises(RunError, match="not a regular file"):
        READERS[name](run)
