"""Errors: which of them are ours, and what is said of them."""

import errno
import json
import shutil
from pathlib import Path

import pytest

from mpo_lite.errors import (
    BudgetReached,
    ConfigError,
    StorageError,
    cached_so_far,
    failures_in_words,
    refusals,
    storage_errors,
    storage_problem,
)
from mpo_lite.wording import simulated_note


def test_a_bug_of_ours_is_no_refusal_of_a_library() -> None:
    with pytest.raises(ConfigError, match="trainer: Expecting value"), refusals("trainer"):
        json.loads("")
    with pytest.raises(TypeError), refusals("trainer"):
        simulated_note(1)  # pyright: ignore[reportArgumentType]


def test_failures_are_counted_in_words() -> None:
    assert failures_in_words([]) == ""
    told = failures_in_words(["cut", "timeout", "context", "timeout", "refusal"])
    assert told == "2 timed out, 1 cut off, 1 refused, 1 too long for the judge"


def test_what_libraries_say_of_a_full_disk_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 470336 vs 470228")
    for error in (
        OSError(errno.ENOSPC, "No space left on device"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
        Exception('IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })'),
    ):
        assert storage_problem(error, tmp_path) == f"the disk holding {tmp_path} is full; free some space"
    assert "could not be written completely" in (storage_problem(torch, tmp_path) or "")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    assert storage_problem(torch, tmp_path) == f"the disk holding {tmp_path} is full; free some space"
    then = "then try again"
    for error in (OSError(errno.ENOENT, "gone"), ValueError("torch"), RuntimeError("(os error 2)")):
        assert storage_problem(error, tmp_path) is None
        with pytest.raises(type(error)), storage_errors(tmp_path, then):
            raise error
    with pytest.raises(StorageError, match=f"some space, {then}"), storage_errors(tmp_path, then):
        raise torch


def test_a_stop_that_leaves_answers_cached_says_so_and_keeps_its_kind() -> None:
    expected = pytest.raises(BudgetReached, match="reached; verdicts so far are cached: run")
    with expected as stopped, cached_so_far("verdicts"):
        raise BudgetReached("--max-calls 3 reached", "--max-calls 9")
    assert stopped.value.suggested_flag == "--max-calls 9"
