"""Checkpoints of real training: held against their manifests, gone back from, and not lost on a full disk."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.cli.main import main
from mpo_lite.run_dir import RunDir
from tests.support.jobs import Train, arguments, completed, resume, same_run
from tests.support.llm_server import LLMServer

SANDBOX = ("--judge", "sandbox", "--meta", "sandbox")
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "zeros": lambda content: bytes(len(content)),
    "half": lambda content: content[: len(content) // 2],
    "nothing": lambda content: b"",
}


def refused(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(each) for each in command])
    errors = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and len(errors) == 1, errors
    return errors[0]


def test_a_damaged_checkpoint_is_refused_and_the_one_before_leads_to_the_same_bits(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(*SANDBOX, "--algorithm", "ppo", name="whole")
    run = Path(shutil.copytree(tmp_path / "whole", tmp_path / "hurt"))
    last = run / "checkpoints" / "checkpoint-6"
    saved = {"adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "mpo_state.json"}
    listed = json.loads((last / "manifest.json").read_text())
    assert set(listed["files"]) == {path.name for path in last.iterdir()} - {"manifest.json"} > saved
    assert {"rollouts.jsonl", "metrics.jsonl", "lineage.jsonl", "calls.jsonl"} <= set(listed["rows"])
    for path in (last / name for name in listed["files"]):
        content = path.read_bytes()
        for damage in DAMAGES.values():
            path.write_bytes(damage(content))
            said = refused(capsys, "resume", run)
            assert said.startswith(f"mpo-lite: {path}: damaged: ")
            assert said.endswith(
                f"or continue from an earlier state: mpo-lite resume {run} --from checkpoint-4"
            )
        path.unlink()
        assert f"{path}: missing; restore it from a copy, or continue" in refused(capsys, "resume", run)
        path.write_bytes(content)
    assert "--from takes checkpoint-4, checkpoint-6, start" in refused(capsys, "resume", run, "--from", "6")
    (last / "optimizer.pt").unlink()
    main(["resume", str(run), "--from", "checkpoint-4", "--json"])
    same_run(tmp_path, "whole", "hurt")
    assert (run / "superseded" / "checkpoint-6" / "scheduler.pt").exists()
    for damaged in ("checkpoint-4", "checkpoint-6"):
        (run / "checkpoints" / damaged / "rng_state.pth").unlink()
    assert f"mpo-lite resume {run} --from start" in refused(capsys, "resume", run)
    main(["resume", str(run), "--from", "start", "--json"])
    same_run(tmp_path, "whole", "hurt")


def test_settings_that_somebody_edited_or_cut_are_refused(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(*SANDBOX, "--max-usd", "5", steps=1)
    path = tmp_path / "run" / "config.yaml"
    content = path.read_text()
    cut = content[: content.index("max_usd:")]
    for text in (cut, content.replace("max_usd: 5", "max_usd: 6"), content.rsplit("#", 1)[0]):
        path.write_text(text)
        said = refused(capsys, "resume", tmp_path / "run")
        assert "config.yaml: damaged or changed since the run began; restore it, or start a new" in said
    path.write_text(content)
    main(["resume", str(tmp_path / "run"), "--max-usd", "6", "--json"])


def full(code: int, run: Path) -> Callable[[int], None]:
    """A disk that takes nothing more once the run has done a batch."""
    sync = os.fsync

    def fsync(file: int) -> None:
        if (run / "metrics.jsonl").exists():
            raise OSError(code, os.strerror(code))
        sync(file)

    return fsync


@pytest.mark.parametrize(
    ("code", "what"),
    [
        (errno.ENOSPC, "the disk holding {} is full; free some space"),
        (errno.EROFS, "{}: the disk is mounted read-only; remount it writable"),
    ],
)
def test_a_disk_that_takes_nothing_more_is_named_and_the_run_goes_on(
    code: int, what: str, train: Train, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--judge", "sandbox", "--baseline", "iter0")
    with monkeypatch.context() as patched, pytest.raises(SystemExit) as stopped:
        patched.setattr(os, "fsync", full(code, tmp_path / "run"))
        train(*flags, steps=2)
    run = tmp_path / "run"
    said = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 1
    assert said == f"mpo-lite: {what.format(run / 'metrics.jsonl')}, then resume: mpo-lite resume {run}"
    main(["resume", str(run), "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["steps"] == 2


def test_a_checkpoint_that_could_not_be_written_whole_is_named_and_done_again(
    tmp_path: Path, prompts: Path
) -> None:
    """Under a limit on the size of files, which torch, safetensors and tokenizers meet as a full disk."""
    with LLMServer() as server:
        models = [part for role in ("judge", "meta") for part in
                  (f"--{role}", f"openai/{role}", f"--{role}-api-base", server.url)]  # fmt: skip
        whole = completed(*arguments(tmp_path, prompts, "whole"), *models)
        assert whole.returncode == 0, whole.stderr
        done = completed(*arguments(tmp_path, prompts, "limited"), *models, largest_file=300 * 1024)
        lines = done.stderr.splitlines()
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert "ulimit -f" in lines[-1] and f"mpo-lite resume {tmp_path / 'limited'}" in lines[-1]
        assert resume(tmp_path / "limited").returncode == 0
    same_run(tmp_path, "whole", "limited")


def test_a_disk_without_room_for_checkpoints_is_told_before_the_run(
    train: Train, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    with pytest.raises(SystemExit) as stopped:
        train("--judge", "sandbox", "--baseline", "iter0", "--lora-r", "64", steps=1)
    said = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2 and "run: 1.0 MiB are free on this disk, but checkpoints take" in said
    assert not RunDir(tmp_path / "run").exists()


def test_references_are_part_of_what_is_trained_on(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "math.jsonl"

    def write(add: int) -> None:
        rows = ({"problem": f"What is {n} + 1?", "solution": f"\\boxed{{{n + add}}}", "type": "Algebra"}
                for n in range(12))  # fmt: skip
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    write(1)
    flags = ("--judge", "sandbox", "--baseline", "iter0", "--task", "math", "--data", str(data))
    train(*flags, steps=1)
    write(2)
    with pytest.raises(SystemExit, match="2"):
        main(["resume", str(tmp_path / "run"), "--steps", "2"])
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mpo-lite: ")]
    assert len(told) == 1 and "its data is no longer what it was trained on" in told[0]
