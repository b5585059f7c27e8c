"""Files that a kill at any moment leaves whole: replaced at once, or JSON lines of which only the last may be
torn. What is damaged is told with its line, and never read as something else.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from pydantic import BaseModel, ValidationError

from mpo_lite.errors import RunError
from mpo_lite.wording import problem_in_words

JsonRow = dict[str, Any]
"""An object of a JSON file."""

_SEAL = re.compile(r', "crc": "([0-9a-f]{8})"\}$')


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file as a whole: a reader, or a kill, finds the old one or the new one."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    with _named(path):
        try:
            with fresh.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)  # there only after an error


def append_rows(path: Path, rows: Iterable[JsonRow]) -> None:
    """Appends JSON lines and syncs them; a torn last line, which a kill may have left, is cut off."""
    _append(path, "".join(f"{json.dumps(row)}\n" for row in rows), sync=True)


def journal(path: Path, rows: Iterable[JsonRow], sync: bool = True) -> None:
    """Appends JSON lines that carry a checksum, as ``append_rows`` does.

    Args:
        path: The file; made if it is not there.
        rows: What to append.
        sync: Whether they are on the disk when this returns.
    """
    _append(path, "".join(map(_sealed, rows)), sync)


def write_journal(path: Path, rows: Iterable[JsonRow]) -> None:
    """Replaces a journal as a whole."""
    write_atomically(path, "".join(map(_sealed, rows)))


def read_rows(path: Path, kind: type[BaseModel] | None = None) -> list[JsonRow]:
    """All rows of a JSON-lines file, in order; none where there is no file. A torn last line is left out.

    Args:
        path: The file.
        kind: What each row must hold; None for any object.

    Raises:
        RunError: A line was damaged or changed, or is of another kind; says which.
    """
    lines = _content(path).split(b"\n")
    if _is_torn(lines[-1]):
        del lines[-1]
    try:
        return [
            _row(line, kind, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()
        ]
    except RunError as error:
        raise RunError(error.what, "restore the file from a copy, or delete that line") from None


def count_rows(path: Path) -> int:
    """Rows of a JSON-lines file, without a look into them."""
    return sum(bool(line.strip()) for line in _content(path).split(b"\n")[:-1])


def read_object(path: Path, kind: type[BaseModel]) -> JsonRow:
    """Reads a JSON file that holds one object.

    Args:
        path: The file.
        kind: What the object must hold.

    Raises:
        RunError: It is missing, damaged, or holds something else.
    """
    if not path.exists():
        raise RunError(f"{path}: missing")
    return _row(_content(path), kind, str(path))


def _append(path: Path, text: str, sync: bool) -> None:
    with _named(path), path.open("ab+") as file:
        _end_last_line(file)
        file.write(text.encode())
        if sync:
            file.flush()
            os.fsync(file.fileno())


def _end_last_line(file: BinaryIO) -> None:
    """Cuts a torn last line off, and ends any other: what is appended starts on a line of its own."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    if file.read() in (b"", b"\n"):
        return
    file.seek(0)
    *_, last = file.read().split(b"\n")
    if _is_torn(last):
        file.truncate(size - len(last))
    else:
        file.write(b"\n")


def _is_torn(line: bytes) -> bool:
    """Whether a last line without an end is the beginning of a row, as a kill leaves it."""
    if not line.startswith(b"{"):
        return False
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return True
    return False


def _content(path: Path) -> bytes:
    if path.exists() and not path.is_file():  # to read a pipe would wait for whoever writes to it
        raise RunError(f"{path}: not a regular file", "put the run's own file there")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})", "give this user read access") from error


def _sealed(row: JsonRow) -> str:
    """A row as a line of a journal: what it says, and the CRC-32 of that."""
    text = json.dumps(row)
    return f'{text[:-1]}, "crc": "{zlib.crc32(text.encode()):08x}"}}\n'


def _row(line: bytes, kind: type[BaseModel] | None, where: str) -> JsonRow:
    try:
        text = line.decode("utf-8")
        if seal := _SEAL.search(text):
            text = text[: seal.start()] + "}"
            if zlib.crc32(text.encode()) != int(seal[1], 16):
                raise RunError(f"{where}: changed since it was written")
        row: Any = json.loads(text)
        if not isinstance(row, dict):
            raise RunError(f'{where}: must be an object such as {{"batch": 1}}')
        if kind:
            kind.model_validate(row)
        return cast(JsonRow, row)
    except UnicodeDecodeError:
        what = "not UTF-8"
    except ValidationError as error:
        what = _in_words(error)
    except json.JSONDecodeError as error:
        what = f"not JSON ({error.msg})"
    except ValueError as error:
        what = f"not JSON ({error})"
    except RecursionError:
        what = "not JSON (nested too deep)"
    raise RunError(f"{where}: {what}")


def _in_words(error: ValidationError) -> str:
    """The first thing that pydantic finds wrong with a row, e.g. ``reward must be a number``."""
    problem = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place} {problem_in_words(problem)}".strip()


@contextmanager
def _named(path: Path) -> Generator[None]:
    """Tells errors of writing which file they are about: the system's own do not know."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise
