"""Metrics and verifiers that a task names as ``module:function``.

They run with the user's permissions, so only two places are searched: the folder of the task's own
``task.yaml``, where the user can read them, and mpo-lite's own modules for tasks.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from mpo_lite.errors import TaskError

_OURS = ("mpo_lite.tasks.", "mpo_lite.sandbox.")
_from_tasks = set[str]()
"""Modules imported from task folders: another task may have one of the same name."""


def load_function(reference: str, where: str, folder: Path) -> Callable[..., Any]:
    """Imports ``module:function``.

    Args:
        reference: What to import.
        where: The place that names it, for errors.
        folder: The task's folder.

    Raises:
        TaskError: There is no such function in the task's folder or in mpo-lite, or its import fails.
    """
    module, _, name = reference.partition(":")
    file = None if module.startswith(_OURS) else _find_file(module, folder)
    if file is None and not module.startswith(_OURS):
        raise TaskError(
            f"{where}: {module.replace('.', '/')}.py is not in {folder}; "
            "a task's functions must be in its own folder"
        )
    # Forget a module of the same name from another task: Python would return that one.
    if file and module in _from_tasks and not _is_from(sys.modules.get(module), file):
        del sys.modules[module]
    # First on the path only during the import, so that the module can import its neighbours.
    sys.path.insert(0, str(folder.absolute()))
    try:
        loaded = importlib.import_module(module)
    except Exception as error:
        raise TaskError(f"{where}: cannot import {module} ({type(error).__name__}: {error})") from error
    finally:
        sys.path.remove(str(folder.absolute()))
    if file:
        if not _is_from(loaded, file):
            raise TaskError(f"{where}: another module is already called {module}; rename {file.name}")
        _from_tasks.add(module)
    function: Any = getattr(loaded, name, None)
    # Of our own modules only what they define: not, say, the os.system that one of them could import.
    if not callable(function) or (not file and getattr(function, "__module__", "") != module):
        raise TaskError(f"{where}: {module} has no function {name}")
    return function


def _is_from(module: ModuleType | None, file: Path) -> bool:
    return module is not None and Path(module.__file__ or "").resolve() == file.resolve()


def _find_file(module: str, folder: Path) -> Path | None:
    """The file of a module in a folder, or None."""
    base = folder.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
