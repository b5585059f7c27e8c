"""People's texts use the field's words: a word of the table is named with its place and a better one."""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROMPT_TEXT = ("meta/gate.py", "meta/margins.py", "loop/meta_step.py", "alarms/alarms.py", "sandbox/")
"""Modules with text for models, or patterns of what models write: other words would change the answers."""
FILES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "docs/reference/library.md", "examples/**/*.md", "mpo_lite/**/*.py")
    for path in ROOT.glob(pattern)
    if not any(str(path.relative_to(ROOT)).startswith(f"mpo_lite/{module}") for module in PROMPT_TEXT)
)
"""What is read: the Markdown that people write, and strings and comments of the modules."""

BETTER = {
    r"mend(s|ed|ing)?": "fix",
    r"anew|afresh": "again",
    r"of late": "recent",
    r"(told|tells?|telling) (\w+ )?apart": "distinguish",
    r"(counted|chosen|rated|named|kept) apart": "separately",
    r"for good": "permanently, or for the rest of the run",
    r"li(e|es) (in|at|on|under|below)": "is in",
    r"sa(id|ys?) (it )?else": "unless it is set",
    r"beside": "next to, or in addition to",
    r"likewise": "also, or say what is the same",
    r"dear": "expensive",
    r"at hand": "existing",
    r"to the end": "to the last step",
    r"(go|goes|going|gone|went) on": "resume, or continue",
    r"in force": "current",
    r"judgments?": "judgement",
    r"liv(e|es|ing) off": "exploit",
    r"talked round": "persuade",
    r"turn(s|ed)? round": "reverse",
    r"held against|holds \w+( of \w+)? against": "check against",
    r"looks? after": "manage",
    r"trained along": "jointly trained",
    r"taken out": "removed",
    r"in (the )?place of": "instead of",
    r"same bits": "bit-identical",
    r"(the )?(fewest|least) words": "minimum length",
    r"one's own": "your own",
    r"errs?": "makes errors",
    r"lest|shall|upon|unto|whilst|amongst|hitherto|henceforth": "plain English",
    r"where(of|in|by)|there(of|in|by)": "plain English",
    r"(is|are|was|were) had|be had": "is available, or could be downloaded",
    r"see to": "check",
    r"learnt|unlearnt": "learned",
    r"time-outs?": "timeout",
}
"""Word, as a pattern between word boundaries → what the field says instead."""
WORDS = [(re.compile(rf"\b(?:{word})\b", re.IGNORECASE), better) for word, better in BETTER.items()]


def markdown(text: str) -> Iterator[tuple[int, str]]:
    """Numbered lines of what people wrote: no code, no quoted messages (lines of ``>``), no link targets."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith(">"):
            yield number, _NOT_PROSE.sub("``", line)


_NOT_PROSE = re.compile(r"`[^`]*`|(?<=\])\([^)]*\)")


def python(text: str) -> Iterator[tuple[int, str]]:
    """Numbered texts of a module: its strings, docstrings among them, and its comments."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from enumerate(node.value.splitlines(), node.lineno)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


READERS: dict[str, Callable[[str], Iterator[tuple[int, str]]]] = {".md": markdown, ".py": python}


def found(path: Path, text: str) -> list[str]:
    """Each word of the table in a text: where it is, and what to write."""
    return [
        f"{path}:{number}: {match[0]!r}, better: {better}"
        for number, line in sorted(READERS[path.suffix](text))
        for word, better in WORDS
        for match in word.finditer(line)
    ]


def joined(text: str) -> list[tuple[int, str]]:
    """Lines of Markdown with more than one sentence; a bold lead-in is none, and tables are left alone."""
    end = re.compile(r"(?<!e\.g\.)(?<!i\.e\.)(?<=[^\W_][.!?]|[)`”\"%…*][.!?])\s+(?=[A-Z`“\"(\[*])")
    return [
        (number, line) for number, line in markdown(text) if not line.startswith("|") and end.search(line)
    ]


def of_file(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=of_file)
def test_the_words_are_the_fields(path: Path) -> None:
    assert not found(path.relative_to(ROOT), path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".md"], ids=of_file)
def test_a_sentence_is_a_line(path: Path) -> None:
    """A change of one sentence is then a change of one line."""
    text = path.read_text(encoding="utf-8")
    assert not joined(text)
    assert not [number for number, line in enumerate(text.splitlines(), 1) if line != line.rstrip()]


def test_words_are_found_where_people_write_them() -> None:
    page = "Fine.\n```\nmend\n```\n> mend\n`mend` and [a link](mend.md)\nIt mends. The reward of late.\n"
    assert found(Path("a.md"), page) == [
        "a.md:7: 'mends', better: fix",
        "a.md:7: 'of late', better: recent",
    ]
    module = '"""Fine.\n\nLies in a folder."""\nmend = 1  # beside it\nprint(f"{mend} anew")\n'
    assert [line.partition(", ")[0] for line in found(Path("a.py"), module)] == [
        "a.py:3: 'Lies in'",
        "a.py:4: 'beside'",
        "a.py:5: 'anew'",
    ]


def test_sentences_are_told_from_abbreviations() -> None:
    assert joined("One. Two.\n| One. Two. |\n- **Lead.** One, e.g. This.\nAt 3.5 GB.\n") == [(1, "One. Two.")]
