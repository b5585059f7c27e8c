"""The page of a calibration."""

from __future__ import annotations

from pathlib import Path

from mpo_lite.jsonl import JsonRow
from mpo_lite.report.page import render_page, write_page

MOODS = {"yes": "good", "with care": "open", "no": "bad"}


def write_calibration(summary: JsonRow, path: Path) -> Path:
    """Writes the page of a calibration.

    Args:
        summary: All figures, as ``mpo-lite calibrate --json`` prints them.
        path: Where to write.

    Returns:
        The file.

    Raises:
        ConfigError: The page cannot be written.
    """
    page = summary | {"mood": MOODS[summary["conclusion"]["answer"]]}
    return write_page(path, render_page("calibration.html.j2", {"charts": {}}, page))
