"""What keeps a service from giving away rewards by a judge that is down: it answers *later* instead."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from mpo_lite.errors import EndpointError, Unavailable
from mpo_lite.judge.base import Sample
from mpo_lite.judge.breaker import FailureTally
from mpo_lite.loop.session import Session
from mpo_lite.rubric import Rubric
from mpo_lite.types import Verdict


class Breaker:
    """Judges while the judge works; else it has clients wait, for ``breaker_pause`` seconds at a time.

    Args:
        session: The run.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._recent: deque[Verdict] = deque(maxlen=session.config.batch_completions)
        self._closed_from = 0.0
        self.problem = ""

    def require_judge(self) -> None:
        """Raises ``Unavailable`` while the judge counts as down."""
        if (seconds := self._closed_from - time.monotonic()) > 0:
            raise Unavailable(self.problem, seconds)

    async def verdicts(self, samples: Sequence[Sample], rubric: Rubric) -> list[Verdict]:
        """Judges samples, by the fallback judge once the judge is down.

        Args:
            samples: N samples.
            rubric: What to judge by.

        Returns:
            N verdicts, of which some may have failed.

        Raises:
            Unavailable: The judge rejects calls permanently, and there is no fallback judge.
            StopRun: A cap is reached.
        """
        session = self._session
        if not samples:
            return []
        try:
            verdicts = await session.judge.verdicts(samples, rubric)
        except EndpointError as error:
            if session.context.fall_back(str(error)):
                return await self.verdicts(samples, rubric)
            self._open(str(error))
            raise Unavailable(str(error), session.config.breaker_pause) from None
        finally:
            session.context.warn_near_caps()
        self._count(verdicts)
        return verdicts

    def _count(self, verdicts: Sequence[Verdict]) -> None:
        session = self._session
        self._recent += verdicts
        failed = [verdict for verdict in self._recent if verdict.failure]
        tally = FailureTally(
            size=len(self._recent),
            failures=tuple(verdict.failure for verdict in failed if verdict.failure),
            share=session.config.max_judge_failures,
            first=failed[0].detail if failed else "",
            # A few failures among the first answers of a run are not yet a share of them.
            rest=session.config.batch_completions - len(self._recent),
        )
        if not tally.broken:
            self.problem = ""
            return
        self._recent.clear()
        reason = tally.describe_problem("answer")
        if not session.context.fall_back(reason):
            self._open(reason)

    def _open(self, reason: str) -> None:
        pause = self._session.config.breaker_pause
        if reason != self.problem:
            self._session.context.note(f"{reason}; clients wait, and the judge is tried every {pause:g} s")
        self.problem, self._closed_from = reason, time.monotonic() + pause
