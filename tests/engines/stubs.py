"""Stands for packages that engines import at their top, but that no reward goes through."""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

PACKAGES = ("modelscope", "prime_runs", "prime_sandboxes", "prime_tunnel", "ray")
"""Hubs, sandboxes and the cluster: large, and nothing of them runs here."""


class Stubs(MetaPathFinder, Loader):
    """Makes every module of the packages one whose every attribute is a mock."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] in PACKAGES:
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = MagicMock(name=spec.name)
        module.__name__, module.__path__, module.__spec__ = spec.name, [], spec
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


def install() -> None:
    """From now on the packages can be imported."""
    sys.meta_path.insert(0, Stubs())
