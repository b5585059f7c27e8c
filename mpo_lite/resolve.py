"""Resolves a configuration from flags, environment, ``.env`` and YAML, and names the source of what is wrong.

Precedence: explicit argument or flag > ``MPO_*`` environment (``.env`` included) > YAML > preset > default,
in the command line and in ``MPO(...)`` alike.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from dotenv import load_dotenv
from pydantic import ValidationError

from mpo_lite.config import PRESETS, Config, Model, Ppo, Thresholds
from mpo_lite.errors import ConfigError
from mpo_lite.files import YAML_ERRORS


@dataclass(frozen=True)
class _Given:
    """One value somebody gave, and where: the place that an error names."""

    value: Any
    origin: str


def load_config(
    path: Path | None = None,
    given: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Resolves a configuration from all its sources; see ``explained``."""
    return explained(path, given, overrides, environ)[0]


def explained(
    path: Path | None = None,
    given: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> tuple[Config, dict[str, str]]:
    """Resolves a configuration from all its sources, and says which of them each value came from.

    Args:
        path: A YAML file, or None.
        given: Explicit arguments or flags by field name; None values count as not given.
        overrides: ``key.path=value`` texts, as strong as flags; values are read as YAML.
        environ: The environment; None means the process's, after reading ``.env`` in the working directory.

    Returns:
        The configuration, and dotted key → source of all that is no default.

    Raises:
        ConfigError: A source is unreadable, or a value is unknown or out of range; names the place and the
            mend.
    """
    if environ is None:
        load_dotenv(Path(".env"))
        environ = os.environ
    merged: dict[str, _Given] = _from_yaml(path) if path else {}
    for name in Config.model_fields:
        variable = f"MPO_{name.upper()}"
        if value := environ.get(variable):
            merged = _without(merged, name) | _flatten({name: _scalar(value)}, origin=variable)
    for name, value in (given or {}).items():
        if value is not None:
            merged = _without(merged, name) | _flatten({name: value}, origin=f"--{name.replace('_', '-')}")
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"-o {text}: write key.path=value, for example -o gate.margin=0.1")
        merged = _without(merged, name) | {name: _Given(_scalar(value), f"-o {name}")}
    preset = str(merged["preset"].value) if "preset" in merged else ""
    for name, value in PRESETS.get(preset, {}).items():
        merged.setdefault(name, _Given(value, f"preset {preset}"))
    return _validate(merged), {name: entry.origin for name, entry in merged.items()}


def save_config(config: Config) -> str:
    """The resolved configuration as YAML; ``load_config`` reads it back to an equal value."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _scalar(text: str) -> Any:
    """Reads a value from a flag or variable; text that is no YAML stays text."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    # YAML 1.1 reads 1e-5 as text, which pydantic turns into a number where one is wanted.
    return text if value is None and text else value


def _without(merged: Mapping[str, _Given], name: str) -> dict[str, _Given]:
    """Drops ``name`` and what lies below it: a stronger source replaces the whole value."""
    return {key: value for key, value in merged.items() if key != name and not key.startswith(f"{name}.")}


def _flatten(
    data: Mapping[str, Any], origin: str, lines: Mapping[str, int] | None = None, prefix: str = ""
) -> dict[str, _Given]:
    """Dotted key → value; a file's values are placed by their lines."""
    flat: dict[str, _Given] = {}
    for key, value in data.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat |= _flatten(cast(dict[str, Any], value), origin, lines, f"{path}.")
        else:
            flat[path] = _Given(value, f"{origin}:{lines.get(path, 1)}" if lines is not None else origin)
    return flat


def _from_yaml(path: Path) -> dict[str, _Given]:
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data: Any = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read the configuration ({error})") from error
    except YAML_ERRORS as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must be a mapping of keys to values, like 'steps: 200'")
    lines = key_lines(node)
    return _flatten(cast(dict[str, Any], data), str(path), lines)


def key_lines(node: yaml.Node | None, prefix: str = "") -> dict[str, int]:
    """Dotted key → line number in the file, from 1."""
    lines: dict[str, int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = f"{prefix}{key.value}"
            lines[path] = key.start_mark.line + 1
            lines |= key_lines(value, f"{path}.")
    return lines


def _validate(merged: Mapping[str, _Given]) -> Config:
    tree: dict[str, Any] = {}
    for path, entry in merged.items():
        *parents, leaf = path.split(".")
        branch: Any = tree
        for part in parents:
            branch = cast(dict[str, Any], branch).setdefault(part, {})
            if not isinstance(branch, dict):
                raise ConfigError(f"{entry.origin}: {path} lies below a value that is no mapping")
        branch[leaf] = entry.value
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in problem["loc"])
        raise ConfigError(_complaint(path, problem["type"], problem["msg"], merged)) from error


def _complaint(path: str, kind: str, message: str, merged: Mapping[str, _Given]) -> str:
    """One line: where, which key, what is wrong, how to mend it."""
    origin = next((entry.origin for key, entry in merged.items() if _related(path, key)), "configuration")
    if kind != "extra_forbidden":
        return f"{origin} {path}: {message.removeprefix('Value error, ')}"
    *parents, leaf = path.split(".")
    if leaf.endswith("api_key"):
        mend = "name the variable that holds it by api_key_env" if parents else f"set MPO_{leaf.upper()}"
        return f"{origin} {path}: keys are never read from files or flags; {mend}"
    level = parents[0] if parents else ""
    levels = {"ppo": Ppo, "gate": Thresholds, "judge": Model, "judge_fallback": Model}
    names = levels.get(level, Config).model_fields
    return f"{origin} {path}: {unknown_key(leaf, names)}"


def unknown_key(name: str, known: Iterable[str]) -> str:
    """What is wrong with a key, and which was meant."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return "unknown key" + (f', did you mean "{close[0]}"?' if close else f"; known keys: {', '.join(names)}")


def _related(path: str, key: str) -> bool:
    return path == key or path.startswith(f"{key}.") or key.startswith(f"{path}.")
