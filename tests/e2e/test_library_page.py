"""The library page's examples run as they are written, one after the other."""

import subprocess
import sys
from pathlib import Path

from mpo_lite.jsonl import read_rows
from tests.support.documents import ROOT, code_blocks


def test_a_run_is_trained_resumed_and_read(tmp_path: Path) -> None:
    _, _, train, resume, read = code_blocks(ROOT / "docs" / "reference" / "library.md")
    said: list[str] = []
    for code in (train, resume, resume, read):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        said.append(done.stdout)
    assert "runs/essay 0 None" in said[0] and said[1].endswith(" None\n")
    assert said[2] == said[1]  # nothing is left to train, so that nothing more is asked
    rows = read_rows(tmp_path / "runs" / "essay" / "metrics.jsonl")
    assert [row["batch"] for row in rows] == [1, 2, 3]
    assert str([row["reward"] for row in rows]) in said[3]
