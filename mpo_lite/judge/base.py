"""The judge protocol and its cost, the verdict format that all judges share, and the deadline of a batch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import groupby
from math import inf
from typing import Any, Protocol, TypeVar, cast

from mpo_lite.activity import activity
from mpo_lite.llm.structured_output import Schema, object_schema, whole_number
from mpo_lite.prompts import Block, fence_blocks
from mpo_lite.rubric import Rubric
from mpo_lite.types import Assessment, Example, Verdict

MAX_REASON = 2000
"""Characters of a reason that are kept."""
REASON_CHARS = 300
"""Characters of a reason that are asked for: without a limit, small models ramble up to the token limit."""
TOKENS_PER_REASON, TOKENS_PER_REPLY = 160, 64
"""Tokens for a reason with its level, and for what surrounds them: about half a token per character. English
needs a quarter, other scripts more; a truncated reply is requested again with twice the limit."""
LONGEST_BATCH = 9
"""A batch that keeps getting verdicts may take this many times the silence that ends one."""

EXAMPLES = (
    "# Examples\n\nPeople have labelled these answers to other tasks. They show how strict to be; your reply "
    "is still by the rubric alone."
)

REASON: Schema = {"type": "string", "maxLength": REASON_CHARS}

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """What is judged.

    Attributes:
        prompt: A task prompt.
        completion: One answer to it.
        cluster: The cluster of the prompt, or empty.
        reference: A correct answer for the judge to compare with, or empty.
        truncated: The answer was cut off at the policy's token limit.
        shortened: The middle of prompt or completion was left out, to fit the judge's context.
    """

    prompt: str
    completion: str
    cluster: str = ""
    reference: str = ""
    truncated: bool = False
    shortened: bool = False


class Judge(Protocol):
    """Anything that judges samples by a rubric."""

    @property
    def cost(self) -> CallCost:
        """How many calls its judgements take."""
        ...

    async def verdicts(self, samples: Sequence[Sample], rubric: Rubric) -> list[Verdict]:
        """Judges all samples at once.

        Args:
            samples: N samples; the completions of one prompt are adjacent.
            rubric: What to judge by.

        Returns:
            N verdicts in the same order; those of failed judgements have no reward.

        Raises:
            StopRun: A cap is reached, or the judge cannot be used any more.
        """
        ...


def shorten_sample(sample: Sample) -> Sample:
    """Removes the middle half of a sample's longest text, for a model whose context it does not fit.

    The judge is told how much is missing. Beginning and end stay, where a text shows what it is.
    """
    # Of two equally long texts, the answer is shortened: a judge that knows the task can do with less of it.
    name = max(("completion", "prompt", "reference"), key=lambda name: len(getattr(sample, name)))
    text: str = getattr(sample, name)
    kept = len(text) // 4
    gap = f"\n[… {len(text) - 2 * kept} characters left out …]\n"
    return replace(sample, shortened=True, **{name: text[:kept] + gap + text[len(text) - kept :]})


def task_blocks(instructions: str, prompt: str, reference: str = "") -> list[Block]:
    """What a judge, or the meta-judge, is shown of a task; texts that are empty are left out.

    Args:
        instructions: What the policy is asked around each prompt; see ``Brief``.
        prompt: The task prompt.
        reference: A correct answer to it.
    """
    asked = "What the writer of an answer was asked; [task] stands for the task below:"
    correct = "A reference answer, correct but not the only way to answer; the writer did not see it:"
    blocks = (
        Block(asked, "instructions", instructions),
        Block("The task:", "task", prompt),
        Block(correct, "reference", reference),
    )
    return [block for block in blocks if block.text or block.tag == "task"]


def example_text(examples: Sequence[Example], key: bytes) -> str:
    """What a judge by a rubric is shown of labelled examples, after the rubric; empty without any.

    Args:
        examples: Labelled answers.
        key: The secret of the cache directory.
    """
    if not examples:
        return ""
    blocks: list[Block] = []
    for number, example in enumerate(examples, start=1):
        blocks.append(Block(f"Example {number}. The task:", "example_task", example.prompt))
        names = ("The answer:",) if len(example.answers) == 1 else ("The first answer:", "The second answer:")
        answers = zip(names, example.answers, strict=True)
        blocks += [Block(name, "example_answer", answer) for name, answer in answers]
        blocks.append(Block("What people said of it:", "example_label", example.label))
    return f"\n\n{EXAMPLES}\n\n{fence_blocks(blocks, key)}"


def answer_block(sample: Sample, name: str) -> Block:
    """An answer under its name, with a note if it is not whole."""
    notes = ["cut off at the length limit, so its end is missing"] if sample.truncated else []
    if sample.shortened:
        notes.append("a line in square brackets marks where we left out text to make room")
    lead = f"{name} ({'; '.join(notes)}):" if notes else f"{name}:"
    return Block(lead, "completion", sample.completion)


async def gather_with_deadline(
    works: Sequence[Awaitable[T]],
    late: T,
    unit: str = "",
    silence_s: float | None = None,
    heard_at: Callable[[], float] = lambda: -inf,
) -> list[T]:
    """Runs awaitables concurrently, with a deadline that moves as long as results come in.

    Args:
        works: What to run; an error in one of them cancels all.
        late: Result of those that miss the deadline.
        unit: What each of them judges, in the plural, for the progress display; empty: shown elsewhere.
        silence_s: Seconds without any result after which unfinished ones are cancelled; after
            ``LONGEST_BATCH`` times as long they are in any case. None waits for all.
        heard_at: When a result was last seen elsewhere, on the loop's clock: a batch does not time out while
            its backend is busy with another.

    Returns:
        One result per awaitable, in order.
    """
    loop = asyncio.get_running_loop()
    tasks = [asyncio.ensure_future(work) for work in works]
    started = last = loop.time()

    def seconds_left() -> float | None:
        if silence_s is None:
            return None
        # Two limits: on silence, and in all, for a server that lets one answer through now and then.
        return min(max(last, heard_at()) + silence_s, started + LONGEST_BATCH * silence_s) - loop.time()

    # A single one, such as an answer judged while others are generated, is shown by the caller that waits.
    with activity("judging", len(tasks), unit) if unit and len(tasks) > 1 else nullcontext() as progress:

        def note_result(_: object) -> None:
            nonlocal last
            last = loop.time()
            if progress:
                progress.advance()

        for task in tasks:
            task.add_done_callback(note_result)
        pending = set(tasks)
        try:
            while pending and ((timeout_s := seconds_left()) is None or timeout_s > 0):
                done, pending = await asyncio.wait(
                    pending, timeout=timeout_s, return_when=asyncio.FIRST_EXCEPTION
                )
                for task in done:
                    task.result()  # raises if it failed
            return [task.result() if task.done() else late for task in tasks]
        finally:
            # Also after an error or when cancelled: no call may outlive its batch.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def reply_token_limit(reasons: int) -> int:
    """Maximum tokens of a reply with this many reasons."""
    return TOKENS_PER_REPLY + TOKENS_PER_REASON * reasons


def verdict_skeleton(rubric: Rubric) -> str:
    """The form of a verdict, for the prompt: an object with every criterion's reason and range of levels."""
    entries = (
        f'"{criterion.id}": {{"reason": "…", "level": <0 to {len(criterion.levels) - 1}>}}'
        for criterion in rubric.criteria
    )
    return f"{{{', '.join(entries)}}}"


