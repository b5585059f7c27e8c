r"""Whether two mathematical answers in LaTeX are the same: ``\frac12`` and ``0.5``, ``(0, 1]`` and ``(0,1]``.

Texts are made plain first; lists, tuples, intervals and matrices are compared part by part, in order, because
``math-verify`` takes ``3,4`` for ``4,3``; numbers as fractions; the rest by ``math-verify`` (SymPy). Numbers
in a stated base are compared as they are written, because it takes ``11_2`` for ``11``.

Known limits: roots listed without brackets are wrong in another order; sets in braces are right in any. An
answer with words in it must be those words. What SymPy cannot decide within some seconds is not the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from mpo_lite.tasks.symbolic import equal

_LONGEST = 300
"""Characters of an answer that are looked into; longer ones must be the same text."""
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
"""Stands for the two backslashes that end a row, which a space may follow."""
_OPENING, _CLOSING = "([{", ")]}"


def boxed(text: str) -> str | None:
    r"""What the last ``\boxed{…}`` of a text holds, braces matched; None without one, or where it is open."""
    start = max(text.rfind(r"\boxed"), text.rfind(r"\fbox"))
    if start < 0:
        return None
    rest = text[start:].split("boxed" if text.startswith(r"\boxed", start) else "fbox", 1)[1].lstrip()
    if not rest.startswith("{"):  # \boxed 5
        return rest.split()[0].rstrip("$.,") if rest.strip() else None
    depth = 0
    for place, sign in enumerate(rest):
        escaped = place > 0 and rest[place - 1] == "\\"
        depth += (sign == "{" and not escaped) - (sign == "}" and not escaped)
        if depth == 0:
            return rest[1:place]
    return None


def same_answer(given: str, expected: str) -> bool:
    """Whether an answer is the expected one, in whatever form.

    Raises:
        NotCompared: SymPy came to an end over them; see ``mpo_lite.tasks.symbolic``.
        TaskError: SymPy cannot be started.
    """
    return _same(_plain(given), _plain(expected))


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    if max(len(one), len(other)) > _LONGEST or _BASE.search(one) or _BASE.search(other):
        return False
    if (parts := _parts(one)) or _parts(other):
        return _same_parts(parts, _parts(other))
    if "=" in one or "=" in other:
        sides = one.split("="), other.split("=")
        return len(sides[0]) == len(sides[1]) and all(map(_same, *sides))
    if (left := _number(one)) is not None and (right := _number(other)) is not None:
        return left == right
    if _WORDY.search(one) or _WORDY.search(other):
        return one.lower() == other.lower()
    return _equal(*sorted((one, other)))  # math-verify tells a right from a given answer; equality does not


@lru_cache(maxsize=4096)
def _equal(one: str, other: str) -> bool:
    return equal(one, other)


def _same_parts(one: tuple[str, list[str]] | None, other: tuple[str, list[str]] | None) -> bool:
    """Whether two collections are of one kind and hold the same, in the same order; sets in any."""
    if one is None or other is None or one[0] != other[0] or len(one[1]) != len(other[1]):
        return False
    if one[0] not in ("set", "union"):
        return all(map(_same, one[1], other[1]))
    left = list(other[1])
    for part in one[1]:
        found = next((each for each in left if _same(part, each)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _parts(text: str) -> tuple[str, list[str]] | None:
    """The kind of a collection and its members; None for a single value."""
    if matrix := _MATRIX.match(text):
        rows = [row.split("&") for row in matrix[2].split(_NEW_ROW) if row]
        return f"matrix {[len(row) for row in rows]}", [cell for row in rows for cell in row]
    if len(union := _split(text, (r"\cup",))) > 1:
        return "union", union
    if text.startswith(r"\{") and text.endswith(r"\}"):
        return "set", _split(text[2:-2], (",",))
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and _closes(text) == len(text) - 1:
        inner = _split(text[1:-1], (",",))
        return (text[0] + text[-1], inner) if len(inner) > 1 else None
    members = _split(text, (",",))
    return ("list", members) if len(members) > 1 else None


def _split(text: str, separators: Sequence[str]) -> list[str]:
    """The parts between separators that stand outside of all brackets."""
    parts, depth, start, place = list[str](), 0, 0, 0
    while place < len(text):
        depth += (text[place] in _OPENING) - (text[place] in _CLOSING)
        found = next((one for one in separators if depth == 0 and text.startswith(one, place)), None)
        if found:
            parts.append(text[start:place])
            start = place = place + len(found)
        else:
            place += 1
    return [*parts, text[start:]]


def _closes(text: str) -> int:
    """Where the bracket closes that the text opens with; ``(`` may close with ``]``, as in an interval."""
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in "([") - (sign in ")]")
        if depth == 0:
            return place
    return -1


def _number(text: str) -> Fraction | None:
    """A whole number, decimal, fraction or mixed number, exactly."""
    if found := _NUMBER.match(text):
        return Fraction(found[1] + found[2].rstrip("."))
    if (found := _RATIO.match(text)) and int(found[3] or found[5]):
        value = Fraction(int(found[2] or found[4]), int(found[3] or found[5]))
        return -value if found[1] else value
    if (found := _MIXED.match(text)) and int(found[4]):
        value = int(found[2]) + Fraction(int(found[3]), int(found[4]))
        return -value if found[1] else value
    return None


def _plain(text: str) -> str:
    """One way of writing: no spaces, no units, no sizes of brackets, whole fractions."""
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
    text = _SHORT_FRACTION.sub(_whole_fraction, text)
    text = _THOUSANDS.sub(lambda found: re.sub(r"[,{}]", "", found[0]), text)
    text = re.sub(r"_\{(\w)\}", r"_\1", _ASSIGNED.sub("", text))
    text = text.replace("−", "-").replace(r"\cdot", r"\times")
    letter = re.fullmatch(r"\(([A-Za-z])\)", text)
    return letter[1] if letter else text


def _whole_fraction(found: re.Match[str]) -> str:
    first, second = [part for part in found.groups() if part is not None]
    return rf"\frac{{{first}}}{{{second}}}"
