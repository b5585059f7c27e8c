"""What the processes of one job tell each other. One process is a job too."""

from __future__ import annotations

import os
import sys
from typing import TypeVar

T = TypeVar("T")


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def exchange(value: T) -> list[T]:
    """Every process's value, in the order of their ranks; all of them must call this alike."""
    if "torch" not in sys.modules:  # then nobody can have made a process group with it
        return [value]
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[T | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
