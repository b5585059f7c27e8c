"""Metrics of the built-in tasks. Each takes a completion and its data row, and gives a number in [0, 1].

``row["reference"]`` is what the task's ``data.reference`` names: a text, or a list of texts any of which is
right.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from statistics import fmean
from typing import Any, TypeVar, cast

from mpo_lite.tasks import symbolic
from mpo_lite.tasks.verify import boxed, same_answer

F = TypeVar("F", bound=Callable[..., float])

_TAG = re.compile(r"<verdict>\s*(\w+)\s*</verdict>", re.IGNORECASE)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ROUGE = ("rouge1", "rouge2", "rougeL")


def _prepared_by(prepare: Callable[[], None]) -> Callable[[F], F]:
    """Has a metric carry what is to be called once before it is used in a run."""

    def mark(metric: F) -> F:
        setattr(metric, "prepare", prepare)  # noqa: B010  pyright knows of no attributes of functions
        return metric

    return mark


@_prepared_by(symbolic.start)
def math_answer(completion: str, row: Mapping[str, Any]) -> float:
    """Whether the last boxed answer is the one boxed in the reference solution (or the reference itself)."""
    reference = str(row["reference"])
    expected, given = boxed(reference), boxed(completion)
    return float(given is not None and same_answer(given, reference if expected is None else expected))


def verdict_tag(completion: str, row: Mapping[str, Any]) -> float:
    """Whether the last ``<verdict>…</verdict>`` is the reference's label."""
    given = _TAG.findall(completion)
    return float(bool(given) and given[-1].upper() == str(row["reference"]).strip().upper())


def rouge(completion: str, row: Mapping[str, Any]) -> float:
    """Mean of the F1 scores of ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004; ``rouge-score``, with stemming)."""
    scores = [_rouge().score(reference, completion) for reference in _references(row)]
    return max(fmean(score[name].fmeasure for name in _ROUGE) for score in scores)


def exact_match(completion: str, row: Mapping[str, Any]) -> float:
    """Whether the completion is one of the references, case, articles and punctuation aside (SQuAD)."""
    return float(_plain(completion) in map(_plain, _references(row)))


def token_f1(completion: str, row: Mapping[str, Any]) -> float:
    """F1 of the words that completion and reference share, for the best of the references (SQuAD)."""
    return max(_shared(_plain(completion).split(), _plain(one).split()) for one in _references(row))


def _shared(given: list[str], wanted: list[str]) -> float:
    if not given or not wanted:
        return float(given == wanted)
    common = (Counter(given) & Counter(wanted)).total()
    return 2 * common / (len(given) + len(wanted))


def _plain(text: str) -> str:
    """Lower case, without punctuation and articles (Rajpurkar et al. 2016)."""
    bare = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def _references(row: Mapping[str, Any]) -> list[str]:
    reference: Any = row["reference"]
    texts = cast(list[Any], reference) if isinstance(reference, list) else [reference]
    return [str(text) for text in texts] or [""]


@cache
def _rouge() -> Any:
    from rouge_score import rouge_scorer  # pyright: ignore[reportMissingTypeStubs]

    return rouge_scorer.RougeScorer(list(_ROUGE), use_stemmer=True)
