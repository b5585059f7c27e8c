"""Responses that are nearly the same although their prompts differ."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import chain

from mpo_lite.alarms.features import ResponseFeatures

ALIKE = 0.6
"""Jaccard similarity of two responses that are near duplicates."""

_Shingle = tuple[str, ...]
_Answer = tuple[str, frozenset[_Shingle]]
"""A prompt, and the shingles of a response to it."""


def near_duplicates(rows: Sequence[ResponseFeatures]) -> set[str]:
    """Ids of responses that have a near duplicate among the responses to other prompts.

    Only responses that share some of their rarest shingles are compared: of two sets whose Jaccard similarity
    is t or more, the |x| - ⌈t·|x|⌉ + k rarest elements of each have k in common (prefix filtering; Chaudhuri,
    Ganti & Kaushik 2006; Wang, Li & Feng 2012).
    """
    equal: defaultdict[_Answer, list[str]] = defaultdict(list)
    for row in rows:
        equal[row.prompt, row.shingles].append(row.id)
    answers = list(equal)
    frequency = Counter(shingle for _, shingles in answers for shingle in shingles)
    common = [max(1, len(shingles) // 10) for _, shingles in answers]  # k
    rarest: list[list[_Shingle]] = []
    holders: defaultdict[_Shingle, list[int]] = defaultdict(list)
    for place, (_, shingles) in enumerate(answers):
        ranked = sorted(shingles, key=lambda shingle: (frequency[shingle], shingle))
        rarest.append(ranked[: len(ranked) - math.ceil(ALIKE * len(ranked) - 1e-9) + common[place]])
        for shingle in rarest[place]:
            holders[shingle].append(place)
    twins: set[int] = set()
    for place, answer in enumerate(answers):
        if place in twins:
            continue
        shared = Counter(chain.from_iterable(holders[shingle] for shingle in rarest[place]))
        matches = {
            other
            for other, count in shared.items()
            if count >= min(common[place], common[other]) and _are_alike(answer, answers[other])
        }
        twins |= matches | {place} if matches else set()
    return {name for place in twins for name in equal[answers[place]]}


def _are_alike(one: _Answer, other: _Answer) -> bool:
    if one[0] == other[0]:
        return False  # answers to one prompt may be alike
    both = len(one[1] & other[1])
    return both >= ALIKE * (len(one[1]) + len(other[1]) - both)
