"""Equality of two expressions by ``math-verify``, in a separate process.

SymPy can take forever on what a policy writes (``9^{9^{9^9}}``), and math-verify's own timeout works only on
a main thread. So a child process compares, and is killed when it is late; it is started on first use.
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
"""Seconds for one comparison; after that the answers count as different."""
START_S = 60.0
"""Seconds that the child may take to load SymPy."""
_PROGRAM = Path(__file__).with_name("symbolic_child.py")
_KEPT_VARIABLES = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "SYSTEMROOT",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
)
"""Variables that Python may need to start; none that changes where modules are found."""
_ENDED = ""
"""Marks the end of the child's output."""


class NotCompared(Exception):
    """The process that compares crashed on two expressions: whether they are equal is unknown."""


class _Child:
    """The process that compares; one comparison at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str] = queue.Queue()

    def ask(self, left: str, right: str) -> bool:
        with self._lock:
            process = self._process or self._start()
            assert process.stdin
            try:
                process.stdin.write(json.dumps([left, right]) + "\n")
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
        """Ends the child; the next comparison starts another."""
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
        # -P: not from the working directory, -E: no PYTHON* variables. A stray queue.py there must not run.
        process = subprocess.Popen(
            [sys.executable, "-E", "-P", str(_PROGRAM), str(Path(package.origin).parent.parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
            start_new_session=True,  # Ctrl-C is for the run, which stops after its batch
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
            greeting = self._answers.get(timeout=START_S)
            reason = "it exited immediately"
        except queue.Empty:
            greeting, reason = _ENDED, f"it was not ready after {START_S:g} s"
        if greeting == "ready":
            return
        process.kill()
        assert process.stderr
        errors = [line.strip() for line in process.stderr.read().splitlines() if line.strip()]
        reason = errors[-1] if errors else reason
        self.end()
        raise TaskError(
            f"the process that compares mathematical answers cannot start ({reason}); "
            f"check that this works: {sys.executable} -c 'import math_verify'"
        )


_child = _Child()
atexit.register(_child.end)


def start() -> None:
    """Starts the process that compares. Raises ``TaskError`` if it cannot."""
    _child.start()


def are_equal(left: str, right: str) -> bool:
    """Whether two LaTeX expressions are equal; False if that cannot be decided in time.

    Raises:
        NotCompared: The process crashed on them; the next comparison starts another.
        TaskError: It cannot be started.
    """
    return _child.ask(left, right)
