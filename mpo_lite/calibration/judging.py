"""Judging for a calibration: every answer, some of them again, and texts that should earn nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from mpo_lite.calibration.labels import LabelledData, LabelledRow
from mpo_lite.calibration.tricks import TEXTS, plant_tricks
from mpo_lite.errors import CallFailed, FailureKind
from mpo_lite.judge.base import Sample, gather_with_deadline
from mpo_lite.judge.breaker import FailureTally
from mpo_lite.judge.groupwise import GroupwiseJudge
from mpo_lite.judge.panel import Panel, combine_verdicts
from mpo_lite.judge.pool import ModelPool
from mpo_lite.meta.sentinels import PlantedAnswer
from mpo_lite.offline import judge_twice, wait_for_models
from mpo_lite.rubric import Rubric
from mpo_lite.tasks.rules import rule_verdict
from mpo_lite.tasks.spec import Task
from mpo_lite.types import Verdict

CHUNK = 256
"""Answers that are judged together; after each chunk the failures are checked."""
Order = tuple[str, tuple[float, float], tuple[float, float]]
AGAIN = "again-"
"""Draw of the second judgements."""


@dataclass(frozen=True)
class Judgement:
    """An answer as judged.

    Attributes:
        verdict: What it would earn in training.
        by_judge: Judge or replicate → its verdict; empty where a rule decided.
    """

    verdict: Verdict
    by_judge: dict[str, Verdict]

    @property
    def failure(self) -> FailureKind | None:
        """Why it was not judged; None if it was."""
        return self.verdict.failure

    @property
    def detail(self) -> str:
        """Details of the failure."""
        return self.verdict.detail


@dataclass(frozen=True)
class Judged:
    """Everything that a calibration measures.

    Attributes:
        data: The labelled rows.
        answers: For each row, the judgements of its answers.
        probed: Places of the rows that were judged again and tried with tricks.
        again: For each of these, second judgements of its answers at the judge's temperature.
        planted: Known tricks, tried on the first answers of these rows.
        tricks: Their verdicts.
        orders: Of pairs that a groupwise judge was shown in both orders: the prompt, and the rewards of the
            answers in the order shown, first for (a, b) and then for (b, a).
    """

    data: LabelledData
    answers: list[list[Judgement]]
    probed: list[int]
    again: list[list[Judgement]]
    planted: list[PlantedAnswer]
    tricks: list[Verdict]
    orders: list[Order]


def choose_probed(data: LabelledData, count: int, seed: int) -> list[int]:
    """Places of the rows to judge again and to try tricks on: drawn by the seed, each with another prompt."""
    places = list(range(len(data.rows)))
    random.Random(f"calibrate-{seed}").shuffle(places)
    by_prompt: dict[str, int] = {}
    for place in places:
        by_prompt.setdefault(data.rows[place].prompt, place)
    return sorted(list(by_prompt.values())[:count])


def count_judgements(data: LabelledData, probes: int, task: Task) -> int:
    """How many answers ``judge_labelled`` has judged if so many rows are probed."""
    per_row = len(data.rows[0].answers)
    return len(data.rows) * per_row + probes * (per_row + len(TEXTS) + len(task.shortcuts))


def judge_labelled(
    models: ModelPool,
    task: Task,
    rubric: Rubric,
    data: LabelledData,
    probed: Sequence[int],
    max_failures: float,
    advance: Callable[[int], None] = lambda count: None,
) -> Judged:
    """Has all answers judged, and what else a calibration needs.

    Args:
        models: The judge.
        task: Its rules decide first, as in training.
        rubric: What to judge by.
        data: Labelled rows.
        probed: Places of the rows to judge again and to try tricks on.
        max_failures: See ``Config.max_judge_failures``.
        advance: Called with the number of answers judged.

    Raises:
        StopRun: A cap is reached, the judge rejects calls permanently, or too little was judged.
    """
    judge = partial(judge_rows, models, task, rubric, advance=advance)
    rows = [data.rows[place] for place in probed]
    answers, again = judge(data.rows, max_failures), judge(rows, draw=AGAIN)
    honest = [answers[place][0].verdict.reward for place in probed]
    planted = plant_tricks([row.answers[0] for row in rows], honest, rubric, task.shortcuts)
    # Of these any share may fail: a judge that declines to judge tricks is not down.
    samples = [answer.sample for answer in planted]
    tricks = [judgement.verdict for judgement in _judge_all(models, task, rubric, samples, advance=advance)]
    orders = wait_for_models(lambda: _judge_orders(models, rubric, rows)) if data.kind == "pairs" else []
    return Judged(data, answers, list(probed), again, planted, tricks, orders)


def judge_rows(
    models: ModelPool,
    task: Task,
    rubric: Rubric,
    rows: Sequence[LabelledRow],
    max_failures: float | None = None,
    draw: str = "",
    advance: Callable[[int], None] = lambda count: None,
) -> list[list[Judgement]]:
    """For each row, the judgements of its answers; see ``judge_labelled``."""
    samples = [answer for row in rows for answer in row.answers]
    judged = iter(_judge_all(models, task, rubric, samples, max_failures, draw, advance))
    return [[next(judged) for _ in row.answers] for row in rows]


def _judge_all(
    models: ModelPool,
    task: Task,
    rubric: Rubric,
    samples: Sequence[Sample],
    max_failures: float | None = None,
    draw: str = "",
    advance: Callable[[int], None] = lambda count: None,
) -> list[Judgement]:
    judged: list[Judgement] = []
    for start in range(0, len(samples), CHUNK):
        chunk = samples[start : start + CHUNK]
        judged += judge_twice(lambda part: _judge(models, task, rubric, part, draw), chunk)
        advance(len(chunk))
        if max_failures is not None and (tally := FailureTally.of(judged[start:], max_failures)).broken:
            tally.check("answer")
    if max_failures is not None:
        FailureTally.of(judged, max_failures).check("answer")
    return judged


def _judge(
    models: ModelPool, task: Task, rubric: Rubric, samples: Sequence[Sample], draw: str
) -> list[Judgement]:
    by_rule = [rule_verdict(sample.completion, rubric.set_hash, task.rules) for sample in samples]
    undecided = [sample for sample, verdict in zip(samples, by_rule, strict=True) if verdict is None]
    judge = models.judge(draw=draw, is_sampled=False)

    async def ask() -> list[dict[str, Verdict]]:
        if isinstance(judge, Panel):
            return await judge.verdicts_by_judge(undecided, rubric)
        return [{models.judged_by: verdict} for verdict in await judge.verdicts(undecided, rubric)]

    judged = iter(wait_for_models(ask))
    return [Judgement(verdict, {}) if verdict else _combine(next(judged)) for verdict in by_rule]


def _combine(by_judge: dict[str, Verdict]) -> Judgement:
    verdict = combine_verdicts(by_judge) if len(by_judge) > 1 else next(iter(by_judge.values()))
    return Judgement(verdict, by_judge)


async def _judge_orders(models: ModelPool, rubric: Rubric, rows: Sequence[LabelledRow]) -> list[Order]:
    """Rewards of pairs that the first judge, if groupwise, is shown in both orders; failures are left out."""
    judge = models.judge()
    single = next(iter(judge.members.values())) if isinstance(judge, Panel) else judge
    if not isinstance(single, GroupwiseJudge):
        return []

    async def judge_order(shown: Sequence[Sample]) -> tuple[float, float] | None:
        try:
            first, second = await models.client.ask(single.build_call(shown, rubric))
        except CallFailed:
            return None
        return rubric.reward(first), rubric.reward(second)

    works = [judge_order(order) for row in rows for order in (row.answers, row.answers[::-1])]
    rewards = await gather_with_deadline(works, None, "orders of pairs")
    both = zip(rows, rewards[::2], rewards[1::2], strict=True)
    return [(row.prompt, there, back) for row, there, back in both if there and back]
