r"""Whether two mathematical answers in LaTeX are the same: ``\frac12`` and ``0.5``, ``(0, 1]`` and ``(0,1]``.

Texts are normalised first. Lists, tuples, intervals and matrices are compared part by part, in order, because
``math-verify`` considers ``3,4`` and ``4,3`` equal; numbers as fractions; the rest by ``math-verify``
(SymPy). Numbers with a base are compared as written, because it reads ``11_2`` as ``11``.

Known limits: roots listed without brackets are wrong in another order; sets in braces are right in any. An
answer with words in it must be exactly those words. What SymPy cannot decide in time counts as different.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from mpo_lite.tasks.symbolic import are_equal

_LONGEST = 300
"""Characters up to which an answer is parsed; longer ones must be the same text."""
_SPACES = re.compile(r"\\[,;:!> ]|\\q?quad|~|\s+")
_WORDS = re.compile(r"\\(?:text|mbox|textbf|textit|mathrm|mathbf)\s*\{([^{}]*)\}")
_UNIT = re.compile(r"(?<=[\d}\)])\\(?:text|mbox|mathrm)\s*\{[^{}]*\}(?:\^\{?\d\}?)?")
_SHORT_FRACTION = re.compile(r"\\frac\s*(?:(\d)\s*(\d)|(\d)\s*\{([^{}]*)\}|\{([^{}]*)\}\s*(\d))")
_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:(?:,|\{,\})\d{3})+(?![\d])")
_ASSIGNED = re.compile(r"^[a-zA-Z](?:_\{?\w\}?)?=(?![=<>])")
_BASE = re.compile(r"_\{?\d+\}?$")
_NUMBER = re.compile(r"(-?)(\d*\.?\d+|\d+\.)$")
_RATIO = re.compile(r"(-?)(?:\\frac\{(-?\d+)\}\{(-?\d+)\}|(\d+)/(\d+))$")
_MIXED = re.compile(r"(-?)(\d+)\\frac\{(\d+)\}\{(\d+)\}$")
_MATRIX = re.compile(r"\\begin\{([pb])matrix\}(.*)\\end\{\1matrix\}$")
_WORDY = re.compile(r"(?<!\\)(?<![a-zA-Z\\])[a-zA-Z]{3,}")
_NEW_ROW = "\x00"
"""Replaces the two backslashes that end a row, which would look like an escaped space."""
_OPENING, _CLOSING = "([{", ")]}"


def last_boxed(text: str) -> str | None:
    r"""The content of the last ``\boxed{…}`` of a text, with matched braces; None if missing or unclosed."""
    start = max(text.rfind(r"\boxed"), text.rfind(r"\fbox"))
    if start < 0:
        return None
    rest = text[start:].split("boxed" if text.startswith(r"\boxed", start) else "fbox", 1)[1].lstrip()
    if not rest.startswith("{"):  # \boxed 5
        return rest.split()[0].rstrip("$.,") if rest.strip() else None
    depth = 0
    for place, char in enumerate(rest):
        escaped = place > 0 and rest[place - 1] == "\\"
        depth += (char == "{" and not escaped) - (char == "}" and not escaped)
        if depth == 0:
            return rest[1:place]
    return None


def same_answer(answer: str, expected: str) -> bool:
    """Whether an answer is the expected one, in any notation.

    Raises:
        NotCompared: SymPy crashed on them; see ``mpo_lite.tasks.symbolic``.
        TaskError: SymPy cannot be started.
    """
    return _is_same(_normalize(answer), _normalize(expected))


def _is_same(left: str, right: str) -> bool:
    if left == right:
        return True
    if max(len(left), len(right)) > _LONGEST or _BASE.search(left) or _BASE.search(right):
        return False
    if (parts := _collection_parts(left)) or _collection_parts(right):
        return _have_same_parts(parts, _collection_parts(right))
    if "=" in left or "=" in right:
        sides = left.split("="), right.split("=")
        return len(sides[0]) == len(sides[1]) and all(map(_is_same, *sides))
    if (number := _exact_number(left)) is not None and (other := _exact_number(right)) is not None:
        return number == other
    if _WORDY.search(left) or _WORDY.search(right):
        return left.lower() == right.lower()
    return _is_equal(*sorted((left, right)))  # sorted: math-verify is not symmetric


@lru_cache(maxsize=4096)
def _is_equal(left: str, right: str) -> bool:
    return are_equal(left, right)


def _have_same_parts(left: tuple[str, list[str]] | None, right: tuple[str, list[str]] | None) -> bool:
    """Whether two collections have the same kind and parts, in the same order; sets in any order."""
    if left is None or right is None or left[0] != right[0] or len(left[1]) != len(right[1]):
        return False
    if left[0] not in ("set", "union"):
        return all(map(_is_same, left[1], right[1]))
    unmatched = list(right[1])
    for part in left[1]:
        match = next((candidate for candidate in unmatched if _is_same(part, candidate)), None)
        if match is None:
            return False
        unmatched.remove(match)
    return True


def _collection_parts(text: str) -> tuple[str, list[str]] | None:
    """The kind of a collection and its parts; None for a single value."""
    if matrix := _MATRIX.match(text):
        rows = [row.split("&") for row in matrix[2].split(_NEW_ROW) if row]
        return f"matrix {[len(row) for row in rows]}", [cell for row in rows for cell in row]
    if len(union := _split_outside_brackets(text, (r"\cup",))) > 1:
        return "union", union
    if text.startswith(r"\{") and text.endswith(r"\}"):
        return "set", _split_outside_brackets(text[2:-2], (",",))
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and _closing_bracket(text) == len(text) - 1:
        inner = _split_outside_brackets(text[1:-1], (",",))
        return (text[0] + text[-1], inner) if len(inner) > 1 else None
    members = _split_outside_brackets(text, (",",))
    return ("list", members) if len(members) > 1 else None


def _split_outside_brackets(text: str, separators: Sequence[str]) -> list[str]:
    """Splits at separators that are outside of all brackets."""
    parts, depth, start, place = list[str](), 0, 0, 0
    while place < len(text):
        depth += (text[place] in _OPENING) - (text[place] in _CLOSING)
        separator = next((sign for sign in separators if depth == 0 and text.startswith(sign, place)), None)
        if separator:
            parts.append(text[start:place])
            start = place = place + len(separator)
        else:
            place += 1
    return [*parts, text[start:]]


def _closing_bracket(text: str) -> int:
    """Where the bracket that the text opens with closes; ``(`` may close with ``]``, as in an interval."""
    depth = 0
    for place, char in enumerate(text):
        depth += (char in "([") - (char in ")]")
        if depth == 0:
            return place
    return -1


def _exact_number(text: str) -> Fraction | None:
    """A whole number, decimal, fraction or mixed number, exactly."""
    if match := _NUMBER.match(text):
        return Fraction(match[1] + match[2].rstrip("."))
    if (match := _RATIO.match(text)) and int(match[3] or match[5]):
        value = Fraction(int(match[2] or match[4]), int(match[3] or match[5]))
        return -value if match[1] else value
    if (match := _MIXED.match(text)) and int(match[4]):
        value = int(match[2]) + Fraction(int(match[3]), int(match[4]))
        return -value if match[1] else value
    return None


def _normalize(text: str) -> str:
    """Normalises notation: no spaces, no units, no bracket sizes, complete fractions."""
    text = text.strip().strip("$").rstrip(".")
    for command in (r"\left", r"\right", r"\displaystyle", r"\limits"):
        text = re.sub(re.escape(command) + r"(?![a-zA-Z])", "", text)
    text = text.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac").replace(r"\cfrac", r"\frac")
    text = text.replace(r"\%", "").replace("%", "").replace(r"\$", "").replace("$", "")
    text = re.sub(r"\^\{?\\circ\}?|\\degree|°", "", text)
    text = text.replace("\\\\", _NEW_ROW)
    text = _UNIT.sub("", _SPACES.sub("", text))
    text = _WORDS.sub(r"\1", text)
    text = re.sub(r"\\sqrt(\w)", r"\\sqrt{\1}", text)
    text = _SHORT_FRACTION.sub(_complete_fraction, text)
    text = _THOUSANDS.sub(lambda match: re.sub(r"[,{}]", "", match[0]), text)
    text = re.sub(r"_\{(\w)\}", r"_\1", _ASSIGNED.sub("", text))
    text = text.replace("−", "-").replace(r"\cdot", r"\times")
    letter = re.fullmatch(r"\(([A-Za-z])\)", text)
    return letter[1] if letter else text


def _complete_fraction(match: re.Match[str]) -> str:
    first, second = [part for part in match.groups() if part is not None]
    return rf"\frac{{{first}}}{{{second}}}"
