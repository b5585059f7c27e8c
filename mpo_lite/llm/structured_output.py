"""From a model's text to checked data. Strict: anything that is not exactly what was asked for is rejected.

A model is first asked with a JSON Schema; if the server rejects that, with a tool call of that schema, then
in plain JSON mode, then by the prompt alone. Rejected output modes are remembered per model. Schemas use an
object with one key per criterion, so that guided decoding cannot repeat or drop one, and enums for levels,
which every provider enforces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

from mpo_lite.sanitize import strip_thinking

Schema = dict[str, Any]
OutputMode = Literal["json_schema", "tool", "json_object", "text"]
LADDER: tuple[OutputMode, ...] = ("json_schema", "tool", "json_object", "text")
"""Ways to ask for an object, strictest first; every server supports the last one."""

BOUNDS = frozenset({"minItems", "maxItems", "minLength", "maxLength", "pattern"})
"""Keywords that bound texts and lists. With guided decoding they keep a model from rambling, but some
providers reject a schema that has any."""

MAX_ANSWER = 256 * 1024
MAX_DEPTH = 16
_DIGITS = re.compile("0|[1-9][0-9]{0,8}")
_MARKER = re.compile(
    r"[<‹][|｜]?\s?/?\s?[\w▁:.-]{1,48}(?:\s[\w-]{1,20}=[^<>]{0,80})?\s?[|｜]?>"  # <think>, <|think|>, </x>
    r"|\[\s?/?\s?(?:[A-Z][A-Z_ ]{2,40}|think\w*)\s?\]|◁/?\w{1,48}▷"  # [THINK], ◁think▷
)
"""A marker around parts of a reply."""
_ANSWER_WORDS = frozenset({
    "answer", "code", "end", "eos", "eot", "final", "im", "json", "output", "p", "pre", "reply", "response",
    "result", "solution", "unused95", "verdict",
})  # fmt: skip
"""Words in a marker which mean that the final answer follows."""


def object_schema(properties: Mapping[str, Schema]) -> Schema:
    """A closed object in which all of ``properties`` are required, in order."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def without_bounds(schema: Schema) -> Schema:
    """The schema without ``BOUNDS``, for providers that reject those."""
    kept = {key: value for key, value in schema.items() if key not in BOUNDS}
    if isinstance(kept.get("properties"), dict):
        kept["properties"] = {
            name: without_bounds(subschema) for name, subschema in kept["properties"].items()
        }
    if isinstance(kept.get("items"), dict):
        kept["items"] = without_bounds(kept["items"])
    return kept


def mode_params(output_mode: OutputMode, schema: Schema) -> dict[str, Any]:
    """The request parameters of an output mode; none for ``text``, which relies on the prompt alone."""
    if output_mode == "json_schema":
        json_schema = {"name": "reply", "strict": True, "schema": schema}
        return {"response_format": {"type": "json_schema", "json_schema": json_schema}}
    if output_mode == "tool":
        function = {"name": "reply", "description": "Gives the reply.", "parameters": schema}
        return {
            "tools": [{"type": "function", "function": function}],
            "tool_choice": {"type": "function", "function": {"name": "reply"}},
        }
    return {"response_format": {"type": "json_object"}} if output_mode == "json_object" else {}


def is_whitespace_loop(text: str) -> bool:
    """Whether an answer ends in endless white space, which guided decoding allows small models to do."""
    return len(text) - len(text.rstrip()) > 64 and len(text.split()) * 8 < len(text)


