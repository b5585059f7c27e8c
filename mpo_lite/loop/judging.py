"""Judging samples by the current rubric: rules first, then what is under way already, then the judge."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from itertools import islice

from mpo_lite.errors import EndpointError, JudgeDown
from mpo_lite.judge.base import Sample, gather_with_deadline, group_by_prompt
from mpo_lite.llm import event_loop
from mpo_lite.loop.session import Session
from mpo_lite.tasks.rules import rule_verdict
from mpo_lite.types import Verdict

JudgingUnit = tuple[Sample, ...]
"""What one call judges: a completion, or a prompt's whole group where the judge compares."""
PendingVerdicts = dict[JudgingUnit, Future[list[Verdict]]]
"""Judgements under way."""


def judge_samples(
    session: Session, samples: Sequence[Sample], pending: PendingVerdicts | None = None
) -> list[Verdict]:
    """Judges samples by the current rubric.

    Args:
        session: The run.
        samples: N answers; those to one prompt stand together.
        pending: Judgements that are under way already; those of other samples are cancelled.

    Returns:
        N verdicts in order.

    Raises:
        StopRun: A cap is reached, the judge rejects calls permanently, or the user stops the run.
    """
    session.raise_if_interrupted()
    pending = pending or {}
    verdicts = [verdict_by_rule(session, sample) for sample in samples]
    undecided = [row for row, verdict in enumerate(verdicts) if verdict is None]
    units = list(judging_units(session, [samples[row] for row in undecided]))
    try:
        judged = event_loop.wait(_judge_units(session, units, pending), session.raise_if_interrupted)
    except EndpointError as error:
        raise JudgeDown(str(error)) from None
    finally:
        for verdicts_to_come in pending.values():
            verdicts_to_come.cancel()
        session.context.warn_near_caps()
    by_judge = dict(zip(undecided, judged, strict=True))
    return [verdict or by_judge[row] for row, verdict in enumerate(verdicts)]


async def _judge_units(
    session: Session, units: Sequence[JudgingUnit], pending: PendingVerdicts
) -> list[Verdict]:
    """The verdicts of all units in order; what is not under way yet is asked for in one call of the judge."""
    fresh = [sample for unit in units if unit not in pending for sample in unit]
    begun = [asyncio.wrap_future(pending[unit]) for unit in units if unit in pending]
    noun = "groups of answers" if session.config.judge_mode == "groupwise" else "answers"
    fresh_verdicts, begun_verdicts = await asyncio.gather(
        session.judge.verdicts(fresh, session.rubric),
        gather_with_deadline(begun, list[Verdict](), noun),
    )
    new, prefetched = iter(fresh_verdicts), iter(begun_verdicts)
    return [
        verdict
        for unit in units
        for verdict in (next(prefetched) if unit in pending else islice(new, len(unit)))
    ]


def verdict_by_rule(session: Session, sample: Sample) -> Verdict | None:
    """The verdict of the task's rules, which need no judge; None where they leave it to the judge."""
    return rule_verdict(sample.completion, session.rubric.set_hash, session.task.rules)


def judging_units(session: Session, samples: Sequence[Sample]) -> Iterator[JudgingUnit]:
    """The samples as they are judged together, in order."""
    if session.config.judge_mode == "groupwise":
        yield from map(tuple, group_by_prompt(samples, session.config.group_size))
    else:
        yield from ((sample,) for sample in samples)
