"""The log of calls, for those who ask for it: whole requests and replies, and never a key."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from mpo_lite.errors import ConfigError

_BEGINNING = b'{"request": '
"""Of each row."""

_log = logging.getLogger(__name__)


class CallLog:
    """One JSON line per attempt, in a file that its owner alone may read: it holds prompts and answers.

    Keeps what it is told until it is opened: the calls that check the models come before a run has a folder.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._pending: list[str] = []
        self._failed = False

    def open(self, path: Path) -> None:
        """Goes on in ``path``.

        Raises:
            ConfigError: It cannot be written, or holds something else.
        """
        try:
            if not _is_log(path):
                raise ConfigError(f"--log-calls {path}: holds something else; name a new file")
            _append(path, "".join(self._pending))
        except OSError as error:
            raise ConfigError(
                f"--log-calls {path}: cannot be written ({error.strerror}); name another file"
            ) from error
        self._path, self._pending = path, []

    def record(self, row: dict[str, Any]) -> None:
        """Appends an attempt. A file that cannot be written any more costs its rows, and no answer."""
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
    """Whether a file may be gone on with: it is empty, not there yet, or begins with a row of ours."""
    if not path.exists():
        return True
    with path.open("rb") as file:
        return file.read(len(_BEGINNING)) in (b"", _BEGINNING)


def _append(path: Path, text: str) -> None:
    """Appends by one write: the processes of a job share the file."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.fchmod(file, 0o600)  # it may have been there before
        os.write(file, text.encode())
    finally:
        os.close(file)
