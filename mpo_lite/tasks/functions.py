"""Metrics and verifiers that a task names as ``module:function``.

They run as the user does, so they are looked for in two places alone: beside the task's own ``task.yaml``,
where whoever trains can read them, and in what mpo-lite has for tasks.
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
"""Modules that were imported from tasks' folders: another task may have one of the same name."""


def load_function(reference: str, where: str, folder: Path) -> Callable[..., Any]:
    """Imports ``module:function``.

    Args:
        reference: What to import.
        where: The place that names it, for errors.
        folder: That of the task.

    Raises:
        TaskError: There is no such function in the task's folder or in mpo-lite, or its module fails.
    """
    module, _, name = reference.partition(":")
    file = None if module.startswith(_OURS) else _file(module, folder)
    if file is None and not module.startswith(_OURS):
        raise TaskError(
            f"{where}: {module.replace('.', '/')}.py is not in {folder}; "
            "a task's functions must be in its own folder"
        )
    if file and module in _from_tasks and not _is_from(sys.modules.get(module), file):
        del sys.modules[module]
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
    if not callable(function) or (not file and getattr(function, "__module__", "") != module):
        raise TaskError(f"{where}: {module} has no function {name}")
    return function


def _is_from(module: ModuleType | None, file: Path) -> bool:
    return module is not None and Path(module.__file__ or "").resolve() == file.resolve()


def _file(module: str, folder: Path) -> Path | None:
    """The file of a module within a folder, if there is one."""
    base = folder.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
