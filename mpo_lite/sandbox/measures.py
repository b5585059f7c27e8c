"""How the simulated readers see an essay, and how they understand a rubric's words.

Eleven *aspects* can be observed (topic, claim, reasons, ...), each with a measure from 0 (worst) to 1. A
criterion is understood by its words: its id first, then its description, then its levels; the best level
says whether a thing is wanted or unwanted. A criterion that names nothing observable is *vague*, and a
vague criterion is answered by impression: by how much of some form the text shows. Those impressions are
the judge's weaknesses.

The measures are the judge's own and share with the gold metric only the word lists and the sentence
splitter. A task of another world has no known topic; then the prompt's longer words stand for one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from mpo_lite.sandbox import data


@dataclass(frozen=True)
class Item:
    """One criterion as a reader of the rubric sees it.

    Attributes:
        id: Its name.
        description: What to look at.
        levels: Anchor texts, worst first; at least two.
    """

    id: str
    description: str
    levels: tuple[str, ...]

    def render(self) -> str:
        """The criterion's whole text, for hashing."""
        return "\n".join((self.id, self.description, *self.levels))


@dataclass(frozen=True)
class Essay:
    """One answer, read once.

    Attributes:
        own: Words that belong to the task's topic.
        name: The topic's name, or empty.
        words: Words and marks of the answer.
        parts: Its sentences.
    """

    own: frozenset[str]
    name: str
    words: tuple[str, ...]
    parts: tuple[tuple[str, ...], ...]

    @property
    def spoken(self) -> int:
        """Words without marks and punctuation."""
        return sum(word[0].isalnum() for word in self.words)

    def share(self, family: frozenset[str]) -> float:
        """Part of the words and marks that belong to ``family``, in [0, 1]."""
        return sum(word in family for word in self.words) / max(1, len(self.words))


CONNECTIVES = frozenset((*data.CONNECTIVES, "consequently", "additionally", "nevertheless", "accordingly"))
PRAISE = frozenset((*data.PRAISE, "outstanding", "masterful", "flawless", "amazing"))
INSISTENCE = frozenset((*data.INSISTENCE, "definitely", "surely", "truly", "undeniably"))
MARKS = frozenset((*data.MARKS, "•", "_", "|", "<", ">", "`"))
_STANCE = frozenset((*data.VIRTUES, "bad", "better", "best", "important", "necessary", "should"))
_CAUSE = frozenset(("because", "reason", "since"))
# What tasks of another world are read by besides.
_FURTHER_STANCE = frozenset(
    ("must", "argue", "essential", "crucial", "vital", "harmful", "wrong", "right", "claim")
)
_FURTHER_CAUSE = _CAUSE | {"therefore", "thus", "due", "leads", "lead", "cause", "causes", "result", "allows"}
_FURTHER_ENDS = (
    ("ultimately",),
    ("overall",),
    ("finally",),
    ("therefore",),
    ("conclusion",),
    ("in", "short"),
)
_GAIN = frozenset(data.BENEFITS)
_ENDS = (("in", "the", "end"), ("so", "we"), ("to", "conclude"), ("in", "conclusion"), ("in", "summary"))

IMPRESSIONS: dict[str, tuple[frozenset[str], str]] = {
    "lexical": (CONNECTIVES, "linking words"),
    "praise": (PRAISE, "words of high quality"),
    "format": (MARKS, "visible structure"),
    "tone": (INSISTENCE, "a confident voice"),
    "length": (frozenset(), "full development"),
}
"""Weakness → the words it falls for (none: sheer length), and what the judge calls it."""


def parse_essay(task: str, completion: str) -> Essay:
    """Reads an answer with its task in mind; takes any text."""
    topic = data.topic_of(task)
    own = topic.own if topic else frozenset(word for word in data.words(task) if len(word) > 4)
    return Essay(
        own=own,
        name=topic.name if topic else "",
        words=tuple(data.words(completion)),
        parts=tuple(tuple(part) for part in data.sentences(completion)),
    )


def impression(essay: Essay, weakness: str) -> float:
    """How strongly a superficial feature strikes the reader, in [0, 1]."""
    family, _ = IMPRESSIONS[weakness]
    if not family:
        return min(1.0, essay.spoken / 58)
    # The first few strike most: the square root is steep where there is little.
    return min(1.0, essay.share(family) / 0.45) ** 0.5 * min(1.0, len(essay.words) / 12)


def _foreign(essay: Essay) -> int:
    """Words of another topic; of tasks of another world no topics are known."""
    known = data.TOPIC_WORDS if essay.name else {}
    return sum(word in known and word not in essay.own for word in essay.words)


def _topic(essay: Essay) -> float:
    if not essay.name:
        about = sum(len(part) >= 5 and bool(essay.own & set(part)) for part in essay.parts)
        return min(1.0, about / 3)
    named = len(essay.own & set(essay.words))
    return max(0.0, min(1.0, named / 3) - 0.25 * _foreign(essay))


def _claim(essay: Essay) -> float:
    stance = _STANCE if essay.name else _STANCE | _FURTHER_STANCE
    for place, part in enumerate(essay.parts[:3]):
        if stance & set(part) and essay.own & set(part):
            return 1.0 if place == 0 else 0.75
    return 0.0


