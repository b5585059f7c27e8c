"""From a batch of completions to rewards: verifier or judge, journal, group rule.

A reward is a number in [0, 1] or None. None is what a failed judgement is: TRL leaves such a row out of its
group's baseline and gives it no advantage.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from math import ceil
from typing import NamedTuple, TypeVar

from mpo_lite.jsonl import JsonRow
from mpo_lite.judge.base import Sample
from mpo_lite.loop.batch_judge import BatchJudge
from mpo_lite.loop.distributed import all_gather, is_main, rank
from mpo_lite.loop.judging import PendingVerdicts, verdict_by_rule
from mpo_lite.loop.session import Session
from mpo_lite.types import Rollout, Verdict

NOT_VERIFIED = "the verifier broke down over an answer and was started again"
Reward = float | None
T = TypeVar("T")


class _Judged(NamedTuple):
    """A sample of the batch with its verdict."""

    sample: Sample
    verdict: Verdict
    is_new: bool  # in no killed run's journal


def score_batch(
    session: Session,
    samples: Sequence[Sample],
    group_size: int,
    pending: PendingVerdicts | None = None,
) -> list[Rollout]:
    """Rewards one generation batch and commits the outcome to the journal before it is used.

    Args:
        session: The run; its batch counter moves on by one.
        samples: This process's share of the batch, as many as any other's; each prompt's ``group_size``
            completions stand together.
        group_size: Completions per prompt, G.
        pending: Judgements that are under way already.

    Returns:
        B rollouts: the whole batch, of all processes in the order of their ranks.

    Raises:
        StopRun: See ``BatchJudge.judge``. Nothing of the batch is journalled then, while answers received
            stay in the cache.
    """
    started = time.monotonic()
    _require_same_batch(session, len(samples))
    by_verifier = session.uses_verifier
    session.split_budget()
    share = _judge_share(session, samples, pending)
    batch = [row for process in all_gather(share) for row in process]
    rewards = drop_thin_groups([row.verdict.reward for row in batch], group_size)
    rollouts = [
        _to_rollout(session, number, row, reward)
        for number, (row, reward) in enumerate(zip(batch, rewards, strict=True))
    ]
    if is_main():
        new = (rollout for rollout, row in zip(rollouts, batch, strict=True) if row.is_new)
        session.run.journal(new)
    session.finish_batch(
        summarize_batch(groups(rollouts, group_size), by_verifier)
        | {
            "batch": session.state.batch + 1,
            "version": session.state.version.number,
            "set_hash": session.rubric.set_hash,
            "judge": "" if by_verifier else session.models.judged_by,
            "judge_seconds": round(time.monotonic() - started, 3),
        }
    )
    return rollouts


def _require_same_batch(session: Session, size: int) -> None:
    own = (session.rubric.set_hash, size)
    if set(all_gather(own)) != {own}:
        batch = session.state.batch + 1
        raise RuntimeError(f"batch {batch}: the processes differ in their rubrics or in the rows they hold")


def _to_rollout(session: Session, number: int, row: _Judged, reward: Reward) -> Rollout:
    return Rollout(
        session.state.batch + 1,
        number,
        row.sample.prompt,
        row.sample.completion,
        row.verdict,
        session.state.version.number,
        reward,
        row.sample.cluster,
        truncated=row.sample.truncated,
    )


def _judge_share(
    session: Session, samples: Sequence[Sample], pending: PendingVerdicts | None
) -> list[_Judged]:
    """Each sample of this process with its verdict: by the verifier, from the journal, or by the judge."""
    if session.uses_verifier:
        return [
            _Judged(sample, verdict_by_rule(session, sample) or _verify(session, sample), True)
            for sample in samples
        ]
    first = rank() * len(samples)
    journalled = [
        session.journalled_verdict(first + row, sample.completion) for row, sample in enumerate(samples)
    ]
    if _switched_to_fallback(session, journalled):
        session.context.fall_back("it did before the run was stopped")
        pending = None  # begun by the judge that was replaced
    unjudged = [sample for sample, verdict in zip(samples, journalled, strict=True) if verdict is None]
    fresh = iter(BatchJudge(session, len(samples)).judge(unjudged, pending))
    return [
        _Judged(sample, verdict or next(fresh), verdict is None)
        for sample, verdict in zip(samples, journalled, strict=True)
    ]


def _switched_to_fallback(session: Session, journalled: Sequence[Verdict | None]) -> bool:
    """Whether a killed run went over to the fallback judge in this batch, as any process's journal tells."""
    fallback = session.models.fallback
    by_fallback = fallback and any(verdict and verdict.judge == fallback.label for verdict in journalled)
    return any(all_gather(bool(by_fallback)))


def _verify(session: Session, sample: Sample) -> Verdict:
    """The verdict of the task's verifier: the reference decides, no judge is asked."""
    assert session.context.verify
    reward = session.context.verify(sample.completion, session.state.prompts.row(sample.prompt))
    if reward is None:
        session.context.note(f"{NOT_VERIFIED}: it has no reward")
    detail = NOT_VERIFIED if reward is None else ""
    return Verdict(reward, session.rubric.set_hash, source="verifier", detail=detail)


def groups(rows: Sequence[T], group_size: int) -> Iterator[Sequence[T]]:
    """The rows of one prompt after the other."""
    for start in range(0, len(rows), group_size):
        yield rows[start : start + group_size]


def drop_thin_groups(rewards: Sequence[Reward], group_size: int) -> list[Reward]:
    """Takes away the rewards of groups with fewer than max(2, ⌈G/2⌉) verdicts: their mean is no sound
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


def mean_spread(prompt_groups: Iterable[Sequence[Reward]]) -> float | None:
    """Standard deviation of rewards within prompt groups, mean over groups; None where no group has two."""
    present = [[reward for reward in group if reward is not None] for group in prompt_groups]
    spreads = [statistics.pstdev(group) for group in present if len(group) > 1]
    return statistics.fmean(spreads) if spreads else None


def summarize_batch(prompt_groups: Iterable[Sequence[Rollout]], by_verifier: bool = False) -> JsonRow:
    """Figures of one batch for ``metrics.jsonl``.

    Args:
        prompt_groups: The batch by prompt groups, none of them empty.
        by_verifier: Whether the task's verifier scored the batch instead of the judge.

    Returns:
        ``reward`` is None where nothing has one, ``spread`` also where the verifier scored the batch,
        ``disagreement`` without a panel.
    """
    whole = list(prompt_groups)
    rewards = [[rollout.reward for rollout in group] for group in whole]
    rollouts = [rollout for group in whole for rollout in group]
    present = [rollout.reward for rollout in rollouts if rollout.reward is not None]
    failures = [rollout.verdict.failure for rollout in rollouts if rollout.verdict.failure]
    differing = [
        rollout.verdict.disagreement for rollout in rollouts if rollout.verdict.disagreement is not None
    ]
    return {
        "reward": statistics.fmean(present) if present else None,
        "spread": None if by_verifier else mean_spread(rewards),
        "words": statistics.fmean(len(rollout.completion.split()) for rollout in rollouts),
        "rows": len(rollouts),
        "judge_failures": len(failures),
        "failures": dict(sorted(Counter(failures).items())),
        "refusals": failures.count("refusal"),
        "disagreement": statistics.fmean(differing) if differing else None,
    }
