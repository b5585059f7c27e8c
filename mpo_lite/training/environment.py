"""The machine and the versions a run trains on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

import mpo_lite
from mpo_lite.training.ranks import world_size

_PACKAGES = ("torch", "transformers", "trl", "peft", "litellm")


def environment() -> dict[str, Any]:
    """What decides whether a resumed run is bit-identical: Python, packages, processor, processes
    and threads.
    """
    return {
        "mpo_lite": mpo_lite.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processes": world_size(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "packages": {name: version(name) for name in _PACKAGES},
    }


def accelerators() -> list[tuple[str, float, float]]:
    """The GPUs that torch sees: name, free and total memory in GiB."""
    import torch

    if not torch.cuda.is_available():
        return []
    found: list[tuple[str, float, float]] = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append((torch.cuda.get_device_name(index), free / 2**30, total / 2**30))
    return found
