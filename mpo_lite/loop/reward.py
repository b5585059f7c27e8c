"""From a batch of completions to rewards: rules, journal, judge, breaker, group rule.

A reward is a number in [0, 1] or None. None is what a failed judgement is: TRL leaves such a row out of its
group's baseline and gives it no advantage.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from math import ceil
from typing import TypeVar

from mpo_lite.activity import activity
from mpo_lite.errors import EndpointError, FailureKind, JudgeDown, StopRun
from mpo_lite.jsonl import JsonRow
from mpo_lite.judge.base import Sample, gather_with_deadline
from mpo_lite.judge.breaker import JUDGE_FAILURES, FailureTally
from mpo_lite.llm import event_loop
from mpo_lite.loop.distributed import all_gather, is_main, rank
from mpo_lite.loop.prefetch import JudgingUnit, PendingVerdicts, judging_units
from mpo_lite.loop.session import Session
from mpo_lite.tasks.rules import rule_verdict
from mpo_lite.types import Rollout, Verdict

NOT_VERIFIED = "the verifier broke down over an answer and was started again"
Reward = float | None
T = TypeVar("T")


def judge_samples(
    session: Session, samples: Sequence[Sample], works: PendingVerdicts | None = None
) -> list[Verdict]:
    """Judges samples under the rubric in force, rules first.

    Args:
        session: The run.
        samples: What to judge.
        works: Judgements that are under way already.

    Raises:
        StopRun: A cap is reached, the judge refuses for good, or the user stops the run.
    """
    session.raise_if_interrupted()
    works = works or {}
    verdicts = [_by_rule(session, sample) for sample in samples]
    asked = [row for row, verdict in enumerate(verdicts) if verdict is None]
    parts = list(judging_units(session, [samples[row] for row in asked]))
    try:
        judged = event_loop.wait(_judged(session, parts, works), session.raise_if_interrupted)
    except EndpointError as error:
        raise JudgeDown(str(error)) from None
    finally:
        for work in works.values():
            work.cancel()  # nobody asks for those that are still under way
        session.warn()
    found = dict(zip(asked, judged, strict=True))
    return [verdict or found[row] for row, verdict in enumerate(verdicts)]


async def _judged(session: Session, parts: Sequence[JudgingUnit], works: PendingVerdicts) -> list[Verdict]:
    """The verdicts of all parts, one after the other; what is not under way yet is asked for at once."""
    fresh = [part for part in parts if part not in works]
    begun = [asyncio.wrap_future(works[part]) for part in parts if part in works]
    samples = [sample for part in fresh for sample in part]
    unit = "groups of answers" if session.config.judge_mode == "groupwise" else "answers"
    verdicts, others = await asyncio.gather(
        session.judge.verdicts(samples, session.version.rubric),
        gather_with_deadline(begun, list[Verdict](), unit),
    )
    rest, early = iter(verdicts), iter(others)
    return [
        verdict for part in parts for verdict in (next(early) if part in works else islice(rest, len(part)))
    ]


def score_batch(
    session: Session,
    samples: Sequence[Sample],
    group_size: int,
    works: PendingVerdicts | None = None,
    truncated: Sequence[bool] | None = None,
) -> list[Rollout]:
    """Rewards one generation batch and commits the outcome to the journal before it is used.

    Args:
        session: The run; its batch counter moves on by one.
        samples: This process's share of the batch, as many as any other's; each prompt's ``group_size``
            completions stand together.
        group_size: Completions per prompt, G.
        works: Judgements that are under way already.
        truncated: Of each sample, whether its end was cut off; None where that is not known.

    Returns:
        B rollouts: the whole batch, of all processes in the order of their ranks.

    Raises:
        StopRun: See ``judge_samples``; also when more judgements failed than the breaker allows. Nothing of
            the batch is journalled then, while answers received stay in the cache.
    """
    started = time.monotonic()
    rubric, uses_verifier = session.set_hash, session.uses_verifier
    if set(all_gather((rubric, len(samples)))) != {(rubric, len(samples))}:
        raise RuntimeError(f"batch {session.batch}: the processes differ in their rubrics or shares")
    session.split_budget()
    whole = [each for share in all_gather(_known_or_judged(session, samples, works)) for each in share]
    cut = [each for share in all_gather(list(truncated or [False] * len(samples))) for each in share]
    rewards = drop_thin_groups([verdict.reward for _, verdict, _ in whole], group_size)
    rollouts = [
        Rollout(
            session.batch,
            row,
            sample.prompt,
            sample.completion,
            verdict,
            session.version.number,
            reward,
            sample.cluster,
            truncated=ended_early,
        )
        for row, ((sample, verdict, _), reward, ended_early) in enumerate(
            zip(whole, rewards, cut, strict=True)
        )
    ]
    if is_main():
        session.run.journal(
            rollout for rollout, (_, _, is_new) in zip(rollouts, whole, strict=True) if is_new
        )
    session.batch += 1
    session.batch_row = batch_row(rollouts, group_size) | {
        "batch": session.batch,
        "version": session.version.number,
        "set_hash": rubric,
        "judge": session.models.judged_by if not uses_verifier else "",
        "judge_seconds": round(time.monotonic() - started, 3),
    }
    return rollouts


def _known_or_judged(
    session: Session, samples: Sequence[Sample], works: PendingVerdicts | None
) -> list[tuple[Sample, Verdict, bool]]:
    """Each sample of this process, its verdict, and whether that is new: in no killed run's journal."""
    if session.uses_verifier:
        return [(sample, _by_rule(session, sample) or _verified(session, sample), True) for sample in samples]
    first = rank() * len(samples)
    old = [session.journalled_verdict(first + row, sample.completion) for row, sample in enumerate(samples)]
    fallback = session.models.fallback
    fell_back = fallback and any(verdict and verdict.judge == fallback.label for verdict in old)
    if any(all_gather(bool(fell_back))):
        session.fall_back("it did before the run was stopped")
        works = None  # begun by the judge it took over from
    open_samples = [sample for sample, verdict in zip(samples, old, strict=True) if verdict is None]
    fresh = iter(_with_fallback(session, open_samples, len(samples), works))
    return [
        (sample, verdict or next(fresh), verdict is None)
        for sample, verdict in zip(samples, old, strict=True)
    ]


