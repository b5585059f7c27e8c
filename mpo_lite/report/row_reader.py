"""Reads a run's journals as typed records."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from mpo_lite.records import Record
from mpo_lite.run_dir import RunDir

R = TypeVar("R", bound=Record)


def read_records(run: RunDir, file: Path, kind: type[R]) -> list[R]:
    """The rows of one of a run's journals, in order.

    Args:
        run: The run.
        file: One of its journals, such as ``run.metrics``.
        kind: What its rows hold.

    Raises:
        RunError: A line is damaged, or holds something else; names it.
    """
    return [kind.model_validate(row) for row in run.rows(file)]
