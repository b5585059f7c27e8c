"""Response cache on disk: shared by all runs, safe to kill, never unpickled.

Only validated answers are stored. diskcache provides the transactions; its serialisation is replaced, because
both its default and its JSON variant unpickle a tampered row (CVE-2025-69872) and can be made to read other
files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import diskcache  # pyright: ignore[reportMissingTypeStubs]

from mpo_lite.errors import ConfigError

FORMAT = 1
"""Version of keys and values; changing it invalidates all older entries."""

LOCK_S = 10
"""Seconds to wait for another process's transaction before continuing without the cache."""
OPEN_S = 3
"""Seconds to wait for it at startup."""
NONCE_BYTES = 32

_TROUBLE = (sqlite3.Error, OSError, diskcache.Timeout)
_log = logging.getLogger(__name__)


class _BytesDisk(diskcache.Disk):
    """Stores text keys and, in the row itself, byte values; never reads or writes anything else."""

    def put(self, key: str) -> tuple[str, bool]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return key, True

    def get(self, key: Any, raw: bool) -> str:
        return str(key)

    def store(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, value: bytes, read: bool, key: Any = None
    ) -> tuple[int, int, None, memoryview]:
        return len(value), diskcache.core.MODE_RAW, None, sqlite3.Binary(value)

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> bytes | None:
        # A tampered row may name a file or a pickle: it counts as a miss.
        is_own_row = mode == diskcache.core.MODE_RAW and filename is None and isinstance(value, bytes)
        return value if is_own_row else None


class AnswerCache:
    """Answers, keyed by the hash of everything that could change them.

    Args:
        directory: Created with mode 0700 if it is missing.

    Raises:
        ConfigError: The directory cannot be used.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            _refuse_locked(directory / "answers" / "cache.db")
            # No eviction: an evicted answer would have to be paid for twice.
            self._cache: Any = diskcache.Cache(
                str(directory / "answers"),
                disk=_BytesDisk,
                eviction_policy="none",
                cull_limit=0,
                timeout=LOCK_S,
            )
            self.nonce_key = _load_nonce_key(directory / "nonce.key")
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"{directory}: cannot use the cache ({error}); free some space if the disk is full, delete "
                "the folder if it is damaged, or choose another one with --cache-dir or MPO_CACHE_DIR"
            ) from error
        self._warned: set[str] = set()
        if problem := _find_exposure(directory):
            _log.warning(
                "%s: %s; the cache decides verdicts, so restrict it to yourself: chmod 700",
                directory,
                problem,
            )

    def get(self, key: str) -> dict[str, Any] | None:
        """The stored answer; None if there is none, or if its row is unreadable or tampered with."""
        try:
            data: Any = self._cache.get(key)
        except _TROUBLE as error:
            self._warn("cannot read the answer cache (%s); continuing without it", error)
            return None
        return _decode_answer(data)

    def get_all(self, keys: Sequence[str]) -> list[dict[str, Any] | None]:
        """See ``get``."""
        return [self.get(key) for key in keys]

    def put(self, key: str, answer: dict[str, Any]) -> None:
        """See ``put_all``."""
        self.put_all([(key, answer)])

    def put_all(self, answers: Sequence[tuple[str, dict[str, Any]]]) -> list[None]:
        """Commits answers in one transaction: once this returns, a kill does not lose them.

        If the cache cannot be written (disk full, locked, read-only), the answers are still used.
        """
        try:
            with self._cache.transact():
                for key, answer in answers:
                    self._cache.set(key, json.dumps(answer).encode())
        except _TROUBLE as error:
            self._warn("cannot write the answer cache (%s); answers are used but not stored", error)
        return [None] * len(answers)

    def entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """All keys with their answers, oldest first; unreadable rows are skipped."""
        for key in self._cache:
            if entry := self.get(key):
                yield key, entry

    def size(self) -> tuple[int, int]:
        """Number of rows and bytes on disk."""
        return len(self._cache), self._cache.volume()

    def remove(self, keys: Iterable[str]) -> int:
        """Removes answers, frees their disk space and returns how many there were.

        Raises:
            ConfigError: Another process is using the cache.
        """
        return self._remove_and_vacuum(lambda: sum(bool(self._cache.delete(key)) for key in keys))

    def clear(self) -> int:
        """Removes all answers, unreadable rows too; see ``remove``."""
        return self._remove_and_vacuum(lambda: int(self._cache.clear()))

    def _remove_and_vacuum(self, remove: Callable[[], int]) -> int:
        try:
            removed = remove()
            self._cache._sql("VACUUM")
        except _TROUBLE as error:
            raise ConfigError(
                f"{self.directory}: cannot modify the cache ({error}); is a run using it?"
            ) from error
        return removed

    def close(self) -> None:
        """Closes this process's connections; the data stays."""
        self._cache.close()

    def _warn(self, text: str, error: Exception) -> None:
        """Warns once per problem: it would recur with every call."""
        if text not in self._warned:
            self._warned.add(text)
            _log.warning(text, error)


def _decode_answer(data: Any) -> dict[str, Any] | None:
    """A row's answer; None if the row is not a valid one."""
    if not isinstance(data, bytes):
        return None
    try:
        value: Any = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get("text"), str) else None  # pyright: ignore


def cache_key(**parts: Any) -> str:
    """SHA-256 over canonical JSON of everything that decides an answer; API keys and addresses are not part
    of it.
    """
    canonical = json.dumps(
        {"format": FORMAT, **parts}, sort_keys=True, ensure_ascii=True, separators=(",", ":")
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def _load_nonce_key(path: Path) -> bytes:
    """The secret for fence nonces; created once per cache directory, so that prompts and thus cache keys stay
    the same.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    if not path.exists():
        # Written aside and linked: another process sees either no key or a complete one.
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(NONCE_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was first; its key is used
            os.link(fresh, path)
        fresh.unlink()
    key = path.read_bytes()
    if len(key) != NONCE_BYTES:
        raise ConfigError(
            f"{path}: has {len(key)} bytes instead of {NONCE_BYTES}; delete it to create a new one (cached "
            "answers will then be requested again)"
        )
    return key


def _refuse_locked(database: Path) -> None:
    """Fails within seconds if the database is locked; diskcache itself would retry for a minute.

    Raises:
        ConfigError: Another process keeps the database locked.
        sqlite3.Error: The file is not a database.
    """
    if not database.exists():
        return
    with contextlib.closing(sqlite3.connect(database, timeout=OPEN_S, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            raise ConfigError(
                f"{database}: still locked by another process after {OPEN_S} s; wait for it, or choose "
                "another folder with --cache-dir or MPO_CACHE_DIR"
            ) from error


def _find_exposure(directory: Path) -> str:
    """Who else can write to the folder, for a warning; empty if nobody can."""
    if os.name != "posix":
        return ""
    status = directory.stat()
    if status.st_uid not in (0, os.geteuid()):
        return "it belongs to another user"
    return "other users can write to it" if status.st_mode & 0o022 else ""