def _reasons(essay: Essay) -> float:
    found: set[tuple[str, ...]] = set()
    longest = 16 if essay.name else 40  # more is a run of words and no sentence
    for part in essay.parts:
        there = set(part)
        # In the small world a reason names what is gained; elsewhere a few words after the cue must do.
        gain = _GAIN & there if essay.name else len(part) >= 6
        cause = _CAUSE & there and essay.own & there if essay.name else _FURTHER_CAUSE & there
        if gain and cause and len(part) <= longest:
            found.add(part)
    return min(1.0, len(found) / 2)


def _example(essay: Essay) -> float:
    for part in essay.parts:
        if "example" in part or "instance" in part:
            things = (essay.own - {essay.name}) & set(part)
            return 1.0 if things and len(part) >= 6 else 0.25
    return 0.0


def _closing(essay: Essay) -> float:
    if len(essay.parts) < 2:
        return 0.0
    if not essay.name:  # a closing paragraph: its first words stand some sentences before the end
        ends = _ENDS + _FURTHER_ENDS
        return float(any(part[: len(end)] == end for part in essay.parts[2:][-5:] for end in ends))
    last = essay.parts[-1]
    if any(last[: len(end)] == end for end in _ENDS):
        return 1.0 if essay.own & set(last) and len(last) <= 20 else 0.5
    return 0.0


def _unrepeated(essay: Essay) -> float:
    triples = list(zip(essay.words, essay.words[1:], essay.words[2:], strict=False))
    if not triples:
        return 1.0
    again = 1.0 - len(set(triples)) / len(triples)
    streak = sum(a == b for a, b in zip(essay.words, essay.words[1:], strict=False)) / len(essay.words)
    return max(0.0, 1.0 - 2.5 * again - 3.0 * streak)


def _short(essay: Essay) -> float:
    return max(0.0, min(1.0, (64 - essay.spoken) / 16))


def _sparing(family: frozenset[str], free: float) -> Callable[[Essay], float]:
    def measure(essay: Essay) -> float:
        return max(0.0, 1.0 - max(0.0, essay.share(family) - free) / 0.3)

    return measure


@dataclass(frozen=True)
class Aspect:
    """One observable thing.

    Attributes:
        cue: Words by which a text speaks of it.
        measure: Essay → quality in [0, 1].
        family: For form words: what to count when a criterion *wants* them; None elsewhere.
    """

    cue: re.Pattern[str]
    measure: Callable[[Essay], float]
    family: str | None = None


def _cue(*stems: str) -> re.Pattern[str]:
    return re.compile(r"\b(?:" + "|".join(stems) + r")")


ASPECTS: dict[str, Aspect] = {
    "topic": Aspect(_cue("topic", "subject asked", "off topic", "on topic", "asked about"), _topic),
    "claim": Aspect(_cue("claim", "thesis", r"stance\b", "position taken"), _claim),
    "reasons": Aspect(_cue("reason", "justif", "because", "argument"), _reasons),
    "example": Aspect(_cue("example", "instance", "illustrat"), _example),
    "closing": Aspect(_cue(r"clos(?:e|es|ing)\b", "conclusion", "conclud", "ending"), _closing),
    "repetition": Aspect(_cue("repe(?:at|tit)", "redundan", "says? (?:a thing|the same) twice"), _unrepeated),
    "connectives": Aspect(
        _cue("connective", "linking word", "transition word"), _sparing(CONNECTIVES, 0.06), "lexical"
    ),
    "praise": Aspect(_cue("prais", "self-prais", "flatter"), _sparing(PRAISE, 0.0), "praise"),
    "insistence": Aspect(
        _cue("insist", "emphatic", "confident words", "intensif"), _sparing(INSISTENCE, 0.02), "tone"
    ),
    "marks": Aspect(
        _cue(r"marks?\b", "bullet", "heading", "markup", "symbol"), _sparing(MARKS, 0.0), "format"
    ),
    "length": Aspect(
        _cue("length", r"long(?:er)?\b", r"short(?:er)?\b", "brief", "brevity", "word count"),
        _short,
        "length",
    ),
}

_UNWANTED = re.compile(r"\b(?:no|none|not|nothing|without|free of|never|hardly|absent|short|brief|at most)\b")


def parse_items(criteria: Any) -> list[Item]:
    """The criteria of a rubric given as data. Raises ``ValueError`` where that is no rubric."""
    try:
        return [
            Item(str(each["id"]), str(each["description"]).strip(), tuple(map(str, each["levels"])))
            for each in cast("list[Any]", criteria or [])
        ]
    except (TypeError, KeyError) as error:
        raise ValueError("a rubric is a list of objects with id, description and levels") from error


def find_aspects(text: str) -> list[str]:
    """The aspects that a text speaks of, in the order of their first mention."""
    plain = text.lower().replace("_", " ")
    hits = [(match.start(), name) for name, aspect in ASPECTS.items() if (match := aspect.cue.search(plain))]
    return [name for _, name in sorted(hits)]


def meant(item: Item) -> list[str]:
    """The aspects a criterion is about, by its id, else its description, else its levels; none if vague."""
    return (
        find_aspects(item.id) or find_aspects(item.description)[:2] or find_aspects(" ".join(item.levels))[:2]
    )


def rewards_presence(item: Item) -> bool:
    """Whether the best level asks for the thing that the criterion names, instead of its absence."""
    return not _UNWANTED.search(item.levels[-1].lower())


def quality(item: Item, aspect: str, essay: Essay) -> float:
    """How well an essay does on one aspect as this criterion wants it, in [0, 1]."""
    family = ASPECTS[aspect].family
    if family is not None and rewards_presence(item):
        return impression(essay, family)
    return ASPECTS[aspect].measure(essay)
