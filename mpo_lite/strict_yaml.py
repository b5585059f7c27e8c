"""The YAML of configuration, task and rubric files: plain data, no duplicate keys, bounded size.

PyYAML's safe loader reads ``1e-4`` as text and dates as date objects, silently keeps the last of two equal
keys, and follows aliases and nesting without limit. Files with none of these are read exactly as it reads
them.
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
"""Maximum nesting of mappings and lists."""
# YAML 1.1, as PyYAML reads it, wants a dot and a sign in a float: 1e-4 would be text.
_EXPONENT = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_DROPPED_TAGS = {"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:merge"}
_RESOLVERS = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _DROPPED_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _first in "-+.0123456789":
    _RESOLVERS.setdefault(_first, []).append(("tag:yaml.org,2002:float", _EXPONENT))


class _Refused(yaml.MarkedYAMLError):
    """Valid YAML that is not accepted here."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _RESOLVERS

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if isinstance(event, yaml.AliasEvent):
            raise _refusal("aliases (*name) are not supported; write the value out", event)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _refusal(f"nested more than {MAX_DEPTH} levels deep", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _refusal(problem: str, event: Any) -> _Refused:
    return _Refused(problem=problem, problem_mark=event.start_mark)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _RESOLVERS

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # Unquoted, PyYAML would read these back as line breaks.
        style = '"' if any(sign in data for sign in "\x85\u2028\u2029\ufeff") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)  # pyright: ignore[reportUnknownMemberType]


_Dumper.add_representer(str, _Dumper.represent_str)


@dataclass(frozen=True)
class Document:
    """A parsed YAML text.

    Attributes:
        data: Mappings, lists, strings, numbers, booleans and None; None for an empty text.
        lines: Dotted path, such as ``criteria.0.levels``, → its line, from 1.
    """

    data: Any
    lines: dict[str, int]

    def line(self, place: str) -> int:
        """The line of a dotted path, or of its closest parent that the text has."""
        while place and place not in self.lines:
            place = place.rpartition(".")[0]
        return self.lines.get(place, 1)


def parse_yaml(text: str, where: str, refuse: Callable[[str], MPOError]) -> Document:
    """Parses a YAML text.

    Args:
        text: The YAML text.
        where: Its file, or another name for it, for errors.
        refuse: Makes the error to raise.

    Raises:
        MPOError: Made by ``refuse``: the text is not YAML, too long or nested too deeply, or has a duplicate
            key or an alias; says in which line.
    """
    if len(text) > MAX_CHARACTERS:
        raise refuse(f"{where}: larger than {MAX_CHARACTERS // 1024} KiB")
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise refuse(f"{where}: not valid YAML ({' '.join(str(error).split())[:200]})") from error
    try:
        node = loader.get_single_node()
        lines = dict[str, int]()
        if node is None:
            return Document(None, lines)
        _record_lines(node, "", lines)
        return Document(loader.construct_document(node), lines)  # pyright: ignore[reportUnknownMemberType]
    except yaml.MarkedYAMLError as error:
        position = error.problem_mark or error.context_mark
        problem = error.problem if isinstance(error, _Refused) else f"not valid YAML ({error.problem})"
        location = f"{where}:{position.line + 1}" if position and "\n" in text else where
        raise refuse(f"{location}: {problem}") from error
    except (yaml.YAMLError, ValueError, KeyError, AttributeError) as error:
        # The last three are raised for a value that does not fit its tag, such as !!int ten.
        problem = " ".join(str(error).split())
        raise refuse(f"{where}: not valid YAML ({problem[:200]})") from error
    finally:
        loader.dispose()


def dump_yaml(data: Any) -> str:
    """Data as YAML; ``parse_yaml`` returns equal data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _record_lines(node: yaml.Node, place: str, lines: dict[str, int]) -> None:
    """Records the lines of all keys and entries, and refuses duplicate keys."""
    prefix = f"{place}." if place else ""
    if isinstance(node, yaml.SequenceNode):
        for number, entry in enumerate(node.value):
            lines[f"{prefix}{number}"] = entry.start_mark.line + 1
            _record_lines(entry, f"{prefix}{number}", lines)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path, line = f"{prefix}{key.value}", key.start_mark.line + 1
            if path in lines:
                problem = f"duplicate key '{key.value}' (also in line {lines[path]}); remove one"
                raise _Refused(problem=problem, problem_mark=key.start_mark)
            lines[path] = line
            _record_lines(value, path, lines)
