"""What a judge is, the form of a verdict that all judges share, and how a batch of them ends in time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol, TypeVar, cast

from mpo_lite.llm.structured import Schema, object_schema
from mpo_lite.rubric import Rubric
from mpo_lite.types import Assessment, Verdict

MAX_REASON = 2000
"""Characters of a reason that are kept."""
REASON_CHARS = 300
"""Characters of a reason that are asked for: without a bound, small models ramble up to the token limit."""
TOKENS_PER_REASON, TOKENS_PER_REPLY = 160, 64
"""Room for a reason with its level, and for what is around them. A third of a reason's characters, and twice
that for scripts that take more tokens."""

REASON: Schema = {"type": "string", "maxLength": REASON_CHARS}

T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """What is judged: a task prompt, one answer to it, and the cluster of the prompt if it has one."""

    prompt: str
    completion: str
    cluster: str = ""


class Judge(Protocol):
    """Anything that judges samples by a rubric."""

    async def verdicts(self, samples: Sequence[Sample], rubric: Rubric) -> list[Verdict]:
        """Judges all samples at once.

        Args:
            samples: N samples; the completions of one prompt stand together.
            rubric: What to judge by.

        Returns:
            N verdicts in the same order; one without a reward where the judgement failed.

        Raises:
            StopRun: A cap is reached, or the judge refuses for good.
        """
        ...


def shortened(sample: Sample) -> Sample:
    """The sample with half of its longer text left out, from the middle, for a model it does not fit.

    The judge is told what is missing; opening and ending stay, where a text shows what it is.
    """
    name = "completion" if len(sample.completion) >= len(sample.prompt) else "prompt"
    text: str = getattr(sample, name)
    kept = len(text) // 4
    gap = f"\n[… {len(text) - 2 * kept} characters left out …]\n"
    return replace(sample, **{name: text[:kept] + gap + text[len(text) - kept :]})


async def in_time(works: Sequence[Coroutine[Any, Any, T]], seconds: float | None, late: T) -> list[T]:
    """Runs all works at once.

    Args:
        works: What to run; an error of one of them ends all.
        seconds: When to give up those that are not done; None waits for all.
        late: Stands in their place.

    Returns:
        One result per work, in order.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        if tasks:
            await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done() and (error := task.exception()):
                raise error
        return [task.result() if task.done() else late for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def reply_room(reasons: int) -> int:
    """Tokens that a reply with so many reasons may take."""
    return TOKENS_PER_REPLY + TOKENS_PER_REASON * reasons


def verdict_schema(rubric: Rubric) -> Schema:
    """Schema of a verdict: per criterion id a reason, then a level. Shared: not to be changed."""
    return _schema(tuple((criterion.id, len(criterion.levels)) for criterion in rubric.criteria))


@lru_cache(maxsize=64)  # thousands of calls wait with one rubric's schema
def _schema(levels: tuple[tuple[str, int], ...]) -> Schema:
    return object_schema(
        {
            name: object_schema({"reason": REASON, "level": {"type": "integer", "enum": list(range(count))}})
            for name, count in levels
        }
    )


def parse_verdict(data: Mapping[str, Any], rubric: Rubric) -> dict[str, Assessment]:
    """Checks a verdict against its rubric.

    Returns:
        Every criterion's assessment, in the rubric's order.

    Raises:
        ValueError: An id is missing or foreign, or a level is no whole number of its criterion's range. There
            is no partial verdict.
    """
    ids = [criterion.id for criterion in rubric.criteria]
    if sorted(data) != sorted(ids):
        raise ValueError(f"the keys must be exactly: {', '.join(ids)}")
    verdict: dict[str, Assessment] = {}
    for criterion in rubric.criteria:
        entry: Any = data[criterion.id]
        if not isinstance(entry, dict) or set(cast(dict[str, Any], entry)) != {"reason", "level"}:
            raise ValueError(f"{criterion.id}: must hold exactly reason and level")
        reason, level = cast(dict[str, Any], entry)["reason"], cast(dict[str, Any], entry)["level"]
        if not isinstance(reason, str):
            raise ValueError(f"{criterion.id}: the reason must be text")
        # bool is an int in Python, and 2.0 == 2: neither is a level.
        if type(level) is not int or not 0 <= level < len(criterion.levels):
            raise ValueError(
                f"{criterion.id}: the level must be a whole number from 0 to {len(criterion.levels) - 1}"
            )
        verdict[criterion.id] = Assessment(reason[:MAX_REASON], level)
    return verdict
