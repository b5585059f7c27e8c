"""From a batch of completions to rewards: rules, journal, judge, breaker, group rule.

A reward is a number in [0, 1] or None. None is what a failed judgement is: TRL leaves such a row out of its
group's baseline and gives it no advantage.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from math import ceil

from mpo_lite.errors import EndpointError, JudgeDown
from mpo_lite.judge.base import Sample
from mpo_lite.llm import background
from mpo_lite.runs import JsonRow
from mpo_lite.tasks.rules import rule_verdict
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
    verdicts = [rule_verdict(sample.completion, session.set_hash) for sample in samples]
    asked = [row for row, verdict in enumerate(verdicts) if verdict is None]
    try:
        judged = background.wait(
            session.judge.verdicts([samples[row] for row in asked], session.version.rubric),
            session.check_interrupt,
        )
    except EndpointError as error:
        raise JudgeDown(str(error)) from error
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
    open_rows = [row for row, verdict in enumerate(verdicts) if verdict is None]
    for row, verdict in zip(
        open_rows, _with_breaker(session, [samples[row] for row in open_rows], len(samples)), strict=False
    ):
        verdicts[row] = verdict
    whole = [verdict for verdict in verdicts if verdict is not None]
    rewards = drop_thin_groups([verdict.reward for verdict in whole], group_size)
    rollouts = [
        Rollout(session.batch, row, sample.prompt, sample.completion, verdict, session.version.number, reward)
        for row, (sample, verdict, reward) in enumerate(zip(samples, whole, rewards, strict=True))
    ]
    session.run.journal([rollouts[row] for row in open_rows])
    if session.meta:
        session.recent += rollouts
    session.batch += 1
    session.batch_row = batch_row(rollouts, group_size) | {
        "batch": session.batch,
        "version": session.version.number,
        "set_hash": rubric,
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
    judged.
    """
    rewards = [rollout.reward for rollout in rollouts]
    known = [reward for reward in rewards if reward is not None]
    per_group = [[reward for reward in group if reward is not None] for group in groups(rewards, group_size)]
    spreads = [statistics.pstdev(group) for group in per_group if len(group) > 1]
    failures = [rollout.verdict.failure for rollout in rollouts if rollout.verdict.failure]
    return {
        "reward": statistics.fmean(known) if known else None,
        "spread": statistics.fmean(spreads) if spreads else None,
        "words": statistics.fmean(len(rollout.completion.split()) for rollout in rollouts),
        "rows": len(rollouts),
        "judge_failures": len(failures),
        "refusals": failures.count("refusal"),
    }


def _replayed(session: Session, row: int, sample: Sample, rubric: str) -> Verdict | None:
    """What the journal of a killed run says of this very completion under this very rubric."""
    old = session.replay.get((session.batch, row))
    same = (
        old and old.verdict.set_hash == rubric and text_hash(old.completion) == text_hash(sample.completion)
    )
    return old.verdict if old and same else None


def _with_breaker(session: Session, samples: Sequence[Sample], batch_size: int) -> list[Verdict]:
    """Judges; where too many judgements fail, pauses and tries those once more, then stops the run."""
    verdicts = judge_samples(session, samples)
    tolerated = min(TOLERATED_FAILURES, batch_size - 1)
    allowed = max(tolerated, session.config.max_judge_failures * batch_size)
    if len(failed := _failed(verdicts)) > allowed:
        pause = session.config.breaker_pause
        session.note(f"{len(failed)} of {batch_size} judgements failed; trying those again in {pause:g} s")
        until = time.monotonic() + pause
        while time.monotonic() < until:
            session.check_interrupt()
            time.sleep(min(0.2, pause))
        for row, verdict in zip(
            failed, judge_samples(session, [samples[row] for row in failed]), strict=True
        ):
            verdicts[row] = verdict
    if len(failed := _failed(verdicts)) > allowed:
        kinds = sorted({str(verdicts[row].failure) for row in failed})
        raise JudgeDown(
            f"{len(failed)} of {batch_size} judgements failed ({', '.join(kinds)}), more than "
            f"--max-judge-failures {session.config.max_judge_failures:g} allows; "
            "see that the judge is up and answers in JSON"
        )
    return verdicts


def _failed(verdicts: Sequence[Verdict]) -> list[int]:
    """Rows the breaker counts: a refusal says something of the sample, not of the judge."""
    return [row for row, verdict in enumerate(verdicts) if verdict.failure in ("transport", "parse")]
