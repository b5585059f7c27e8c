"""Compares expressions by ``math-verify``: the program of the child process of ``mpo_lite.tasks.symbolic``.

It imports nothing of mpo-lite and runs without the working directory and the user's variables on its path.
Reads pairs as JSON lines; writes ``ready``, then ``same`` or ``different`` for each.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Serves until its input ends."""
    sys.path.append(sys.argv[1])  # the parent's math-verify; last, so that it shadows nothing
    from math_verify import parse, verify  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    # The parent stops reading it now, and a full pipe would block.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        left, right = json.loads(line)
        parsed: list[Any] = [parse(f"${text}$", parsing_timeout=3) for text in (left, right)]
        same = all(parsed) and verify(parsed[1], parsed[0], timeout_seconds=3)
        print("same" if same else "different", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