def _by_rule(session: Session, sample: Sample) -> Verdict | None:
    return rule_verdict(sample.completion, session.set_hash, session.task.rules)


def _verified(session: Session, sample: Sample) -> Verdict:
    """The verdict of the task's verifier: the reference decides, no judge is asked."""
    assert session.verify
    reward = session.verify(sample.completion, session.prompts.row(sample.prompt))
    if reward is None:
        session.note(f"{NOT_VERIFIED}: it has no reward")
    detail = NOT_VERIFIED if reward is None else ""
    return Verdict(reward, session.set_hash, source="verifier", detail=detail)


def groups(rows: Sequence[T], group_size: int) -> Iterator[Sequence[T]]:
    """The rows of one prompt after the other."""
    for start in range(0, len(rows), group_size):
        yield rows[start : start + group_size]


def drop_thin_groups(rewards: Sequence[Reward], group_size: int) -> list[Reward]:
    """Takes the rewards of groups with fewer than max(2, ⌈G/2⌉) verdicts away: they give no sound
    baseline.
    """
    needed = max(2, ceil(group_size / 2))
    kept: list[Reward] = []
    for group in groups(rewards, group_size):
        enough = sum(reward is not None for reward in group) >= needed
        kept += group if enough else [None] * len(group)
    return kept


def has_spread(rewards: Sequence[Reward], group_size: int) -> bool:
    """Whether any group holds two different rewards; without that a batch can teach nothing."""
    return any(
        len({reward for reward in group if reward is not None}) > 1 for group in groups(rewards, group_size)
    )


