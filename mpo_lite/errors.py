"""Every error a user can meet, as one tree.

    MPOError                     base; its text is the one line that a user reads
    ├── UsageError               the user's input cannot work (exit code 2)
    │   ├── ConfigError          a configuration file, flag or variable
    │   ├── TaskError            a task folder, rubric or data file
    │   ├── RunError             a run's file that is missing, damaged or changed
    │   └── EndpointError        a judge or meta-judge that cannot be reached or used
    ├── StorageError             a file cannot be written: the disk is full or read-only (exit code 1)
    ├── CallFailed               one model call gave no usable answer: no score, never a 0
    ├── Unavailable              the reward service, or its judge, is down: the same request may succeed later
    └── StopRun                  the run ends now; its state is saved and it can be resumed
        ├── BudgetReached        a cap on USD or calls (exit code 3)
        ├── JudgeDown            too many failed judgements, or an error that no retry can fix (exit code 1)
        └── Interrupted          Ctrl-C or SIGTERM (exit code 130)

A message says what happened, where, and how to fix it. The command line prints it without a traceback.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import Literal

FailureKind = Literal["timeout", "transport", "cut", "parse", "refusal", "context", "stopped"]
"""Why a call gave no answer: it took too long; the server did not answer or answered with an error; the reply
was truncated at the token limit; it was not what was asked for; the model declined; the sample is too long;
the job stopped before it. The breaker counts all but the last three, which say nothing about the judge."""

LOST: tuple[FailureKind, ...] = ("transport", "timeout")
"""Failures of the server, not of the answer: another try may succeed."""

_FAILURES: dict[FailureKind, str] = {
    "timeout": "timed out",
    "transport": "lost to server errors",
    "cut": "cut off",
    "parse": "malformed",
    "refusal": "refused",
    "context": "too long for the judge",
    "stopped": "not reached",
}


def failures_in_words(kinds: Iterable[FailureKind] | Mapping[FailureKind, int]) -> str:
    """Failures by kind, e.g. ``7 timed out, 2 cut off``, in a fixed order; empty if there are none.

    Args:
        kinds: The kind of each failure, or the number of failures per kind.
    """
    counts = Counter(kinds)
    return ", ".join(f"{counts[kind]} {words}" for kind, words in _FAILURES.items() if counts[kind])


class MPOError(Exception):
    """Base of all errors this package raises on purpose."""

    exit_code = 1


class UsageError(MPOError):
    """The user's input cannot work; nothing was trained or paid for."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration value is missing, unknown or out of range."""


class TaskError(UsageError):
    """A task folder, rubric or data file cannot be read or is malformed."""


class RunError(UsageError):
    """A run's file is missing, damaged or changed.

    Args:
        what: The file, the line if known, and what is wrong.
        fix: How to fix it.
    """

    def __init__(self, what: str, fix: str = "restore it from a copy") -> None:
        super().__init__(what, fix)
        self.what, self.fix = what, fix

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}"


