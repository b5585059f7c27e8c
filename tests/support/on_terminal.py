"""A command on a terminal, or away from one, in a process of its own and faster than for people."""

import errno
import os
import pty
import subprocess
import sys

FASTER = 10
"""How many times faster than for people things are told in these tests."""
RUN = f"""
import sys
from mpo_lite.cli import score, status
for name in ("FIRST_S", "EVERY_S", "SHORT_S", "TICK_S"):
    setattr(status, name, getattr(status, name) / {FASTER})
score.CHUNK = 4
from mpo_lite.cli.main import main
main(sys.argv[1:])
"""


def on_terminal(command: list[str]) -> tuple[str, int]:
    """All that a command writes to a terminal, and its exit code."""
    read, write = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, *command],
        stdin=write, stdout=write, stderr=write, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(write)
    parts: list[bytes] = []
    try:
        while part := os.read(read, 65536):
            parts.append(part)
    except OSError as error:
        if error.errno != errno.EIO:  # how a terminal says that nobody writes to it any more
            raise
    os.close(read)
    return b"".join(parts).decode(), process.wait()
