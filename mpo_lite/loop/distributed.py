"""What the processes of one job tell each other. One process is a job too.

Each judges its own share of a batch; the first one, the *lead*, writes the run's files and rewrites the
rubric. All talk goes over a gloo group of our own: a meta step may take longer than the default group's
timeout, and a process that waits here has nothing under way there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

from mpo_lite.errors import StopRun, UsageError

T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")
_PATIENCE = timedelta(days=7)
"""A process that ends takes the others with it; so this only has to be longer than any meta step."""


@dataclass
class _Outcome:
    """How the lead's work ended."""

    result: Any = None
    error: Exception | None = None


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this one is, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this process writes the run's files and rewrites its rubric."""
    return rank() == 0


def all_gather(value: T) -> list[T]:
    """Every process's value, in the order of their ranks; all of them must call this alike."""
    if world_size() == 1:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value, group=_group())  # pyright: ignore[reportUnknownMemberType]
    return values


def run_on_main(work: Callable[[], T]) -> T:
    """What ``work`` gives in the lead, told to all; all of them must call this alike.

    Raises:
        UsageError: The lead raised it: it is raised in all processes.
        StopRun: The same.
    """
    return run_assisted(lambda _: work(), lambda _: None)


def run_assisted(work: Callable[[Callable[[Q], A]], T], assist: Callable[[Q], A]) -> T:
    """What ``work`` gives in the lead, where all processes assist it; all of them must call this alike.

    A policy that is sharded over the processes generates only while all of them do.

    Args:
        work: Runs in the lead alone, with a function that it may call any number of times.
        assist: What that function does: all processes call it with the lead's argument, and the lead gets its
            own result.

    Raises:
        UsageError: The lead raised it: it is raised in all processes.
        StopRun: The same.
    """
    if world_size() == 1:
        return work(assist)

    def ask(question: Q) -> A:
        _broadcast(question)
        return assist(question)

    if is_main():
        try:
            outcome = _Outcome(work(ask))
        except (UsageError, StopRun) as reason:
            outcome = _Outcome(error=reason)
        _broadcast(outcome)
    else:
        while not isinstance(outcome := _broadcast(None), _Outcome):
            assist(outcome)
    if outcome.error:
        raise outcome.error
    return outcome.result


def shutdown() -> None:
    """Parts from the other processes, once all have come so far: one that just goes tears connections."""
    if world_size() > 1:
        from torch import distributed

        all_gather(None)
        distributed.destroy_process_group()
        _group.cache_clear()


def _broadcast(message: Any) -> Any:
    """The lead's message, in all processes."""
    from torch import distributed

    payload = [message]
    distributed.broadcast_object_list(payload, src=0, group=_group())
    return payload[0]


@cache
def _group() -> Any:
    from accelerate import PartialState
    from torch import cuda, distributed

    if not distributed.is_initialized():
        PartialState(cpu=not cuda.is_available())  # as the trainer would, later
    return distributed.new_group(backend="gloo", timeout=_PATIENCE)  # pyright: ignore[reportUnknownMemberType]
