"""Where commands write: checked before anything is paid or loaded, written aside, put in place at the end.

One rule for all: an output replaces nothing that the command reads, and nothing else that is there unless
``--overwrite`` says so; folders that are missing are made.
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
"""Folder within a new one that holds its content until it is whole; a kill may leave it."""

overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace the file to write where it is there already."
)
"""``--overwrite``, as all commands that write a file have it."""


@contextmanager
def new_file(
    path: Path, reads: Iterable[Path | None] = (), overwrite: bool = False, ending: str = ""
) -> Generator[Path]:
    """Gives a file to write to, which becomes ``path`` at the end of the block; an error changes nothing.

    Args:
        path: Where the output is to be.
        reads: What the command reads; None stands for nothing.
        overwrite: Whether a file that is there may be replaced.
        ending: The one that the file's name must have, such as ``.jsonl``; empty for any.

    Raises:
        ConfigError: The file cannot or must not be written; nothing was changed.
    """
    try:
        _refuse(path, reads, overwrite, ending)
        # Where the path is a link, what it leads to is written, and the link stays.
        target = path.resolve()
        aside = target.with_name(f".new-{target.name}")
        is_new = not target.parent.exists()
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text("")
    except OSError as error:
        raise _unwritable(path, error, "file") from error
    try:
        yield aside
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):  # it holds the output
                target.parent.rmdir()


@contextmanager
def new_folder(path: Path) -> Generator[Path]:
    """Gives a folder to write to, whose content becomes that of ``path`` at the end of the block.

    Args:
        path: A folder that is not there yet, or is empty. An error in the block leaves it so.

    Raises:
        ConfigError: It is neither, or cannot be written.
    """
    aside = path / UNFINISHED
    try:
        is_new = not path.exists()
        if not is_new and not path.is_dir():
            raise ConfigError(f"{path}: is a file; name a new folder")
        if not is_new and any(part.name != UNFINISHED for part in path.iterdir()):
            raise ConfigError(f"{path}: is not empty; name a new folder")
        if aside.exists():
            shutil.rmtree(aside)  # a kill left it
        aside.mkdir(parents=True)
    except OSError as error:
        raise _unwritable(path, error, "folder") from error
    try:
        yield aside
        for part in sorted(aside.iterdir()):
            part.replace(path / part.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # it holds the output
                path.rmdir()


def _refuse(path: Path, reads: Iterable[Path | None], overwrite: bool, ending: str) -> None:
    """Raises ``ConfigError`` where a file must not be written."""
    there = path.exists()
    if there and any(read and read.exists() and read.samefile(path) for read in reads):
        raise ConfigError(f"{path}: this command reads it; name another file to write")
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name a file to write")
    if ending and path.suffix != ending:
        raise ConfigError(f"{path}: can only be written as {ending}; name a file that ends so")
    if path.parent.exists() and not path.parent.is_dir():
        raise ConfigError(f"{path.parent}: is a file; name a folder to write to")
    if not there:
        return
    if not path.is_file():
        raise ConfigError(f"{path}: is no ordinary file; name another one to write")
    if not overwrite:
        raise ConfigError(f"{path}: is there already; name another file, or replace it by --overwrite")
    if not os.access(path, os.W_OK):
        raise ConfigError(f"{path}: is write-protected; name another file to write")


def _unwritable(path: Path, error: OSError, kind: str) -> ConfigError:
    return ConfigError(f"{path}: cannot be written ({error.strerror or error}); name another {kind}")
