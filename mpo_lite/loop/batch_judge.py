"""One process's share of a batch, judged whatever happens: once, again where calls failed, then by the
fallback judge; or the run stops.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from mpo_lite.activity import activity
from mpo_lite.errors import FailureKind, JudgeDown, StopRun
from mpo_lite.judge.base import Sample
from mpo_lite.judge.breaker import JUDGE_FAILURES, FailureTally
from mpo_lite.loop.distributed import all_gather
from mpo_lite.loop.judging import PendingVerdicts, judge_samples
from mpo_lite.loop.session import Session
from mpo_lite.types import Verdict


class BatchJudge:
    """Judges a share of one batch. Failures are counted over all processes, so that all go the same way.

    Args:
        session: The run.
        batch_size: Completions of this process, those included that need no judge.
    """

    def __init__(self, session: Session, batch_size: int) -> None:
        self._session, self._batch_size = session, batch_size

    def judge(self, samples: Sequence[Sample], pending: PendingVerdicts | None) -> list[Verdict]:
        """Judges samples.

        Args:
            samples: N samples.
            pending: Judgements that are under way already.

        Returns:
            N verdicts, few enough of them failed.

        Raises:
            StopRun: More failed than ``max_judge_failures`` allows, a cap is reached, or the user stops.
        """
        try:
            return self._judge_with_retry(samples, pending)
        except JudgeDown as down:
            if not self._session.context.fall_back(str(down)):
                raise
        # All of them again: rewards of two judges do not belong in one group.
        return self._judge_with_retry(samples, None)

    def _judge_with_retry(self, samples: Sequence[Sample], pending: PendingVerdicts | None) -> list[Verdict]:
        """Judges; where too much failed, pauses and tries that once more."""
        verdicts = self._judge_once(samples, pending)
        tally = self._tally(verdicts)
        if not tally.broken:
            return verdicts
        self._pause(tally)
        failed = _failed_rows(verdicts)
        retried = self._judge_once([samples[row] for row in failed], None)
        for row, verdict in zip(failed, retried, strict=True):
            verdicts[row] = verdict
        tally = self._tally(verdicts)
        if tally.broken:
            tally.check()
        return verdicts

    def _judge_once(self, samples: Sequence[Sample], pending: PendingVerdicts | None) -> list[Verdict]:
        """Judges; a reason to stop in one process stops all of them."""
        verdicts: list[Verdict] = []
        stop: StopRun | None = None
        try:
            verdicts = judge_samples(self._session, samples, pending)
        except StopRun as reason:
            stop = reason
        stops = all_gather((type(stop), str(stop)) if stop else None)
        if reasons := [reason for reason in stops if reason]:
            kind, text = reasons[0]
            raise stop or kind(text)
        return verdicts

    def _tally(self, verdicts: Sequence[Verdict]) -> FailureTally:
        failed = [verdicts[row] for row in _failed_rows(verdicts)]
        kinds: list[FailureKind] = [verdict.failure for verdict in failed if verdict.failure]
        asked = sum(verdict.source == "judge" for verdict in verdicts)
        rest = self._batch_size - asked
        shares = all_gather((asked, rest, kinds, failed[0].detail if failed else ""))
        return FailureTally(
            size=sum(asked for asked, *_ in shares),
            failures=tuple(kind for _, _, kinds, _ in shares for kind in kinds),
            share=self._session.config.max_judge_failures,
            first=next((detail for *_, detail in shares if detail), ""),
            rest=sum(rest for _, rest, *_ in shares),
        )

    def _pause(self, tally: FailureTally) -> None:
        session, seconds = self._session, self._session.config.breaker_pause
        session.context.note(f"{tally}; trying those again in {seconds:g} s")
        until = time.monotonic() + seconds
        with activity(f"waiting {seconds:g} s before failed judgements are tried again"):
            while time.monotonic() < until and not session.state.interrupted:
                time.sleep(min(0.2, seconds))


def _failed_rows(verdicts: Sequence[Verdict]) -> list[int]:
    """Rows that the breaker counts."""
    return [row for row, verdict in enumerate(verdicts) if verdict.failure in JUDGE_FAILURES]