def batch_row(rollouts: Sequence[Rollout], group_size: int) -> JsonRow:
    """Figures of one batch for ``metrics.jsonl``; ``reward`` and ``spread`` are None where nothing was
    judged, ``disagreement`` without a panel.
    """
    rewards = [rollout.reward for rollout in rollouts]
    known = [reward for reward in rewards if reward is not None]
    per_group = [[reward for reward in group if reward is not None] for group in groups(rewards, group_size)]
    spreads = [statistics.pstdev(group) for group in per_group if len(group) > 1]
    failures = [rollout.verdict.failure for rollout in rollouts if rollout.verdict.failure]
    differing = [
        rollout.verdict.disagreement for rollout in rollouts if rollout.verdict.disagreement is not None
    ]
    return {
        "reward": statistics.fmean(known) if known else None,
        "spread": statistics.fmean(spreads) if spreads else None,
        "words": statistics.fmean(len(rollout.completion.split()) for rollout in rollouts),
        "rows": len(rollouts),
        "judge_failures": len(failures),
        "failures": dict(sorted(Counter(failures).items())),
        "refusals": failures.count("refusal"),
        "disagreement": statistics.fmean(differing) if differing else None,
    }


def _with_fallback(
    session: Session, samples: Sequence[Sample], batch_size: int, works: PendingVerdicts | None
) -> list[Verdict]:
    """Judges; where the judge is down, the fallback judge takes over, if there is one.

    It judges the whole of them: rewards of two judges do not belong in one group.
    """
    try:
        return _with_breaker(session, samples, batch_size, works)
    except JudgeDown as down:
        if not session.fall_back(str(down)):
            raise
    return _with_breaker(session, samples, batch_size)


def _with_breaker(
    session: Session, samples: Sequence[Sample], batch_size: int, works: PendingVerdicts | None = None
) -> list[Verdict]:
    """Judges; where too many judgements fail, pauses and tries those once more, then stops the run.

    Failures are counted over all processes, so that all of them go the same way.
    """
    verdicts, whole = _round(session, samples, batch_size, works)
    if whole.broken:
        pause = session.config.breaker_pause
        session.note(f"{whole}; trying those again in {pause:g} s")
        with activity(f"waiting {pause:g} s before failed judgements are tried again"):
            _pause(session, pause)
        failed = _failed(verdicts)
        again, _ = _round(session, [samples[row] for row in failed], batch_size)
        for row, verdict in zip(failed, again, strict=True):
            verdicts[row] = verdict
        whole = _counted(session, verdicts, batch_size)
    if whole.broken:
        whole.check()
    return verdicts


def _round(
    session: Session, samples: Sequence[Sample], batch_size: int, works: PendingVerdicts | None = None
) -> tuple[list[Verdict], FailureTally]:
    """Judges once; a reason to stop in one process stops all of them."""
    verdicts: list[Verdict] = []
    stop: StopRun | None = None
    try:
        verdicts = judge_samples(session, samples, works)
    except StopRun as reason:
        stop = reason
    stops = all_gather((type(stop), str(stop)) if stop else None)
    if reasons := [reason for reason in stops if reason]:
        kind, text = reasons[0]
        raise stop or kind(text)
    return verdicts, _counted(session, verdicts, batch_size)


def _counted(session: Session, verdicts: Sequence[Verdict], batch_size: int) -> FailureTally:
    mine = [verdicts[row] for row in _failed(verdicts)]
    kinds: list[FailureKind] = [verdict.failure for verdict in mine if verdict.failure]
    shares = all_gather((batch_size, kinds, mine[0].detail if mine else ""))
    size = sum(share[0] for share in shares)
    failed: tuple[FailureKind, ...] = tuple(kind for share in shares for kind in share[1])
    first = next((share[2] for share in shares if share[2]), "")
    return FailureTally(size, failed, session.config.max_judge_failures, first)


def _pause(session: Session, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not session.interrupted:
        time.sleep(min(0.2, seconds))


def _failed(verdicts: Sequence[Verdict]) -> list[int]:
    """Rows the breaker counts."""
    return [row for row, verdict in enumerate(verdicts) if verdict.failure in JUDGE_FAILURES]