def parse_object(text: str) -> dict[str, Any]:
    """The JSON object that ``text`` consists of, or the last one in it.

    Reasoning is removed; if it was never closed, all of the rest is reasoning, and a draft in it is not an
    answer. Raw control characters inside strings are accepted (vLLM writes them); duplicate keys, NaN,
    infinities, depth over 16 and texts over 256 KiB are not.

    Raises:
        ValueError: There is no such object; the message says what was wrong, without quoting the text.
    """
    if len(text) > MAX_ANSWER:
        raise ValueError(f"longer than {MAX_ANSWER // 1024} KiB")
    text = text.strip()
    try:
        return _load(text)  # as a whole first: a string in it may contain what looks like a reasoning tag
    except ValueError:
        answer = final_part(text)
        # An object inside a list is not an answer surrounded by prose.
        spans = [] if answer.startswith("[") else list(_find_objects(answer))
        if not spans or answer[slice(*spans[-1])] == text:
            raise
    # A draft may precede the answer: the last object counts, unless an earlier one with its keys differs.
    objects = [answer[slice(*span)] for span in spans]
    data = _load(objects[-1])
    if any(_contradicts(data, other) for other in objects[:-1]):
        raise ValueError("two objects that say different things")
    return data


def final_part(text: str) -> str:
    """A model's final answer, without its reasoning; empty if the reasoning was never closed.

    Models mark reasoning in many ways. Whatever the word: text between an opening marker such as
    ``<reasoning>`` or ``<|START_THINKING|>`` and a closing one is a draft.
    """
    answer = strip_thinking(text).strip()
    spans = list(_find_objects(answer))
    return "" if spans and _ends_in_draft(answer[: spans[-1][0]]) else answer


def whole_number(value: Any) -> int | None:
    """The whole number that a value clearly means: 3, and also 3.0 and "3"; None for anything else.

    Models write such forms without guided decoding. Nothing is rounded, and words are not read as numbers.
    """
    if type(value) is int:  # not isinstance: True is an int in Python
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else None


def _load(text: str) -> dict[str, Any]:
    # These messages are sent back to the model when it is asked again: their wording is part of a prompt.
    try:
        data: Any = json.loads(
            text, strict=False, object_pairs_hook=_reject_duplicate_keys, parse_constant=_reject_constant
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos}") from error
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    if _depth(data) > MAX_DEPTH:
        raise ValueError("nested too deeply")
    return data  # pyright: ignore[reportUnknownVariableType]


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a key stands twice")
    return data


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is no value")


def _depth(data: Any) -> int:
    """How deep objects and lists are nested, including ``data`` itself."""
    # A loop, not recursion: the text comes from a model and may be nested deeper than Python's stack.
    deepest, stack = 0, [(data, 1)]
    while stack:
        node, level = stack.pop()
        deepest = max(deepest, level)
        children = cast(list[Any], list(node.values()) if isinstance(node, dict) else node)
        stack += [(child, level + 1) for child in children if isinstance(child, dict | list)]
    return deepest


def _ends_in_draft(text: str) -> bool:
    """Whether the last marker of a text opens something that is not the answer."""
    marks = list(_MARKER.finditer(text))
    if not marks:
        return False
    mark = "".join(marks[-1][0].split())
    if mark[1] == "/" or mark.endswith("|>") > mark.startswith("<|"):  # </reasoning>, <channel|>
        return False
    if mark == "<|message|>":
        return not text[: marks[-1].start()].endswith("final")
    return _ANSWER_WORDS.isdisjoint(re.split(r"[^a-z0-9]+", mark.lower()))


def _contradicts(data: dict[str, Any], other: str) -> bool:
    """Whether another object has the same keys but different values."""
    try:
        other_data = _load(other)
    except ValueError:
        return False
    return sorted(other_data) == sorted(data) and other_data != data


def _find_objects(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each balanced ``{…}`` at top level; braces inside strings do not count."""
    start, depth, quoted, escaped = 0, 0, False, False
    for position, char in enumerate(text):
        if quoted:
            quoted, escaped = escaped or char != '"', char == "\\" and not escaped
        elif char == '"' and depth:
            quoted = True
        elif char == "{":
            start = position if depth == 0 else start
            depth += 1
        elif char == "}" and depth:
            depth -= 1
            if depth == 0:
                yield start, position + 1
