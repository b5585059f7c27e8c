"""What a judge is, the form of a verdict that all judges share, and how a batch of them ends in time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from math import inf
from typing import Any, Protocol, TypeVar, cast

from mpo_lite.activity import activity
from mpo_lite.llm.structured_output import Schema, object_schema, whole_number
from mpo_lite.rubric import Rubric
from mpo_lite.types import Assessment, Verdict

MAX_REASON = 2000
"""Characters of a reason that are kept."""
REASON_CHARS = 300
"""Characters of a reason that are asked for: without a bound, small models ramble up to the token limit."""
TOKENS_PER_REASON, TOKENS_PER_REPLY = 160, 64
"""Room for a reason with its level, and for what is around them. Half of a reason's characters: English takes
a quarter, other scripts more; what is cut all the same is asked for again with twice the room."""
LONGEST_BATCH = 9
"""A batch that keeps getting verdicts may take so many times the silence that ends one."""

REASON: Schema = {"type": "string", "maxLength": REASON_CHARS}

T = TypeVar("T")
_log = logging.getLogger(__name__)


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


async def gather_with_deadline(
    works: Sequence[Awaitable[T]],
    late: T,
    unit: str = "",
    silence_s: float | None = None,
    heard_at: Callable[[], float] = lambda: -inf,
) -> list[T]:
    """Runs all works at once.

    Args:
        works: What to run; an error of one of them ends all.
        late: Stands in place of those that are given up.
        unit: What a work judges, in the plural, for those who show progress; empty where the works mark
            their own.
        silence_s: Seconds without any result after which those that are not done are given up; so they are
            after ``LONGEST_BATCH`` times as long in any case. None waits for all.
        heard_at: When a result was last seen elsewhere, on the loop's clock: batches that share a backend
            wait for each other.

    Returns:
        One result per work, in order.
    """
    loop = asyncio.get_running_loop()
    tasks = [asyncio.ensure_future(work) for work in works]
    began = last = loop.time()

    def left() -> float | None:
        if silence_s is None:
            return None
        return min(max(last, heard_at()) + silence_s, began + LONGEST_BATCH * silence_s) - loop.time()

    # One alone, such as an answer that is judged while others are generated, is shown by who waits for it.
    with activity("judging", len(tasks), unit) if unit and len(tasks) > 1 else nullcontext() as shown:

        def count(_: object) -> None:
            nonlocal last
            last = loop.time()
            if shown:
                shown.advance()

        for task in tasks:
            task.add_done_callback(count)
        pending = set(tasks)
        try:
            while pending and ((seconds := left()) is None or seconds > 0):
                done, pending = await asyncio.wait(
                    pending, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION
                )
                for task in done:
                    task.result()  # raises what ended it
            return [task.result() if task.done() else late for task in tasks]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def reply_token_limit(reasons: int) -> int:
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


def parse_verdict(data: Mapping[str, Any], rubric: Rubric, model: str = "") -> dict[str, Assessment]:
    """Checks a verdict against its rubric.

    Args:
        data: The model's object.
        rubric: What was judged by.
        model: Who judged, for a notice where levels are no JSON integers.

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
        number = whole_number(level)
        if number is None or not 0 <= number < len(criterion.levels):
            raise ValueError(
                f"{criterion.id}: the level must be a whole number from 0 to {len(criterion.levels) - 1}"
            )
        if type(level) is not int:
            _tell_of_levels(model)
        verdict[criterion.id] = Assessment(reason[:MAX_REASON], number)
    return verdict


@cache  # once per model
def _tell_of_levels(model: str) -> None:
    _log.warning(
        '%s writes levels as "3" or 3.0 instead of 3; they are accepted if they name exactly one level',
        model,
    )
