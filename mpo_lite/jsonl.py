"""Files that survive a kill at any moment: replaced atomically, or JSON lines of which only the last may be
incomplete. Damage is reported with its line, and never read as something else.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from pydantic import BaseModel, ValidationError

from mpo_lite.errors import RunError
from mpo_lite.wording import problem_in_words

JsonRow = dict[str, Any]
"""An object of a JSON file."""

_SEAL = re.compile(r', "crc": "([0-9a-f]{8})"\}$')


def write_atomically(path: Path, text: str, mode: int = 0o666) -> None:
    """Replaces a file atomically: a reader, or a kill, finds either the old or the new one.

    Args:
        path: The file.
        text: Its new content.
        mode: Permissions, less those that the umask takes.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    with _name_file_in_errors(path):
        try:
            opened = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, mode)
            with open(opened, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            # Synced before it is renamed: otherwise a power cut could leave an empty file.
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)  # exists only after an error


def append_rows(path: Path, rows: Iterable[JsonRow]) -> None:
    """Appends JSON lines and syncs them; an incomplete last line, which a kill may have left, is removed."""
    _append(path, "".join(f"{json.dumps(row)}\n" for row in rows), sync=True)


def journal(path: Path, rows: Iterable[JsonRow], sync: bool = True) -> None:
    """Appends JSON lines that carry a checksum, as ``append_rows`` does.

    Args:
        path: The file; created if missing.
        rows: What to append.
        sync: Whether to sync them to disk before returning.
    """
    _append(path, "".join(map(_seal_row, rows)), sync)


def write_journal(path: Path, rows: Iterable[JsonRow]) -> None:
    """Replaces a journal atomically."""
    write_atomically(path, "".join(map(_seal_row, rows)))


def read_rows(path: Path, kind: type[BaseModel] | None = None) -> list[JsonRow]:
    """Reads all rows of a JSON-lines file, in order; none if there is no file. Skips an incomplete last line.

    Args:
        path: The file.
        kind: Model of each row; None for any object.

    Raises:
        RunError: A line was damaged or changed, or does not match the model; says which.
    """
    return list(iterate_rows(path, kind))


def iterate_rows(path: Path, kind: type[BaseModel] | None = None) -> Iterator[JsonRow]:
    """The rows of a JSON-lines file one by one, as ``read_rows`` has them; they need not fit in memory."""
    for number, line in enumerate(_iterate_lines(path), start=1):
        if not line.strip() or (not line.endswith(b"\n") and _is_torn(line)):
            continue
        try:
            row = _parse_row(line.removesuffix(b"\n"), kind, f"{path}:{number}")
        except RunError as error:
            raise RunError(error.what, "restore the file from a copy, or delete that line") from None
        yield row


def count_rows(path: Path) -> int:
    """Number of rows in a JSON-lines file, without parsing them."""
    return sum(bool(line.strip()) for line in _iterate_lines(path) if line.endswith(b"\n"))


def read_object(path: Path, kind: type[BaseModel]) -> JsonRow:
    """Reads a JSON file that holds one object.

    Args:
        path: The file.
        kind: Model of the object.

    Raises:
        RunError: It is missing, damaged, or does not match the model.
    """
    if not path.exists():
        raise RunError(f"{path}: missing")
    return _parse_row(_read_bytes(path), kind, str(path))


def _append(path: Path, text: str, sync: bool) -> None:
    with _name_file_in_errors(path), path.open("ab+") as file:
        _end_last_line(file)
        file.write(text.encode())
        if sync:
            file.flush()
            os.fsync(file.fileno())


def _end_last_line(file: BinaryIO) -> None:
    """Removes an incomplete last line or terminates a complete one, so that a new line can follow."""
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
    """Whether a last line without a newline is the beginning of a row, as a kill leaves it."""
    if not line.startswith(b"{"):
        return False
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return True
    return False


def _iterate_lines(path: Path) -> Iterator[bytes]:
    with _readable(path), path.open("rb") as file:
        yield from file


def _read_bytes(path: Path) -> bytes:
    return b"".join(_iterate_lines(path))


@contextmanager
def _readable(path: Path) -> Generator[None]:
    """Says what to do about a file that cannot be read; one that is not there is as good as empty."""
    if path.exists() and not path.is_file():  # reading a pipe would block
        raise RunError(f"{path}: not a regular file", "put the run's own file there")
    try:
        yield
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})", "give this user read access") from error


def _seal_row(row: JsonRow) -> str:
    """A row as a line of a journal: its JSON, with the CRC-32 of that JSON as the last key."""
    text = json.dumps(row)
    return f'{text[:-1]}, "crc": "{zlib.crc32(text.encode()):08x}"}}\n'


def _parse_row(line: bytes, kind: type[BaseModel] | None, where: str) -> JsonRow:
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
        what = _describe_error(error)
    except json.JSONDecodeError as error:
        what = f"not JSON ({error.msg})"
    except ValueError as error:
        what = f"not JSON ({error})"
    except RecursionError:
        what = "not JSON (nested too deep)"
    raise RunError(f"{where}: {what}")


def _describe_error(error: ValidationError) -> str:
    """The first problem that pydantic finds in a row, e.g. ``reward must be a number``."""
    problem = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place} {problem_in_words(problem)}".strip()


@contextmanager
def _name_file_in_errors(path: Path) -> Generator[None]:
    """Adds the file name to write errors: the system's own do not always have it."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise
