"""Files that a kill at any moment leaves whole: replaced at once, or JSON lines of which only the last may be
torn.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

JsonRow = dict[str, Any]
"""An object of a JSON file."""


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file as a whole: a reader, or a kill, finds the old one or the new one."""
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


def append_rows(path: Path, rows: Iterable[JsonRow]) -> None:
    """Appends JSON lines and syncs them."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(_line(row) for row in rows))
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path) -> list[JsonRow]:
    """All whole lines of a JSON-lines file, in order; none where there is no file."""
    rows: list[JsonRow] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # torn by a kill
                row = json.loads(line)
                rows += [row] if isinstance(row, dict) else []
    return rows


def rewrite_rows(path: Path, rows: list[JsonRow]) -> None:
    """Writes the file anew, without a torn last line: what is appended next must start on a line of its
    own.
    """
    if path.exists():
        write_atomically(path, "".join(_line(row) for row in rows))


def _line(row: JsonRow) -> str:
    return json.dumps(row, ensure_ascii=True) + "\n"
