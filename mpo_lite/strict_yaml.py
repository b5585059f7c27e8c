"""YAML as configuration, task and rubric files hold it: data alone, each key once, and quickly read.

PyYAML's safe loader takes ``1e-4`` for a text and a date for a date, keeps the last of two equal keys, and
follows aliases and nesting for as long as they go on. Files with none of that are read as it reads them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from mpo_lite.errors import MPOError

MAX_CHARACTERS = 256 * 1024
MAX_DEPTH = 32
"""Mappings and lists within each other."""
_EXPONENT = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_NOT_READ = {"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:merge"}
_RESOLVERS = {
    first: [(tag, pattern) for tag, pattern in found if tag not in _NOT_READ]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _first in "-+.0123456789":
    _RESOLVERS.setdefault(_first, []).append(("tag:yaml.org,2002:float", _EXPONENT))


class _Refused(yaml.MarkedYAMLError):
    """Valid YAML that is not read here."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _RESOLVERS

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if isinstance(event, yaml.AliasEvent):
            raise _refused("aliases (*name) are not supported; write the value out", event)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _refused(f"nested more than {MAX_DEPTH} levels deep", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _refused(problem: str, event: Any) -> _Refused:
    return _Refused(problem=problem, problem_mark=event.start_mark)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _RESOLVERS

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # Where these stand unquoted, PyYAML takes them for ends of lines when it reads them back.
        style = '"' if any(sign in data for sign in "\x85\u2028\u2029\ufeff") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)  # pyright: ignore[reportUnknownMemberType]


_Dumper.add_representer(str, _Dumper.represent_str)


@dataclass(frozen=True)
class Document:
    """What a YAML text holds.

    Attributes:
        data: Mappings, lists, texts, numbers, booleans and None; None for an empty text.
        lines: Dotted place, such as ``criteria.0.levels``, → its line, from 1.
    """

    data: Any
    lines: dict[str, int]

    def line(self, place: str) -> int:
        """The line of a dotted place, or of the nearest above it that the text has."""
        while place and place not in self.lines:
            place = place.rpartition(".")[0]
        return self.lines.get(place, 1)


def parse_yaml(text: str, where: str, refuse: Callable[[str], MPOError]) -> Document:
    """Reads a YAML text.

    Args:
        text: What to read.
        where: Its file, or another name of it, for errors.
        refuse: The error to raise.

    Raises:
        MPOError: That of ``refuse``: the text is no YAML, too long or too deep, has a key twice or an alias;
            says in which line.
    """
    if len(text) > MAX_CHARACTERS:
        raise refuse(f"{where}: larger than {MAX_CHARACTERS // 1024} KiB")
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:  # a character that YAML does not know
        raise refuse(f"{where}: not valid YAML ({' '.join(str(error).split())[:200]})") from error
    try:
        node = loader.get_single_node()
        lines = dict[str, int]()
        if node is None:
            return Document(None, lines)
        _place(node, "", lines)
        return Document(loader.construct_document(node), lines)  # pyright: ignore[reportUnknownMemberType]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = error.problem if isinstance(error, _Refused) else f"not valid YAML ({error.problem})"
        at = f"{where}:{mark.line + 1}" if mark and "\n" in text else where
        raise refuse(f"{at}: {said}") from error
    except (yaml.YAMLError, ValueError, KeyError, AttributeError) as error:
        # The last three: a value that does not fit its tag, such as !!int ten.
        said = " ".join(str(error).split())
        raise refuse(f"{where}: not valid YAML ({said[:200]})") from error
    finally:
        loader.dispose()


def dump_yaml(data: Any) -> str:
    """Data as YAML; ``parse_yaml`` gives back equal data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _place(node: yaml.Node, place: str, lines: dict[str, int]) -> None:
    """Notes the lines of all keys and entries, and refuses what is there twice."""
    prefix = f"{place}." if place else ""
    if isinstance(node, yaml.SequenceNode):
        for number, entry in enumerate(node.value):
            lines[f"{prefix}{number}"] = entry.start_mark.line + 1
            _place(entry, f"{prefix}{number}", lines)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path, line = f"{prefix}{key.value}", key.start_mark.line + 1
            if path in lines:
                said = f"duplicate key '{key.value}' (also in line {lines[path]}); remove one"
                raise _Refused(problem=said, problem_mark=key.start_mark)
            lines[path] = line
            _place(value, path, lines)
