"""From a batch of completions to rewards: rules, journal, judge, breaker, group rule.

A reward is a number in [0, 1] or None. None is what a failed judgement is: TRL leaves such a row out of its
group's baseline and gives it no advantage.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

from mpo_lite.errors import EndpointError, JudgeDown, StopRun
from mpo_lite.judge.base import Sample
from mpo_lite.llm import background
from mpo_lite.runs import JsonRow
from mpo_lite.tasks.rules import rule_verdict
from mpo_lite.training.ranks import exchange
from mpo_lite.training.session import Session
from mpo_lite.types import Rollout, Verdict, text_hash

TOLERATED_FAILURES = 3
"""Failures per batch that do not open the breaker, unless nothing else is in the batch."""

Reward = float | None


def judge_samples(session: Session, samples: Sequence[Sample]) -> list[Verdict]:
    """Judges samples under the rubric in force, rules first.

    Raises:
        StopRun: A cap is reached, the judge refuses for good, or the user stops the run.
    """
    session.check_interrupt()
    words = session.task.rules.min_words
    verdicts = [rule_verdict(sample.completion, session.set_hash, words) for sample in samples]
    asked = [row for row, verdict in enumerate(verdicts) if verdict is None]
    try:
        judged = background.wait(
            session.judge.verdicts([samples[row] for row in asked], session.version.rubric),
            session.check_interrupt,
        )
    except EndpointError as error:
        raise JudgeDown(str(error)) from None
    finally:
        session.warn()
    found = dict(zip(asked, judged, strict=True))
    return [verdict or found[row] for row, verdict in enumerate(verdicts)]


def score_batch(session: Session, samples: Sequence[Sample], group_size: int) -> list[Rollout]:
    """Rewards one generation batch and commits the outcome to the journal before it is used.

    Args:
        session: The run; its batch counter moves on by one.
        samples: B completions; each prompt's ``group_size`` ones stand together.
        group_size: Completions per prompt, G.

    Returns:
        B rollouts in the same order.

    Raises:
        StopRun: See ``judge_samples``; also when more judgements failed than the breaker allows. Nothing of
            the batch is journalled then, while answers received stay in the cache.
    """
    started = time.monotonic()
    hits, rubric = session.client.cache_hits, session.set_hash
    verdicts: list[Verdict | None] = [
        _replayed(session, row, sample, rubric) for row, sample in enumerate(samples)
    ]
    fallback = session.models.fallback
    if fallback and any(verdict and verdict.judge == fallback.label for verdict in verdicts):
        session.fall_back("it did before the run was stopped")
    open_rows = [row for row, verdict in enumerate(verdicts) if verdict is None]
    fresh = _with_fallback(session, [samples[row] for row in open_rows], len(samples))
    for row, verdict in zip(open_rows, fresh, strict=True):
        verdicts[row] = verdict
    whole = [verdict for verdict in verdicts if verdict is not None]
    rewards = drop_thin_groups([verdict.reward for verdict in whole], group_size)
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
        )
        for row, (sample, verdict, reward) in enumerate(zip(samples, whole, rewards, strict=True))
    ]
    session.run.journal([rollouts[row] for row in open_rows])
    session.batch += 1
    session.batch_row = batch_row(rollouts, group_size) | {
        "batch": session.batch,
        "version": session.version.number,
        "set_hash": rubric,
        "judge": session.models.judged_by,
        "cached": session.client.cache_hits - hits,
        "judge_seconds": round(time.monotonic() - started, 3),
    }
    return rollouts


def groups(rewards: Sequence[Reward], group_size: int) -> Iterator[Sequence[Reward]]:
    """The rewards of one prompt after the other."""
    for start in range(0, len(rewards), group_size):
        yield rewards[start : start + group_size]


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
        "refusals": failures.count("refusal"),
        "disagreement": statistics.fmean(differing) if differing else None,
    }


def _replayed(session: Session, row: int, sample: Sample, rubric: str) -> Verdict | None:
    """What the journal of a killed run says of this very completion under this very rubric."""
    old = session.replay.get((session.batch, row))
    same = (
        old and old.verdict.set_hash == rubric and text_hash(old.completion) == text_hash(sample.completion)
    )
    return old.verdict if old and same else None


def _with_fallback(session: Session, samples: Sequence[Sample], batch_size: int) -> list[Verdict]:
    """Judges; where the judge is down, the fallback judge takes over, if there is one.

    It judges the whole of them: rewards of two judges do not belong in one group.
    """
    try:
        return _with_breaker(session, samples, batch_size)
    except JudgeDown as down:
        if not session.fall_back(str(down)):
            raise
    return _with_breaker(session, samples, batch_size)


def _with_breaker(session: Session, samples: Sequence[Sample], batch_size: int) -> list[Verdict]:
    """Judges; where too many judgements fail, pauses and tries those once more, then stops the run.

    Failures are counted over all processes, so that all of them go the same way.
    """
    verdicts, whole = _round(session, samples, batch_size)
    if whole.broken:
        pause = session.config.breaker_pause
        session.note(f"{whole}; trying those again in {pause:g} s")
        _pause(session, pause)
        failed = _failed(verdicts)
        again, _ = _round(session, [samples[row] for row in failed], batch_size)
        for row, verdict in zip(failed, again, strict=True):
            verdicts[row] = verdict
        whole = _counted(session, verdicts, batch_size)
    if whole.broken:
        raise JudgeDown(
            f"{whole}, more than --max-judge-failures {session.config.max_judge_failures:g} allows; "
            "see that the judge is up and answers in JSON"
        )
    return verdicts


@dataclass(frozen=True)
class _Whole:
    """Judgements of a batch over all processes, and how many of them failed, of which kinds."""

    size: int
    failed: int
    kinds: tuple[str, ...]
    allowed: float

    @property
    def broken(self) -> bool:
        return self.failed > self.allowed

    def __str__(self) -> str:
        return f"{self.failed} of {self.size} judgements failed ({', '.join(self.kinds)})"


def _round(session: Session, samples: Sequence[Sample], batch_size: int) -> tuple[list[Verdict], _Whole]:
    """Judges once; a reason to stop in one process stops all of them."""
    verdicts: list[Verdict] = []
    stop: StopRun | None = None
    try:
        verdicts = judge_samples(session, samples)
    except StopRun as reason:
        stop = reason
    stops = exchange((type(stop), str(stop)) if stop else None)
    if reasons := [reason for reason in stops if reason]:
        kind, text = reasons[0]
        raise stop or kind(text)
    return verdicts, _counted(session, verdicts, batch_size)


def _counted(session: Session, verdicts: Sequence[Verdict], batch_size: int) -> _Whole:
    mine = [str(verdicts[row].failure) for row in _failed(verdicts)]
    shares = exchange((batch_size, mine))
    size = sum(share[0] for share in shares)
    failed = [kind for share in shares for kind in share[1]]
    tolerated = min(TOLERATED_FAILURES, size - 1)
    allowed = max(tolerated, session.config.max_judge_failures * size)
    return _Whole(size, len(failed), tuple(sorted(set(failed))), allowed)


def _pause(session: Session, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not session.interrupted:
        time.sleep(min(0.2, seconds))


def _failed(verdicts: Sequence[Verdict]) -> list[int]:
    """Rows the breaker counts: a refusal says something of the sample, not of the judge."""
    return [row for row, verdict in enumerate(verdicts) if verdict.failure in ("transport", "parse")]
