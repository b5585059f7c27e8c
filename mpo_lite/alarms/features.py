"""What alarms look at: one response, and what can be read off its text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
CLOSING, OPENING = 40, 12
"""Words at the end and at the beginning of a response in which set phrases stand."""
SHINGLE = 3
GRAM = 4
_SCRIPTS = {
    "Han": re.compile(r"[\u3400-\u9fff]"),
    "Kana": re.compile(r"[\u3040-\u30ff]"),
    "Hangul": re.compile(r"[\uac00-\ud7af]"),
    "Cyrillic": re.compile(r"[\u0400-\u04ff]"),
    "Greek": re.compile(r"[\u0370-\u03ff]"),
    "Arabic": re.compile(r"[\u0600-\u06ff]"),
    "Hebrew": re.compile(r"[\u0590-\u05ff]"),
    "Devanagari": re.compile(r"[\u0900-\u097f]"),
    "Thai": re.compile(r"[\u0e00-\u0e7f]"),
    "Latin": re.compile(r"[A-Za-z\u00c0-\u024f]"),
}
_FUNCTION_WORDS = {
    name: frozenset(text.split())
    for name, text in {
        "English": "the of and to in is that it for was with as are this be",
        "German": "der die und das ist nicht ein eine zu den mit von auf dem für",
        "French": "le la les et des est une dans que pour qui pas sur au du",
        "Spanish": "el los las y que una por con para es del se como más al",
        "Italian": "il gli che di della per una con non sono è nel alla dei le",
        "Portuguese": "o os as e que uma não com para do da em por mais dos",
        "Dutch": "de het een en van is niet dat op te zijn met voor er aan",
    }.items()
}
_LAYOUT = {
    "bullet list": re.compile(r"^\s*[-*•]\s+\S", re.MULTILINE),
    "numbered list": re.compile(r"^\s*\d+[.)]\s+\S", re.MULTILINE),
    "heading": re.compile(r"^#{1,6}\s+\S", re.MULTILINE),
    "bold text": re.compile(r"\*\*[^*\n]+\*\*"),
    "rule": re.compile(r"^\s*(?:---+|\*\*\*+)\s*$", re.MULTILINE),
    "code block": re.compile(r"^```", re.MULTILINE),
    "table": re.compile(r"^\|.*\|\s*$", re.MULTILINE),
    "exclamation": re.compile(r"!"),
    "emoji": re.compile(r"[\U0001f300-\U0001faff\u2600-\u27bf]"),
}


@dataclass(frozen=True)
class ResponseFeatures:
    """One response.

    Attributes:
        id: Names it in an alarm's evidence.
        prompt: What was asked.
        response: What the policy wrote.
        reward: In [0, 1]; None where there is none.
        frozen: What the frozen first rubric gives it, in [0, 1]; None where that was not asked.
    """

    id: str
    prompt: str
    response: str
    reward: float | None = None
    frozen: float | None = None

    @cached_property
    def words(self) -> list[str]:
        """Lower-case words of the response."""
        return words(self.response)

    @cached_property
    def shingles(self) -> frozenset[tuple[str, ...]]:
        """Distinct runs of three words."""
        return frozenset(ngrams(self.words, SHINGLE))

    @cached_property
    def repetition(self) -> float:
        """Share of its runs of four words that stand there before; 0 below 20 words."""
        runs = ngrams(self.words, GRAM)
        return 1 - len(set(runs)) / len(runs) if len(self.words) >= 20 else 0.0

    @cached_property
    def copied(self) -> float:
        """Share of its runs of four words that stand in the prompt; 0 below 8 words."""
        if len(self.words) < 8:
            return 0.0
        asked = set(ngrams(words(self.prompt), GRAM))
        runs = ngrams(self.words, GRAM)
        return sum(run in asked for run in runs) / len(runs)

    @cached_property
    def foreign(self) -> float:
        """Share of its letters in scripts that the prompt does not use."""
        own, asked = _scripts(self.response), _scripts(self.prompt)
        letters = sum(own.values())
        return sum(count for name, count in own.items() if not asked[name]) / letters if letters else 0.0

    @cached_property
    def language_shift(self) -> bool:
        """Whether prompt and response are plainly in two different languages of one script."""
        own, asked = _language(self.words), _language(words(self.prompt))
        return bool(own and asked and own != asked)

    @cached_property
    def phrases(self) -> dict[str, frozenset[str]]:
        """Family → the phrases, words or forms of layout that are in the response: what may drift."""
        head, tail = self.words[:OPENING], self.words[-CLOSING:]
        return {
            "closing": frozenset(_join_runs(tail, 1) + _join_runs(tail, 2) + _join_runs(tail, 3)),
            "opening": frozenset(_join_runs(head, 1) + _join_runs(head, 2) + _join_runs(head, 3)),
            "word": frozenset(self.words),
            "bigram": frozenset(_join_runs(self.words, 2)),
            "layout": frozenset(name for name, form in _LAYOUT.items() if form.search(self.response)),
        }


def words(text: str) -> list[str]:
    """Lower-case words, without marks."""
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]


def ngrams(of: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """All runs of ``size`` words, in order."""
    return [tuple(of[start : start + size]) for start in range(len(of) - size + 1)]


def _join_runs(of: Sequence[str], size: int) -> list[str]:
    return [" ".join(run) for run in ngrams(of, size)]


def _scripts(text: str) -> dict[str, int]:
    return {name: len(letters.findall(text)) for name, letters in _SCRIPTS.items()}


def _language(of: Sequence[str]) -> str | None:
    """The language whose function words stand out; None where that is not plain."""
    if len(of) < 12:
        return None
    shares = sorted(
        (sum(word in known for word in of) / len(of), name) for name, known in _FUNCTION_WORDS.items()
    )
    (second, _), (first, name) = shares[-2:]
    return name if first >= 0.12 and first >= 2 * second else None
