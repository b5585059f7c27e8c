"""Equality of two expressions by ``math-verify``, in a process of its own.

SymPy can take forever on what a policy writes (``9^{9^{9^9}}``), and math-verify's own clock works on a main
thread alone. So a child process compares, and is ended when it is late; it is started on first use.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import queue
import subprocess
import sys
import threading
from typing import Any

PATIENCE_S = 8.0
"""Seconds for one comparison; late: not the same."""
START_S = 60.0
"""Seconds until the child has loaded SymPy."""


class _Child:
    """The process that compares. One question at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str] = queue.Queue()

    def ask(self, one: str, other: str) -> bool:
        with self._lock:
            process = self._process or self._start()
            assert process.stdin
            try:
                process.stdin.write(json.dumps([one, other]) + "\n")
                process.stdin.flush()
                return self._answers.get(timeout=PATIENCE_S) == "same"
            except (OSError, queue.Empty):
                self.end()
                return False

    def end(self) -> None:
        """Ends the child; the next question starts another."""
        process, self._process = self._process, None
        if process:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if pipe:
                        pipe.close()

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        answers: queue.Queue[str] = queue.Queue()

        def read() -> None:
            assert process.stdout
            with contextlib.suppress(OSError, ValueError):
                for line in process.stdout:
                    answers.put(line.strip())

        threading.Thread(target=read, daemon=True).start()
        self._process, self._answers = process, answers
        with contextlib.suppress(queue.Empty):
            answers.get(timeout=START_S)
        return process


_child = _Child()
atexit.register(_child.end)


def equal(one: str, other: str) -> bool:
    """Whether two LaTeX expressions are equal; False where that cannot be found out in time."""
    return _child.ask(one, other)


def _serve() -> None:
    from math_verify import parse, verify  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        one, other = json.loads(line)
        parsed: list[Any] = [parse(f"${text}$", parsing_timeout=3) for text in (one, other)]
        same = all(parsed) and verify(parsed[1], parsed[0], timeout_seconds=3)
        print("same" if same else "different", flush=True)  # noqa: T201


if __name__ == "__main__":
    _serve()
