"""Shells complete the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        (["mpo-lite", "qui"], "quickstart"),
        (["mpo-lite", "rubric", "d"], "diff"),
        (["mpo-lite", "train", "--judge-m"], "--judge-mode"),
        (["mpo-lite", "train", "--algorithm", "r"], "rloo"),
    ],
)
def test_shells_complete_commands(typed: list[str], wanted: str) -> None:
    asked = {
        "_MPO_LITE_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(typed),
        "COMP_CWORD": str(len(typed) - 1),
    }
    done = subprocess.run(
        [Path(sys.executable).parent / "mpo-lite"], env=os.environ | asked, capture_output=True, text=True
    )
    assert f"plain,{wanted}" in done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_are_told_how_to_complete(shell: str) -> None:
    assert "_MPO_LITE_COMPLETE" in completion(f"{shell}_source")


def completion(asked: str, **place: str) -> str:
    environ = os.environ | {"_MPO_LITE_COMPLETE": asked} | place
    command = Path(sys.executable).parent / "mpo-lite"
    return subprocess.run([command], env=environ, capture_output=True, text=True, check=False).stdout
