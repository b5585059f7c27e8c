"""One event loop on one daemon thread for all model calls of this process.

TRL may call a reward function from any thread or loop, but clients bind their sockets to the loop they were
created on. So all calls run on one loop of our own, and callers hand over a coroutine and wait.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")
_POLL_S = 0.2


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    # Daemon: a call that hangs must not keep the process alive.
    threading.Thread(target=loop.run_forever, name="mpo-lite-calls", daemon=True).start()
    return loop


def submit(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Starts ``work`` on the loop; any other thread can wait for the future."""
    return asyncio.run_coroutine_threadsafe(work, _loop())


def wait(work: Coroutine[Any, Any, T], check: Callable[[], None] = lambda: None) -> T:
    """Runs ``work`` on the loop and waits for its result; see ``result``."""
    return result(submit(work), check)


def result(future: Future[T], check: Callable[[], None]) -> T:
    """Waits for what ``submit`` started.

    Args:
        future: What to wait for.
        check: Called several times a second; if it raises, the wait ends and the work is cancelled.
    """
    try:
        while True:
            try:
                return future.result(timeout=_POLL_S)
            except FutureTimeout:
                if future.done():  # the work itself raised TimeoutError
                    raise
                check()
    finally:
        future.cancel()
