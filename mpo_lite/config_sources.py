"""Resolves a configuration from flags, environment, ``.env`` and YAML; errors name the source of a value.

Precedence: explicit argument or flag > ``MPO_*`` environment (``.env`` included) > YAML > method > default,
both for the command line and for ``MPO(...)``. Paths in a file are relative to that file, all others to the
working directory.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from dotenv import dotenv_values, load_dotenv
from pydantic import ValidationError

from mpo_lite.config import DATA_ENDINGS, METHODS, Config
from mpo_lite.errors import ConfigError
from mpo_lite.prompts import builtin_tasks
from mpo_lite.strict_yaml import Document, dump_yaml, parse_yaml
from mpo_lite.validation import SYNONYMS, bare_type, describe_yaml_problem, dotted_path, first_problem

_DOTENV = Path(".env")
_PATHS = ("rubric", "run_dir", "cache_dir")
_PATHS_OR_NAMES = ("policy", "task", "data")
_READ_FROM = {
    "api_key": "MPO_JUDGE_API_KEY",
    "judge_api_key": "MPO_JUDGE_API_KEY",
    "meta_api_key": "MPO_META_API_KEY",
    "audit_api_key": "MPO_AUDIT_API_KEY",
}
"""API key given as a setting → the variable it is read from; others have their provider's own variable."""
_TOKENS = ("token", "hub_token", "push_to_hub_token", "use_auth_token")
"""Names that libraries use for a Hugging Face token."""


@dataclass(frozen=True)
class _Setting:
    """A value that was set, and the place to name in errors about it."""

    value: Any
    origin: str
    in_file: bool = False


def load_config(
    path: Path | None = None,
    given: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    named: str = "--{}",
) -> Config:
    """Resolves a configuration from all its sources; see ``load_with_sources``."""
    return load_with_sources(path, given, overrides, environ, named)[0]


def load_with_sources(
    path: Path | None = None,
    given: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    named: str = "--{}",
) -> tuple[Config, dict[str, str]]:
    """Resolves a configuration from all its sources, and says where each value came from.

    Args:
        path: A YAML file, or None.
        given: Explicit arguments or flags by field name; None values count as not given.
        overrides: ``key.path=value`` texts with the precedence of flags; values are parsed as YAML.
        environ: The environment; None: the process's, after reading ``.env`` in the working directory.
        named: How errors name an entry of ``given``: a flag, or an argument of a function.

    Returns:
        The configuration, and dotted key → source of every value that is not a default.

    Raises:
        ConfigError: A source is unreadable, or a value is unknown or out of range; says where, and how to
            fix it.
    """
    from_dotenv: set[str] = set()
    if environ is None:
        from_dotenv = dotenv_values(_DOTENV).keys() - os.environ.keys()
        load_dotenv(_DOTENV)
        environ = os.environ
    merged: dict[str, _Setting] = _load_yaml(path) if path else {}
    for name in Config.model_fields:
        variable = f"MPO_{name.upper()}"
        # An empty variable counts as not set.
        if value := environ.get(variable):
            value = _parse_value(name, value, variable)
            origin = f"{_DOTENV} {variable}" if variable in from_dotenv else variable
            merged = _drop(merged, name) | _flatten({name: value}, origin)
    for name, value in (given or {}).items():
        if value is not None:
            origin = named.format(name.replace("_", "-") if named.startswith("--") else name)
            merged = _drop(merged, name) | _flatten({name: value}, origin)
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"-o {text}: write key.path=value, for example -o gate.margin=0.1")
        merged = _drop(merged, name) | _flatten({name: _parse_value(name, value, f"-o {name}")}, f"-o {name}")
    _refuse_goal_with_task(merged)
    method = str(merged["method"].value) if "method" in merged else ""
    for name, value in METHODS.get(method, {}).items():
        merged.setdefault(name, _Setting(value, f"method {method}"))
    config = _validate(merged)
    _refuse_misspelt_variables(environ, config)
    return config, {name: entry.origin for name, entry in merged.items()}


def save_config(config: Config) -> str:
    """The resolved configuration as YAML; ``load_config`` reads it back to an equal value."""
    values = config.model_dump(mode="json")
    if config.goal is not None:
        del values["task"]  # a goal replaces the task, and both together are refused
    return dump_yaml(values)


def _parse_value(name: str, text: str, where: str) -> Any:
    """Parses a value from a variable or ``-o`` as YAML, except for fields of text and paths."""
    field = Config.model_fields.get(name)
    if field and text and bare_type(field.annotation) in (str, Path):
        return text
    try:
        return parse_yaml(text, where, ConfigError).data
    except ConfigError:
        if text.lstrip().startswith(("{", "[")):  # meant as YAML
            raise
        return text


def _drop(merged: Mapping[str, _Setting], name: str) -> dict[str, _Setting]:
    """Drops ``name`` and everything nested in it: a source of higher precedence replaces the whole value."""
    return {key: value for key, value in merged.items() if key != name and not key.startswith(f"{name}.")}