def verdict_schema(rubric: Rubric) -> Schema:
    """Schema of a verdict: per criterion ID a reason, then a level. Cached, so callers must not change it."""
    return _cached_schema(tuple((criterion.id, len(criterion.levels)) for criterion in rubric.criteria))


@lru_cache(maxsize=64)  # thousands of pending calls share one rubric's schema
def _cached_schema(levels: tuple[tuple[str, int], ...]) -> Schema:
    return object_schema(
        {
            # The reason comes first: a level written first would only be justified afterwards.
            name: object_schema({"reason": REASON, "level": {"type": "integer", "enum": list(range(count))}})
            for name, count in levels
        }
    )


def parse_verdict(data: Mapping[str, Any], rubric: Rubric, model: str = "") -> dict[str, Assessment]:
    """Checks a verdict against its rubric.

    Args:
        data: The model's object.
        rubric: The rubric it was judged by.
        model: The judge's model, for a warning if levels are not JSON integers.

    Returns:
        Every criterion's assessment, in the rubric's order.

    Raises:
        ValueError: An ID is missing or unknown, or a level is not a whole number in its criterion's range.
            There is no partial verdict.
    """
    # These messages are sent back to the judge when it is asked again: their wording is part of the prompt.
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
        # Accepted, but worth a warning: the model ignores the schema.
        if type(level) is not int:
            _warn_level_format(model)
        # The schema bounds reasons only under guided decoding.
        verdict[criterion.id] = Assessment(reason[:MAX_REASON], number)
    return verdict


@cache  # once per model
def _warn_level_format(model: str) -> None:
    _log.warning(
        '%s writes levels as "3" or 3.0 instead of 3; they are accepted if they name exactly one level',
        model,
    )


@dataclass(frozen=True)
class CallCost:
    """How many calls judgements take: a property of how a judge works. Retries and repairs are left out.

    Attributes:
        judges: Judges of a panel, replicates included; each makes all the calls.
        group_size: Answers to one prompt that are judged in one call, at most.
        plans: Whether judging takes a plan, one more call for each prompt and rubric.
    """

    judges: int = 1
    group_size: int = 1
    plans: bool = False

    def name_calls(self, samples: Sequence[Sample]) -> list[list[Hashable]]:
        """The calls that each judgement depends on.

        Args:
            samples: N samples that are judged together by one rubric.

        Returns:
            N lists of names. Under one rubric, equal names are the same call, which is made once.
        """
        names: list[list[Hashable]] = []
        for group in group_by_prompt(samples, self.group_size):
            calls: list[tuple[Hashable, ...]] = [("verdicts", *group)]
            if self.plans:
                calls.append(("plan", replace(group[0], completion="", truncated=False)))
            made: list[Hashable] = [(judge, *call) for judge in range(self.judges) for call in calls]
            names += [made] * len(group)
        return names

    def most_calls(self, answers: int, prompts: int, new_prompts: int) -> int:
        """The most calls that judging takes by one rubric, before its samples are known.

        Args:
            answers: Samples that are judged together.
            prompts: Different prompts among them, at most.
            new_prompts: Of these, the ones for which there is no plan by this rubric yet.
        """
        # A prompt's last call may be for a single answer.
        verdicts = min(answers, (answers + prompts * (self.group_size - 1)) // self.group_size)
        return self.judges * (verdicts + self.plans * new_prompts)


def group_by_prompt(samples: Sequence[Sample], size: int) -> list[list[Sample]]:
    """Splits samples into groups of adjacent ones with the same prompt, at most ``size`` each."""
    groups: list[list[Sample]] = []
    for _, neighbours in groupby(samples, key=lambda sample: sample.prompt):
        run = list(neighbours)
        groups += [run[start : start + size] for start in range(0, len(run), size)]
    return groups
