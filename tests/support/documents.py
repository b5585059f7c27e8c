"""The documentation as tests read it: its pages, their blocks, and the commands in them."""

import re
import shlex
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
INSTALLERS = ("pip", "git")
WRITTEN = sorted(path for pattern in ("*.md", "docs/*.md", "examples/**/*.md") for path in ROOT.glob(pattern))
LOCAL = "http://localhost:8000/v1"


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def commands() -> list[Any]:
    """Every command line of ours, as words: variables, then the command."""
    found: list[Any] = []
    for path in WRITTEN:
        lines = "\n".join(blocks(path, "sh")).replace("\\\n", " ").splitlines()
        for line in lines:
            if "_MPO_LITE_COMPLETE" in line:  # what a shell is told to complete by is tried below
                continue
            words = shlex.split(line, comments=True)
            for own, command in groupby(words, key=lambda word: word != "&&"):
                part = list(command)
                if part[0] in INSTALLERS:  # what they fetch is not published yet, or named by "…"
                    continue
                if own and any(word.endswith("mpo-lite") or word == "mpo_lite" for word in part):
                    found.append(pytest.param(part, id=f"{path.parent.name}/{path.name}: {' '.join(part)}"))
    return found
