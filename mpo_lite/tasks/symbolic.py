"""Equality of two expressions by ``math-verify``, in a process of its own.

SymPy can take forever on what a policy writes (``9^{9^{9^9}}``), and math-verify's own clock works on a main
thread alone. So a child process compares, and is ended when it is late; it is started on first use.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

from mpo_lite.errors import TaskError

PATIENCE_S = 8.0
"""Seconds for one comparison; late: not the same."""
START_S = 60.0
"""Seconds until the child has loaded SymPy."""
_PROGRAM = Path(__file__).with_name("symbolic_child.py")
_PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "SYSTEMROOT",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
)
"""Variables that a Python may need to start; none that says where modules lie."""
_ENDED = ""
"""Stands for the end of the child's output."""


class NotCompared(Exception):
    """The process that compares came to an end over two expressions: whether they are equal is not known."""


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
                answer = self._answers.get(timeout=PATIENCE_S)
            except queue.Empty:
                self.end()
                return False
            except OSError:
                answer = _ENDED
            if answer == _ENDED:
                self.end()
                raise NotCompared
            return answer == "same"

    def start(self) -> None:
        with self._lock:
            if self._process is None:
                self._start()

    def end(self) -> None:
        """Ends the child; the next question starts another."""
        process, self._process = self._process, None
        if process:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                with contextlib.suppress(OSError):
                    if pipe:
                        pipe.close()

    def _start(self) -> subprocess.Popen[str]:
        package = importlib.util.find_spec("math_verify")
        if package is None or package.origin is None:
            raise TaskError("comparing mathematical answers needs math-verify: pip install math-verify")
        # Without the working directory (-P) and Python's variables (-E): a stray queue.py must not be run.
        process = subprocess.Popen(
            [sys.executable, "-E", "-P", str(_PROGRAM), str(Path(package.origin).parent.parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            start_new_session=True,  # Ctrl-C is for the run, which ends at a safe place
        )
        answers: queue.Queue[str] = queue.Queue()

        def read() -> None:
            assert process.stdout
            with contextlib.suppress(OSError, ValueError):
                for line in process.stdout:
                    answers.put(line.strip())
            answers.put(_ENDED)

        threading.Thread(target=read, daemon=True).start()
        self._process, self._answers = process, answers
        self._await_ready(process)
        return process

    def _await_ready(self, process: subprocess.Popen[str]) -> None:
        try:
            said = self._answers.get(timeout=START_S)
            reason = "it exited immediately"
        except queue.Empty:
            said, reason = _ENDED, f"it was not ready after {START_S:g} s"
        if said == "ready":
            return
        process.kill()
        assert process.stderr
        last = [line.strip() for line in process.stderr.read().splitlines() if line.strip()][-1:]
        self.end()
        raise TaskError(
            f"the process that compares mathematical answers cannot start ({last[0] if last else reason}); "
            f"check that this works: {sys.executable} -c 'import math_verify'"
        )


_child = _Child()
atexit.register(_child.end)


def start() -> None:
    """Starts the process that compares. Raises ``TaskError`` where it cannot."""
    _child.start()


def equal(one: str, other: str) -> bool:
    """Whether two LaTeX expressions are equal; False where that cannot be found out in time.

    Raises:
        NotCompared: The process ended over them; the next question starts another.
        TaskError: It cannot be started.
    """
    return _child.ask(one, other)
