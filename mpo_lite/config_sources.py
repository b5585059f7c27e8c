"""Resolves a configuration from flags, environment, ``.env`` and YAML, and names the source of what is wrong.

Precedence: explicit argument or flag > ``MPO_*`` environment (``.env`` included) > YAML > method > default,
in the command line and in ``MPO(...)`` alike. Paths in a file are relative to that file, all others to the
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
from mpo_lite.validation import SYNONYMS, bare_type, complaint, dotted, first_problem

_DOTENV = Path(".env")
_PATHS = ("rubric", "run_dir", "cache_dir")
_PATHS_OR_NAMES = ("policy", "task", "data")
_READ_FROM = {
    "api_key": "MPO_JUDGE_API_KEY",
    "judge_api_key": "MPO_JUDGE_API_KEY",
    "meta_api_key": "MPO_META_API_KEY",
}
"""A key that somebody gives as a setting → the variable that it is read from; others: a provider's own."""
_TOKENS = ("token", "hub_token", "push_to_hub_token", "use_auth_token")
"""Names under which libraries take a token of the Hugging Face hub."""


@dataclass(frozen=True)
class _Given:
    """One value somebody gave, and where: the place that an error names."""

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
    """Resolves a configuration from all its sources; see ``explained``."""
    return explained(path, given, overrides, environ, named)[0]


def explained(
    path: Path | None = None,
    given: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    named: str = "--{}",
) -> tuple[Config, dict[str, str]]:
    """Resolves a configuration from all its sources, and says which of them each value came from.

    Args:
        path: A YAML file, or None.
        given: Explicit arguments or flags by field name; None values count as not given.
        overrides: ``key.path=value`` texts, as strong as flags; values are read as YAML.
        environ: The environment; None means the process's, after reading ``.env`` in the working directory.
        named: How errors name an entry of ``given``: a flag, or an argument of a function.

    Returns:
        The configuration, and dotted key → source of all that is no default.

    Raises:
        ConfigError: A source is unreadable, or a value is unknown or out of range; names the place and the
            mend.
    """
    from_dotenv: set[str] = set()
    if environ is None:
        from_dotenv = dotenv_values(_DOTENV).keys() - os.environ.keys()
        load_dotenv(_DOTENV)
        environ = os.environ
    merged: dict[str, _Given] = _from_yaml(path) if path else {}
    for name in Config.model_fields:
        variable = f"MPO_{name.upper()}"
        if value := environ.get(variable):
            read = _value(name, value, variable)
            origin = f"{_DOTENV} {variable}" if variable in from_dotenv else variable
            merged = _without(merged, name) | _flatten({name: read}, origin)
    for name, value in (given or {}).items():
        if value is not None:
            origin = named.format(name.replace("_", "-") if named.startswith("--") else name)
            merged = _without(merged, name) | _flatten({name: value}, origin)
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"-o {text}: write key.path=value, for example -o gate.margin=0.1")
        merged = _without(merged, name) | _flatten({name: _value(name, value, f"-o {name}")}, f"-o {name}")
    _refuse_goal_with_task(merged)
    method = str(merged["method"].value) if "method" in merged else ""
    for name, value in METHODS.get(method, {}).items():
        merged.setdefault(name, _Given(value, f"method {method}"))
    config = _validate(merged)
    _refuse_misspelt_variables(environ, config)
    return config, {name: entry.origin for name, entry in merged.items()}


def save_config(config: Config) -> str:
    """The resolved configuration as YAML; ``load_config`` reads it back to an equal value."""
    values = config.model_dump(mode="json")
    if config.goal is not None:
        del values["task"]  # which a goal stands in place of
    return dump_yaml(values)


def _value(name: str, text: str, where: str) -> Any:
    """Reads a value from a variable or ``-o``: YAML, but texts and paths as they are."""
    field = Config.model_fields.get(name)
    if field and text and bare_type(field.annotation) in (str, Path):
        return text
    try:
        return parse_yaml(text, where, ConfigError).data
    except ConfigError:
        if text.lstrip().startswith(("{", "[")):  # meant as YAML
            raise
        return text


def _without(merged: Mapping[str, _Given], name: str) -> dict[str, _Given]:
    """Drops ``name`` and what lies below it: a stronger source replaces the whole value."""
    return {key: value for key, value in merged.items() if key != name and not key.startswith(f"{name}.")}


