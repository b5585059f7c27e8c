"""Metrics of the built-in tasks. Each takes a completion and its data row, and returns a number in [0, 1].

``row["reference"]`` is the value of the task's ``data.reference``: text, or a list of texts any of which is
correct.
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
from mpo_lite.tasks.verify import last_boxed, same_answer

F = TypeVar("F", bound=Callable[..., float])

_TAG = re.compile(r"<verdict>\s*(\w+)\s*</verdict>", re.IGNORECASE)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ROUGE = ("rouge1", "rouge2", "rougeL")


def _prepare_with(prepare: Callable[[], None]) -> Callable[[F], F]:
    """Attaches to a metric what has to be called once before it is used in a run."""

    def mark(metric: F) -> F:
        setattr(metric, "prepare", prepare)  # noqa: B010  pyright does not know function attributes
        return metric

    return mark


@_prepare_with(symbolic.start)
def math_answer(completion: str, row: Mapping[str, Any]) -> float:
    """Whether the last boxed answer is the one boxed in the reference solution (or the reference itself)."""
    reference = str(row["reference"])
    expected, answer = last_boxed(reference), last_boxed(completion)
    return float(answer is not None and same_answer(answer, reference if expected is None else expected))


def verdict_tag(completion: str, row: Mapping[str, Any]) -> float:
    """Whether the last ``<verdict>…</verdict>`` is the reference's label."""
    tags = _TAG.findall(completion)
    return float(bool(tags) and tags[-1].upper() == str(row["reference"]).strip().upper())


def rouge(completion: str, row: Mapping[str, Any]) -> float:
    """Mean of the F1 scores of ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004; ``rouge-score``, with stemming)."""
    scores = [_rouge().score(reference, completion) for reference in _references(row)]
    return max(fmean(score[name].fmeasure for name in _ROUGE) for score in scores)


def exact_match(completion: str, row: Mapping[str, Any]) -> float:
    """Whether the completion is one of the references, case, articles and punctuation aside (SQuAD)."""
    return float(_normalize(completion) in map(_normalize, _references(row)))


def token_f1(completion: str, row: Mapping[str, Any]) -> float:
    """F1 of the words that completion and reference share, for the best of the references (SQuAD)."""
    return max(
        _f1(_normalize(completion).split(), _normalize(reference).split()) for reference in _references(row)
    )


def _f1(answer: list[str], expected: list[str]) -> float:
    if not answer or not expected:
        return float(answer == expected)
    common = (Counter(answer) & Counter(expected)).total()
    return 2 * common / (len(answer) + len(expected))


def _normalize(text: str) -> str:
    """Lower case, without punctuation and articles (Rajpurkar et al. 2016)."""
    unpunctuated = "".join(char for char in text.lower() if char not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", unpunctuated).split())


def _references(row: Mapping[str, Any]) -> list[str]:
    reference: Any = row["reference"]
    texts = cast(list[Any], reference) if isinstance(reference, list) else [reference]
    return [str(text) for text in texts] or [""]


@cache
def _rouge() -> Any:
    from rouge_score import rouge_scorer  # pyright: ignore[reportMissingTypeStubs]

    return rouge_scorer.RougeScorer(list(_ROUGE), use_stemmer=True)