def _flatten(
    data: Mapping[str, Any], origin: str, document: Document | None = None, prefix: str = ""
) -> dict[str, _Setting]:
    """Dotted key → value; the place of a file's value is its line."""
    flat: dict[str, _Setting] = {}
    for key, value in data.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat |= _flatten(cast(dict[str, Any], value), origin, document, f"{path}.")
        elif document:
            flat[path] = _Setting(value, f"{origin}:{document.line(path)}", in_file=True)
        else:
            flat[path] = _Setting(value, origin)
    return flat


def _explain_folder(path: Path) -> str:
    """Explains a folder that is given instead of a configuration file."""
    if (path / "config.yaml").is_file():
        return f"is a run; resume it: mpo-lite resume {path}"
    if (path / "experiment.yaml").is_file():
        return f"is a folder; did you mean {path / 'experiment.yaml'}?"
    if (path / "task.yaml").is_file():
        return f"is a task folder; pass it as --task {path}"
    return "is a folder; pass a YAML file of settings"


def _load_yaml(path: Path) -> dict[str, _Setting]:
    if path.suffix in DATA_ENDINGS:
        raise ConfigError(f"{path}: is a data file, not a configuration; pass it as --data {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: {_explain_folder(path)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    document = parse_yaml(text, str(path), ConfigError)
    value: Any = document.data
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: must be a mapping of keys to values, like 'steps: 200'")
    data = cast(dict[str, Any], value)
    absolute_paths = {
        name: _resolve_path(path.parent, name, data[name])
        for name in _PATHS + _PATHS_OR_NAMES
        if name in data
    }
    return _flatten(data | absolute_paths, str(path), document)


def _resolve_path(folder: Path, name: str, value: Any) -> Any:
    """Makes a path in a file of ``folder`` absolute; other names, such as a built-in task, stay."""
    if not isinstance(value, str) or (name in _PATHS_OR_NAMES and value in builtin_tasks()):
        return value
    path = folder.absolute() / Path(value).expanduser()
    is_path = name in _PATHS or path.exists() or (name == "data" and path.suffix in DATA_ENDINGS)
    return str(path) if is_path else value


def _refuse_goal_with_task(merged: Mapping[str, _Setting]) -> None:
    goal, task = merged.get("goal"), merged.get("task")
    if goal and task and goal.value is not None:
        raise ConfigError(
            f"goal ({goal.origin}) replaces the task, but a task is set too ({task.origin}); remove one"
        )


def _refuse_misspelt_variables(environ: Mapping[str, str], config: Config) -> None:
    """Refuses an ``MPO_*`` variable that is nearly a setting: it would be ignored silently."""
    fields = [name.upper() for name in Config.model_fields]
    names = {f"MPO_{name}" for name in fields} | {model.api_key_env for model in config.models}
    for variable in sorted(environ):
        if not variable.startswith("MPO_") or variable in names or variable.endswith("_API_KEY"):
            continue
        name = variable.removeprefix("MPO_")
        suggestion = SYNONYMS.get(name.lower(), "").upper() or _closest_name(name, fields)
        if suggestion:
            raise ConfigError(f"{variable}: unknown setting; did you mean MPO_{suggestion}?")


def _closest_name(name: str, names: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.8)), None)


def _validate(merged: Mapping[str, _Setting]) -> Config:
    tree: dict[str, Any] = {}
    for path, entry in merged.items():
        *parents, leaf = path.split(".")
        if parents and leaf in _TOKENS:
            raise ConfigError(
                f"{entry.origin} {path}: API keys are read only from the environment; set HF_TOKEN"
            )
        branch: Any = tree
        for part in parents:
            branch = cast(dict[str, Any], branch).setdefault(part, {})
            if not isinstance(branch, dict):
                raise ConfigError(f"{entry.origin}: the parent of {path} is not a mapping")
        branch[leaf] = entry.value
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        problem = first_problem(error)
        path = dotted_path(problem)
        problem_text = _explain_key(path) if problem["type"] == "extra_forbidden" else ""
        problem_text = problem_text or describe_yaml_problem(problem, Config)
        if problem_text == "unknown key":
            problem_text += "; mpo-lite config show --all lists all keys"
        raise ConfigError(f"{_describe_place(path, merged)}: {problem_text}") from error


def _explain_key(path: str) -> str:
    """Explains an unknown setting that is meant for an API key; empty for any other."""
    *parents, leaf = path.split(".")
    if not leaf.endswith("api_key") and leaf not in _TOKENS:
        return ""
    if leaf in _TOKENS:
        fix = "set HF_TOKEN"
    elif parents:
        fix = "name its variable with api_key_env"
    else:
        fix = f"set {_READ_FROM.get(leaf, leaf.upper())}"
    return f"API keys are read only from the environment; {fix}"


def _describe_place(path: str, merged: Mapping[str, _Setting]) -> str:
    """Where the value at a dotted path came from, with the path if that is not obvious."""
    key, entry = next(
        ((key, entry) for key, entry in merged.items() if _overlaps(path, key)),
        ("", _Setting(None, "configuration")),
    )
    # A name given by a flag is expanded into a model, whose field nobody wrote.
    is_name = path.endswith(".model") and not isinstance(entry.value, dict)
    whole = key == path or key.startswith(f"{path}.") or is_name
    return entry.origin if whole and not entry.in_file else f"{entry.origin} {path}"


def _overlaps(path: str, key: str) -> bool:
    return path == key or path.startswith(f"{key}.") or key.startswith(f"{path}.")
