"""``mpo-lite export``: what it refuses before a model is loaded."""

import os
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.checkpoints import complete_checkpoint
from mpo_lite.cli.main import main
from mpo_lite.config import Config
from mpo_lite.run_dir import RunDir
from tests.support.made_run import ENVIRONMENT


def test_export_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDir.create(tmp_path / "run", Config(policy="some/model"), ENVIRONMENT)
    for arguments, said in (
        ([], "--merge DIR, --push HUB_ID"),
        (["--merge", str(tmp_path / "out")], "no checkpoint yet"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["export", str(run.path), *arguments])
        assert stopped.value.code == 2 and said in capsys.readouterr().err


def test_a_hub_out_of_reach_is_told_before_anything_is_merged(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    run = RunDir.create(tmp_path / "run", Config(policy="some/model"), ENVIRONMENT)
    (run.checkpoints / "checkpoint-1").mkdir()
    complete_checkpoint(run, run.checkpoints / "checkpoint-1", {"batch": 1, "version": 0})
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("mpo_lite.cli.export._write_model", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(SystemExit, match="2"):
        main(["export", str(run.path), "--push", "me/policy"])
    said = capsys.readouterr().err
    assert "--push me/policy: 127.0.0.1 cannot be reached; write the model to a directory" in said
    assert "HF_HUB_OFFLINE" not in said and "HF_HUB_OFFLINE" not in os.environ
