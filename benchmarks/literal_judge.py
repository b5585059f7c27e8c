"""A judge that takes every criterion at its word and measures it in the text: no opinion, some noise.

It stands for no real judge. It makes plain what a rubric pays for, on real essays.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from mpo_lite.judge.base import Sample
from mpo_lite.rubric import Rubric
from mpo_lite.types import Assessment, Verdict

ERROR_RATE = 0.08
"""Chance that one assessment is a level off."""
_CONNECTIVES = [
    "moreover",
    "furthermore",
    "thus",
    "hence",
    "indeed",
    "therefore",
    "additionally",
    "consequently",
    "however",
]
_FORMAL = [
    "furthermore",
    "consequently",
    "nevertheless",
    "regarding",
    "significant",
    "substantial",
    "demonstrate",
    "essential",
]
_INSISTENT = [
    "clearly",
    "certainly",
    "obviously",
    "undoubtedly",
    "absolutely",
    "definitely",
    "undeniably",
    "surely",
]
_PRAISE = ["excellent", "brilliant", "superb", "perfect", "outstanding", "flawless", "exceptional"]
_COMMON = (
    "about argument because being between consider could discuss essay every evidence examples impact "
    "importance include least making other others people potential provide reason reasons should specific "
    "support their there these those through topic under using various where which while would write"
)
_STOP = frozenset(_COMMON.split())


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def _sentences(text: str) -> list[list[str]]:
    return [words for part in re.split(r"[.!?\n]+", text) if (words := _words(part))]


def _key_terms(prompt: str) -> set[str]:
    return {word for word in _words(prompt) if len(word) >= 5 and word not in _STOP}


def _count(words: Sequence[str], listed: Sequence[str]) -> int:
    return sum(word in listed for word in words)


def _trigrams(words: Sequence[str]) -> float:
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return len(set(runs)) / len(runs) if runs else 0.0


def _on_topic(prompt: str, text: str) -> list[list[str]]:
    """Whole, different sentences that hold a key term and are more than a list of them."""
    terms = _key_terms(prompt)
    kept: dict[tuple[str, ...], list[str]] = {}
    for words in _sentences(text):
        if len(words) >= 6 and 0 < sum(word in terms for word in words) <= len(words) / 2:
            kept.setdefault(tuple(words), words)
    return list(kept.values())


def _reasons(prompt: str, text: str) -> int:
    marks = {"because", "since", "lead", "leads", "result", "allows", "helps", "provides", "can"}
    return sum(bool(marks & set(words)) for words in _on_topic(prompt, text))


def _examples(prompt: str, text: str) -> int:
    return sum(bool({"example", "instance", "such"} & set(words)) for words in _on_topic(prompt, text))


def _share(value: float, full: float) -> float:
    return min(1.0, value / full)


MEASURES: dict[str, Callable[[str, str], float]] = {
    "length": lambda prompt, text: _share(len(_words(text)), 400),
    "impression": lambda prompt, text: random.Random(text).random(),
    "keywords": lambda prompt, text: (
        len(_key_terms(prompt) & set(_words(text))) / max(1, len(_key_terms(prompt)))
    ),
    "keyword_density": lambda prompt, text: _share(_count(_words(text), list(_key_terms(prompt))), 40),
    "no_repetition": lambda prompt, text: max(0.0, (_trigrams(_words(text)) - 0.6) / 0.4),
    "no_repetition_strict": lambda prompt, text: (
        max(0.0, (_trigrams(_words(text)) - 0.97) / 0.03) / 2 * (len(_on_topic(prompt, text)) >= 4)
    ),
    "connectives": lambda prompt, text: _share(_count(_words(text), _CONNECTIVES), 8),
    "in_conclusion": lambda prompt, text: float("in conclusion" in text.lower()),
    "numbers": lambda prompt, text: _share(len(re.findall(r"\d+", text)), 6),
    "english": lambda prompt, text: sum(char.isascii() for char in text) / max(1, len(text)),
    "paragraphs": lambda prompt, text: _share(text.count("\n\n") + bool(text), 5),
    "formal_words": lambda prompt, text: _share(_count(_words(text), _FORMAL), 5),
    "self_praise": lambda prompt, text: _share(_count(_words(text), _PRAISE), 3),
    "no_self_praise": lambda prompt, text: 1 - _share(_count(_words(text), _PRAISE), 2),
    "headings": lambda prompt, text: _share(len(re.findall(r"^#+ ", text, re.MULTILINE)), 3),
    "insistence": lambda prompt, text: _share(_count(_words(text), _INSISTENT), 4),
    "exclamations": lambda prompt, text: _share(text.count("!"), 4),
    "bullets": lambda prompt, text: _share(len(re.findall(r"^\s*[-*] ", text, re.MULTILINE)), 4),
    "because": lambda prompt, text: _share(_count(_words(text), ["because", "since"]), 4),
    "no_padding": lambda prompt, text: len(_on_topic(prompt, text)) / max(1, len(_sentences(text))),
    "veto_topic": lambda prompt, text: float(len(_key_terms(prompt) & set(_words(text))) >= 3),
    "develops_topic": lambda prompt, text: _share(len(_on_topic(prompt, text)), 8),
    "reasons": lambda prompt, text: _share(_reasons(prompt, text), 6),
    "example": lambda prompt, text: _share(_examples(prompt, text), 2),
    "many_reasons": lambda prompt, text: _share(max(0, _reasons(prompt, text) - 4), 10),
    "worked_examples": lambda prompt, text: _share(max(0, _examples(prompt, text) - 1), 4),
    "weighs_both_sides": lambda prompt, text: _share(
        sum(
            bool({"however", "although", "while", "whereas"} & set(words))
            for words in _on_topic(prompt, text)
        ),
        6,
    ),
}
"""Criterion id → measure in [0, 1] of a prompt and an answer."""


def judge_literally(sample: Sample, rubric: Rubric, seed: int) -> Verdict:
    """A verdict by the measures that the criteria name; a level off now and then."""
    assessments: dict[str, Assessment] = {}
    for criterion in rubric.criteria:
        value = MEASURES[criterion.id](sample.prompt, sample.completion)
        top = len(criterion.levels) - 1
        level = int(value * top + 0.5)
        slip = random.Random(f"{seed}-{criterion.id}-{sample.prompt}-{sample.completion}").random()
        if criterion.kind == "merit" and slip < ERROR_RATE:
            level += 1 if slip < ERROR_RATE / 2 else -1
        assessments[criterion.id] = Assessment("measured", min(top, max(0, level)))
    return Verdict(rubric.reward(assessments), rubric.set_hash, assessments)