class EndpointError(UsageError):
    """A model cannot be used: wrong key, no such model or address, no quota.

    Args:
        message: What is wrong, and how to fix it.
        may_pass: Whether a server that has answered before may answer again, e.g. because it is restarting.
    """

    def __init__(self, message: str, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass


class StorageError(MPOError):
    """A file cannot be written: the disk is full or read-only, or this user may not write there."""


class CallFailed(MPOError):
    """One model call ended without a usable answer.

    Args:
        kind: Why; decides whether the breaker counts it.
        message: What was seen, without prompt or completion text.
        reply: The beginning of the model's last reply, in one line of at most 200 characters; empty without
            one. It may repeat the prompt, so it is for the user's own screen and files, not for logs.
    """

    def __init__(self, kind: FailureKind, message: str, reply: str = "") -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.reply = " ".join(reply.split())[:200]

    @property
    def detail(self) -> str:
        """The message, with the beginning of the reply if there is one."""
        return f"{self}; the reply began: {self.reply}" if self.reply else str(self)


class Unavailable(MPOError):
    """No reward can be given now; the same request may succeed later.

    Args:
        message: Why.
        retry_after_s: Seconds after which to try again; 0: it is not known.
    """

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StopRun(MPOError):
    """The run stops at this batch; the state before it is checkpointed."""


class BudgetReached(StopRun):
    """The next call could exceed a hard cap.

    Args:
        message: Which cap, and by how much.
        suggested_flag: The flag with a cap that is high enough to continue, e.g. ``--max-usd 4``.
    """

    exit_code = 3

    def __init__(self, message: str, suggested_flag: str = "") -> None:
        super().__init__(message)
        self.suggested_flag = suggested_flag


class JudgeDown(StopRun):
    """The judge or meta-judge cannot be used any more."""


class Interrupted(StopRun):
    """The user asked the run to stop."""

    exit_code = 130


@contextmanager
def cached_so_far(what: str) -> Generator[None]:
    """Adds to a reason to stop that what was paid for is cached.

    Args:
        what: That, e.g. ``verdicts``.
    """
    try:
        yield
    except StopRun as stop:
        stop.args = (f"{stop}; {what} so far are cached: run the same command again to continue",)
        raise


@contextmanager
def refusals(what: str) -> Generator[None]:
    """Turns what libraries raise for unusable input into a one-line error.

    Args:
        what: The setting or file, for the beginning of the message.

    Raises:
        ConfigError: Instead of the library's error. Errors raised by our own code are bugs and pass.
    """
    try:
        yield
    except (OSError, ValueError, TypeError, RuntimeError, ImportError, ArithmeticError) as error:
        if not isinstance(error, OSError | ImportError) and _is_raised_here(error):
            raise
        message = " ".join(str(error).split())
        raise ConfigError(f"{what}: {message[:300] or type(error).__name__}") from error


def _is_raised_here(error: BaseException) -> bool:
    """Whether the code that raised an error is part of this package."""
    *_, (frame, _) = walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "mpo_lite"


_STORAGE = {
    errno.ENOSPC: "the disk holding {} is full; free some space",
    errno.EDQUOT: "{}: your disk quota is used up; free some space",
    errno.EFBIG: "{}: exceeds the file size limit; raise it (ulimit -f)",
    errno.EROFS: "{}: the disk is mounted read-only; remount it writable",
    errno.EACCES: "{}: permission denied; give this user read and write access",
    errno.EPERM: "{}: permission denied; give this user read and write access",
    errno.EIO: "{}: the disk reported an I/O error; check the disk",
}
"""System error code for writing → what is wrong and how to fix it; ``{}`` is the path."""
_OS_ERROR = re.compile(r"os error (\d+)|Os \{ code: (\d+)")
"""How Rust, in which safetensors is written, reports the system's error code."""
_TORCH = re.compile(r"inline_container|PytorchStreamWriter")
"""How torch reports a file that it could not write; without the system's error code."""
_MIN_FREE = 2**20
"""Bytes of free space below which a disk counts as full."""


def storage_problem(error: BaseException, path: Path) -> str | None:
    """What is wrong with the disk, and how to fix it; None for any other error.

    Args:
        error: Raised by Python, torch or safetensors while writing.
        path: The file that was written, or its folder.
    """
    if isinstance(error, OSError):
        message = _STORAGE.get(error.errno or 0)
        return message and message.format(error.filename or path)
    text = str(error)
    if match := _OS_ERROR.search(text):
        message = _STORAGE.get(int(match[1] or match[2]))
        return message and message.format(path)
    if not _TORCH.search(text):
        return None
    if shutil.disk_usage(path).free < _MIN_FREE:
        return _STORAGE[errno.ENOSPC].format(path)
    return (
        f"{path}: a file could not be written completely; check free space and file size limits (ulimit -f)"
    )


@contextmanager
def storage_errors(path: Path, then: str) -> Generator[None]:
    """Turns errors caused by a full or read-only disk into a one-line error.

    Args:
        path: The folder that is written to.
        then: What to do afterwards, for the end of the message: ``then try again``.

    Raises:
        StorageError: Instead of what Python, torch or safetensors raise.
    """
    try:
        yield
    except MPOError:
        raise
    except Exception as error:
        if message := storage_problem(error, path):
            raise StorageError(f"{message}, {then}") from error
        raise
