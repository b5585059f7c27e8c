"""Where commands write: checked before anything is paid for or loaded, and moved into place at the end.

The rule is the same for all: an output never replaces what the command reads, and replaces other files only
with ``--overwrite``; missing directories are created.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from mpo_lite.errors import ConfigError

UNFINISHED = ".unfinished"
"""Directory that holds the content of a new one until it is complete; a kill may leave it behind."""

overwrite_option = click.option("--overwrite", is_flag=True, help="Overwrite the output file if it exists.")
"""``--overwrite``, the same for all commands that write a file."""


@contextmanager
def new_file(
    path: Path, reads: Iterable[Path | None] = (), overwrite: bool = False, ending: str = ""
) -> Generator[Path]:
    """Yields a file to write to, which becomes ``path`` at the end of the block; an error changes nothing.

    Args:
        path: Where the output goes.
        reads: What the command reads; None is ignored.
        overwrite: Whether an existing file may be replaced.
        ending: The extension that the file's name must have, such as ``.jsonl``; empty for any.

    Raises:
        ConfigError: The file cannot or must not be written; nothing was changed.
    """
    try:
        check_writable(path, reads, overwrite, ending)
        # Write through a link: replacing the link itself would leave the file behind it as it was.
        target = path.resolve()
        temporary = target.with_name(f".new-{target.name}")
        is_new = not target.parent.exists()
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text("")
    except OSError as error:
        raise _explain_unwritable(path, error, "file") from error
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):  # it is not empty: it holds the output
                target.parent.rmdir()


@contextmanager
def new_folder(path: Path) -> Generator[Path]:
    """Yields a directory to write to, whose content becomes that of ``path`` at the end of the block.

    Args:
        path: A directory that does not exist yet, or is empty. An error in the block leaves it so.

    Raises:
        ConfigError: It is neither, or cannot be written.
    """
    temporary = path / UNFINISHED
    try:
        is_new = not path.exists()
        if not is_new and not path.is_dir():
            raise ConfigError(f"{path}: is a file; choose a new directory")
        if not is_new and any(part.name != UNFINISHED for part in path.iterdir()):
            raise ConfigError(f"{path}: is not empty; choose a new directory")
        if temporary.exists():
            shutil.rmtree(temporary)  # left behind by a kill
        temporary.mkdir(parents=True)
    except OSError as error:
        raise _explain_unwritable(path, error, "directory") from error
    try:
        yield temporary
        for part in sorted(temporary.iterdir()):
            part.replace(path / part.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # it is not empty: it holds the output
                path.rmdir()


def check_writable(path: Path, reads: Iterable[Path | None], overwrite: bool, ending: str = "") -> None:
    """Raises ``ConfigError`` if a file must not be written; see ``new_file``."""
    exists = path.exists()
    if exists and any(read and read.exists() and read.samefile(path) for read in reads):
        raise ConfigError(f"{path}: is an input of this command; choose another output file")
    if path.is_dir():
        raise ConfigError(f"{path}: is a directory; give a file")
    if ending and path.suffix != ending:
        raise ConfigError(f"{path}: must end in {ending}")
    if path.parent.exists() and not path.parent.is_dir():
        raise ConfigError(f"{path.parent}: is a file; give a directory to write to")
    if not exists:
        return
    if not path.is_file():
        raise ConfigError(f"{path}: is not a regular file; choose another output file")
    if not overwrite:
        raise ConfigError(f"{path}: already exists; choose another file, or use --overwrite")
    if not os.access(path, os.W_OK):
        raise ConfigError(f"{path}: is write-protected; choose another output file")


def _explain_unwritable(path: Path, error: OSError, kind: str) -> ConfigError:
    return ConfigError(f"{path}: cannot be written ({error.strerror or error}); choose another {kind}")