def _flatten(
    data: Mapping[str, Any], origin: str, document: Document | None = None, prefix: str = ""
) -> dict[str, _Given]:
    """Dotted key → value; a file's values are placed by their lines."""
    flat: dict[str, _Given] = {}
    for key, value in data.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat |= _flatten(cast(dict[str, Any], value), origin, document, f"{path}.")
        elif document:
            flat[path] = _Given(value, f"{origin}:{document.line(path)}", in_file=True)
        else:
            flat[path] = _Given(value, origin)
    return flat


def _folder_problem(path: Path) -> str:
    """What to say of a folder that is given in place of a configuration file."""
    if (path / "config.yaml").is_file():
        return f"is a run; resume it: mpo-lite resume {path}"
    if (path / "experiment.yaml").is_file():
        return f"is a folder; did you mean {path / 'experiment.yaml'}?"
    if (path / "task.yaml").is_file():
        return f"is a task folder; pass it as --task {path}"
    return "is a folder; pass a YAML file of settings"


def _from_yaml(path: Path) -> dict[str, _Given]:
    if path.suffix in DATA_ENDINGS:
        raise ConfigError(f"{path}: is a data file, not a configuration; pass it as --data {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: {_folder_problem(path)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    document = parse_yaml(text, str(path), ConfigError)
    read: Any = document.data
    if read is None:
        return {}
    if not isinstance(read, dict):
        raise ConfigError(f"{path}: must be a mapping of keys to values, like 'steps: 200'")
    data = cast(dict[str, Any], read)
    beside = {
        name: _beside(path.parent, name, data[name]) for name in _PATHS + _PATHS_OR_NAMES if name in data
    }
    return _flatten(data | beside, str(path), document)


def _beside(folder: Path, name: str, value: Any) -> Any:
    """A path of a file in ``folder``, from there; what is the name of something stays so."""
    if not isinstance(value, str) or (name in _PATHS_OR_NAMES and value in builtin_tasks()):
        return value
    path = folder.absolute() / Path(value).expanduser()
    is_path = name in _PATHS or path.exists() or (name == "data" and path.suffix in DATA_ENDINGS)
    return str(path) if is_path else value


def _refuse_goal_with_task(merged: Mapping[str, _Given]) -> None:
    goal, task = merged.get("goal"), merged.get("task")
    if goal and task and goal.value is not None:
        raise ConfigError(
            f"goal ({goal.origin}) replaces the task, but a task is set too ({task.origin}); remove one"
        )


def _refuse_misspelt_variables(environ: Mapping[str, str], config: Config) -> None:
    """A variable of ours that nobody reads would be noticed late, or never."""
    fields = [name.upper() for name in Config.model_fields]
    models = [*config.judge, *([config.judge_fallback] if config.judge_fallback else [])]
    known = {f"MPO_{name}" for name in fields} | {one.api_key_env for one in models}
    for variable in sorted(environ):
        if not variable.startswith("MPO_") or variable in known or variable.endswith("_API_KEY"):
            continue
        name = variable.removeprefix("MPO_")
        meant = SYNONYMS.get(name.lower(), "").upper() or _close(name, fields)
        if meant:
            raise ConfigError(f"{variable}: unknown setting; did you mean MPO_{meant}?")


def _close(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.8)), None)


def _validate(merged: Mapping[str, _Given]) -> Config:
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
        path = dotted(problem)
        said = _key_complaint(path) if problem["type"] == "extra_forbidden" else ""
        said = said or complaint(problem, Config)
        if said == "unknown key":
            said += "; mpo-lite config show --all lists all keys"
        raise ConfigError(f"{_place(path, merged)}: {said}") from error


def _key_complaint(path: str) -> str:
    """What to say of an unknown name that is to hold a key; empty for any other."""
    *parents, leaf = path.split(".")
    if not leaf.endswith("api_key") and leaf not in _TOKENS:
        return ""
    if leaf in _TOKENS:
        mend = "set HF_TOKEN"
    elif parents:
        mend = "name its variable with api_key_env"
    else:
        mend = f"set {_READ_FROM.get(leaf, leaf.upper())}"
    return f"API keys are read only from the environment; {mend}"


def _place(path: str, merged: Mapping[str, _Given]) -> str:
    """Where the value at a dotted path came from, and the path where that does not say it."""
    key, entry = next(
        ((key, entry) for key, entry in merged.items() if _related(path, key)),
        ("", _Given(None, "configuration")),
    )
    whole = key == path or key.startswith(f"{path}.")
    return entry.origin if whole and not entry.in_file else f"{entry.origin} {path}"


def _related(path: str, key: str) -> bool:
    return path == key or path.startswith(f"{key}.") or key.startswith(f"{path}.")
