"""Every error a user can meet, as one tree.

    MPOError                     base; its text is the one line a user reads
    ├── UsageError               what the user gave cannot work (exit code 2)
    │   ├── ConfigError          a configuration file, flag or variable
    │   ├── TaskError            a task folder, rubric or data file
    │   ├── RunError             a file of a run that is missing, damaged or changed
    │   └── EndpointError        a judge or meta-judge that cannot be reached or used
    ├── StorageError             a file cannot be written: the disk is full or read-only (exit code 1)
    ├── CallFailed               one model call gave no usable answer: no score, never a 0
    └── StopRun                  the run ends now; its state is saved and it can be resumed
        ├── BudgetReached        a cap on USD or calls (exit code 3)
        ├── JudgeDown            too many failed judgements, or an error no retry can mend (exit code 1)
        └── Interrupted          Ctrl-C or SIGTERM (exit code 130)

A message says what happened, where, and how to mend it. The command line prints it without a traceback.
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
was cut at the token limit; it was not what was asked for; the model refused; the sample is too long; the
job stopped before it. The breaker counts all but the last three, which say nothing of the judge."""

LOST: tuple[FailureKind, ...] = ("transport", "timeout")
"""Failures of the server and not of the answer: another try may end otherwise."""

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
    """Failures by kind, e.g. ``7 timed out, 2 cut off``, in a fixed order; empty where there are none.

    Args:
        kinds: That of each failure, or how many there are of each kind.
    """
    counts = Counter(kinds)
    return ", ".join(f"{counts[kind]} {words}" for kind, words in _FAILURES.items() if counts[kind])


class MPOError(Exception):
    """Base of all errors this package raises on purpose."""

    exit_code = 1


class UsageError(MPOError):
    """Something the user gave cannot work; nothing was trained or paid."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration value is missing, unknown or out of range."""


class TaskError(UsageError):
    """A task folder, rubric or data file cannot be read or is malformed."""


class RunError(UsageError):
    """A file of a run is missing, damaged or changed.

    Args:
        what: The file, the line where that is known, and what is wrong.
        mend: What helps.
    """

    def __init__(self, what: str, mend: str = "restore it from a copy") -> None:
        super().__init__(what, mend)
        self.what, self.mend = what, mend

    def __str__(self) -> str:
        return f"{self.what}; {self.mend}"


class EndpointError(UsageError):
    """A model cannot be used: wrong key, no such model or address, no quota.

    Args:
        message: What, and what to do.
        may_pass: Whether a server that has answered before may answer again, as one that starts anew does.
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
        reply: How the model's last reply begins, in one line of at most 200 characters; empty without one. It
            may repeat the prompt: it is for the user's own screen and files, not for logs.
    """

    def __init__(self, kind: FailureKind, message: str, reply: str = "") -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.reply = " ".join(reply.split())[:200]

    @property
    def detail(self) -> str:
        """The message, with the beginning of the reply where there is one."""
        return f"{self}; the reply began: {self.reply}" if self.reply else str(self)


class StopRun(MPOError):
    """The run stops at this batch; the state before it is checkpointed."""


class BudgetReached(StopRun):
    """A hard cap would be passed by the next call.

    Args:
        message: Which, and by how much.
        raised: The flag with a cap that leaves room to go on, e.g. ``--max-usd 4``.
    """

    exit_code = 3

    def __init__(self, message: str, suggested_flag: str = "") -> None:
        super().__init__(message)
        self.suggested_flag = suggested_flag


class JudgeDown(StopRun):
    """The judge or meta-judge cannot serve this run any more."""


class Interrupted(StopRun):
    """The user asked the run to stop."""

    exit_code = 130


@contextmanager
def refusals(what: str) -> Generator[None]:
    """Makes one line of what libraries raise for input they cannot use.

    Args:
        what: The setting or file, as the message begins.

    Raises:
        ConfigError: In place of theirs. What code of ours raises is a bug and passes as it is.
    """
    try:
        yield
    except (OSError, ValueError, TypeError, RuntimeError, ImportError, ArithmeticError) as error:
        if not isinstance(error, OSError | ImportError) and _is_raised_here(error):
            raise
        said = " ".join(str(error).split())
        raise ConfigError(f"{what}: {said[:300] or type(error).__name__}") from error


def _is_raised_here(error: BaseException) -> bool:
    """Whether the innermost code that an error came from is of this package."""
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
"""What the system's error codes for writing say, and what helps; ``{}`` is the path."""
_OS_ERROR = re.compile(r"os error (\d+)|Os \{ code: (\d+)")
"""How Rust, in which safetensors are written, tells the system's error code."""
_TORCH = re.compile(r"inline_container|PytorchStreamWriter")
"""What torch says of a file that it could not write; it does not tell the system's error code."""
_FULL = 2**20
"""Bytes: a disk with less room is full, whatever was written last."""


def storage_problem(error: BaseException, path: Path) -> str | None:
    """What is wrong with the disk, and what helps; None where the error is of another kind.

    Args:
        error: Raised while something was written, by Python, torch or safetensors.
        path: What was written, or the folder that it was written to.
    """
    if isinstance(error, OSError):
        said = _STORAGE.get(error.errno or 0)
        return said and said.format(error.filename or path)
    text = str(error)
    if told := _OS_ERROR.search(text):
        said = _STORAGE.get(int(told[1] or told[2]))
        return said and said.format(path)
    if not _TORCH.search(text):
        return None
    if shutil.disk_usage(path).free < _FULL:
        return _STORAGE[errno.ENOSPC].format(path)
    return (
        f"{path}: a file could not be written completely; check free space and file size limits (ulimit -f)"
    )


@contextmanager
def storage_errors(path: Path, then: str) -> Generator[None]:
    """Makes one line of what a full or read-only disk causes.

    Args:
        path: The folder that is written to.
        then: What to do after that, as the message ends: ``then try again``.

    Raises:
        StorageError: In place of what Python, torch or safetensors raise.
    """
    try:
        yield
    except MPOError:
        raise
    except Exception as error:
        if said := storage_problem(error, path):
            raise StorageError(f"{said}, {then}") from error
        raise
