"""What Ctrl-C and SIGTERM do to a run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from mpo_lite.loop.distributed import world_size
from mpo_lite.loop.session import Session


@contextmanager
def stoppable(session: Session, note: str) -> Generator[None]:
    """Ctrl-C and SIGTERM end the run at the next safe place; a second one ends it at once.

    Args:
        session: The run.
        note: What is said then.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def ask_to_stop(number: int, frame: Any) -> None:
        if not session.state.interrupted:
            # On a thread: the signal may have come amid a write to the stream, which cannot be entered twice.
            threading.Thread(target=session.context.note, args=(note,)).start()
        session.interrupt()
        if world_size() == 1:  # a launcher sends on what the terminal has sent already
            for each in signals:
                signal.signal(each, before[each])

    for number in signals:
        signal.signal(number, ask_to_stop)
    try:
        yield
    finally:
        for number in signals:
            signal.signal(number, before[number])
