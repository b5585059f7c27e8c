"""Every error a user can meet, as one tree.

    MPOError                     base; its text is the one line a user reads
    ├── UsageError               what the user gave cannot work (exit code 2)
    │   ├── ConfigError          a configuration file, flag or variable
    │   ├── TaskError            a task folder, rubric or data file
    │   └── EndpointError        a judge or meta-judge that cannot be reached or used
    ├── CallFailed               one model call gave no usable answer: no score, never a 0
    └── StopRun                  the run ends now; its state is saved and it can be resumed
        ├── BudgetReached        a cap on USD or calls (exit code 3)
        ├── JudgeDown            too many failed judgements, or an error no retry can mend (exit code 1)
        └── Interrupted          Ctrl-C or SIGTERM (exit code 130)

A message says what happened, where, and how to mend it. The command line prints it without a traceback.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
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


class EndpointError(UsageError):
    """A model endpoint refuses for good: wrong key, no such model, no quota."""


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
    """A hard cap would be passed by the next call."""

    exit_code = 3


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
        ConfigError: In place of theirs.
    """
    try:
        yield
    except (OSError, ValueError, TypeError, RuntimeError, ImportError, ArithmeticError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"{what}: {said[:300] or type(error).__name__}") from error
