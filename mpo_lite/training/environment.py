"""The machine and the versions a run trains on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

import mpo_lite
from mpo_lite.errors import ConfigError

_PACKAGES = ("torch", "transformers", "trl", "peft", "litellm")


def environment() -> dict[str, Any]:
    """What decides whether a resumed run is bit-identical: Python, packages, processor, threads."""
    return {
        "mpo_lite": mpo_lite.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "packages": {name: version(name) for name in _PACKAGES},
    }


def refuse_several_processes() -> None:
    """Raises ``ConfigError`` under torchrun: rubric and budget are not shared between processes yet."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "started with WORLD_SIZE > 1: mpo-lite trains with one process so far; start it without torchrun"
        )
