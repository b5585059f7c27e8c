"""The optional log of calls: complete requests and replies, never a key."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from mpo_lite.errors import ConfigError

_BEGINNING = b'{"request": '
"""How every row begins."""

_log = logging.getLogger(__name__)


class CallLog:
    """One JSON line per attempt, in a file that only its owner can read: it contains prompts and answers.

    Buffers rows until it is opened: the models are checked before a run has a folder.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._pending: list[str] = []
        self._failed = False

    def open(self, path: Path) -> None:
        """Writes the buffered rows to ``path``, and all further ones.

        Raises:
            ConfigError: The file cannot be written, or is not a call log.
        """
        try:
            if not _is_log(path):
                raise ConfigError(f"--log-calls {path}: exists and is not a call log; choose a new file")
            _append(path, "".join(self._pending))
        except OSError as error:
            raise ConfigError(
                f"--log-calls {path}: cannot be written ({error.strerror}); choose another file"
            ) from error
        self._path, self._pending = path, []

    def record(self, row: dict[str, Any]) -> None:
        """Appends an attempt. If the file can no longer be written, rows are lost but no answers."""
        line = json.dumps(row, ensure_ascii=True) + "\n"
        if self._path is None:
            self._pending.append(line)
            return
        try:
            _append(self._path, line)
        except OSError as error:
            if not self._failed:
                self._failed = True
                _log.warning("--log-calls %s: cannot be written (%s)", self._path, error.strerror)


def _is_log(path: Path) -> bool:
    """Whether a file can be appended to: it is missing or empty, or begins with a row of this log."""
    if not path.exists():
        return True
    with path.open("rb") as file:
        return file.read(len(_BEGINNING)) in (b"", _BEGINNING)


def _append(path: Path, text: str) -> None:
    """Appends in one write, because the processes of a job share the file."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.fchmod(file, 0o600)  # the file may already exist with another mode
        os.write(file, text.encode())
    finally:
        os.close(file)
