"""An independent audit: another model scores some rollouts by the task's purpose, and nothing trains on it.

The reward comes from a judge and a rubric that the policy learns to please. The auditor sees neither: it
scores the same answers by one criterion, the purpose. What the reward gained over the audit since the run
began is the *gap*. A failed audit is left out, and never stops a run.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from mpo_lite.alarms.alarms import Alarm
from mpo_lite.errors import BudgetReached, EndpointError
from mpo_lite.jsonl import JsonRow, journal
from mpo_lite.judge.base import Sample
from mpo_lite.judge.pairwise import Pair, PairwiseJudge, Winner
from mpo_lite.judge.pointwise import PointwiseJudge
from mpo_lite.llm import event_loop
from mpo_lite.llm.models import Backend
from mpo_lite.loop.session import Session
from mpo_lite.stats.interval import mean_interval
from mpo_lite.types import Rollout, text_hash

WINDOW = 12
"""Audited answers at the beginning of the run, and latest ones, that are compared."""
LARGEST_GAP = 0.1
"""Lower end of the gap's interval from which on an alarm is raised."""
EVIDENCE = 8


@dataclass(frozen=True)
class AuditGap:
    """How much more the reward has risen than the audit score.

    Attributes:
        mean: Rise of the reward minus that of the audit score, in [-2, 2].
        low: Lower end of its 95% interval.
        high: Upper end.
        evidence: Ids of the latest answers whose reward is furthest above their audit score.
    """

    mean: float
    low: float
    high: float
    evidence: tuple[str, ...]

    @property
    def alarm(self) -> Alarm | None:
        """The alarm ``audit_gap``, where the whole interval is above ``LARGEST_GAP``."""
        if self.low <= LARGEST_GAP:
            return None
        detail = (
            f"since the run began the reward rose {self.mean:+.2f} more than another model's score by the "
            f"task's purpose alone (95% interval {self.low:+.2f} to {self.high:+.2f})"
        )
        return Alarm("audit_gap", self.low, LARGEST_GAP, self.evidence, detail)


def measure_gap(rows: Sequence[JsonRow]) -> AuditGap | None:
    """The gap between reward and audit score, each relative to the first audited answers.

    Args:
        rows: Audited answers in order, as ``audits.jsonl`` holds them.

    Returns:
        The gap; None before there are two windows of answers with an audit score.
    """
    scored = [row for row in rows if row["audit"] is not None]
    if len(scored) < 2 * WINDOW:
        return None
    first, latest = (
        [row["level"] - row["audit"] for row in part] for part in (scored[:WINDOW], scored[-WINDOW:])
    )
    # The windows are independent and of equal size: pairs of them have the variance of the difference.
    low, high = mean_interval([now - before for now, before in zip(latest, first, strict=True)])
    worst = sorted(scored[-WINDOW:], key=lambda row: row["audit"] - row["level"])
    mean = statistics.fmean(latest) - statistics.fmean(first)
    return AuditGap(mean, low, high, tuple(row["id"] for row in worst[:EVIDENCE]))


class Auditor:
    """Audits a share of each batch while the policy is updated; the lead process has one.

    Args:
        session: The run.
        backend: The model that audits.
    """

    def __init__(self, session: Session, backend: Backend) -> None:
        self._session = session
        client, task, timeout_s = session.models.client, session.task, session.config.batch_timeout
        self._judge = PointwiseJudge(client, backend, task.persona, timeout_s, purpose="audit")
        self._pairwise = PairwiseJudge(client, backend, task.persona, task.purpose, purpose="audit")
        self._pending: list[tuple[Path, Future[list[JsonRow]]]] = []
        self._compared = {row["batch"] for row in session.run.rows(session.run.audit_pairs)}
        self._last_note = ""
        session.at_close(self._cancel)

    def begin(self, rollouts: Sequence[Rollout]) -> None:
        """Begins to audit a share of a batch; what was audited before a kill is not asked for again."""
        session = self._session
        known = {(row["batch"], row["row"], row["text"]) for row in session.run.rows(session.run.audits)}
        chosen = choose_audited(rollouts, session.config.audit_share, session.config.seed)
        fresh = [one for one in chosen if (one.batch, one.row, text_hash(one.completion)) not in known]
        if fresh:
            scoring = self._score(fresh, session.state.version.offset)
            self._pending.append((session.run.audits, event_loop.submit(scoring)))

    def begin_pairs(self, batch: int, answers: Sequence[Sample]) -> None:
        """Begins to compare the policy's answers to the anchor's prompts with the initial policy's, once.

        Args:
            batch: Generation batches done.
            answers: What the policy answered then.
        """
        if answers and batch not in self._compared:
            self._compared.add(batch)
            comparing = event_loop.submit(self._compare(batch, answers))
            self._pending.append((self._session.run.audit_pairs, comparing))

    def collect(self) -> None:
        """Waits for the audits under way, and journals them.

        Raises:
            Interrupted: The user stops the run.
        """
        session = self._session
        while self._pending:
            path, audit = self._pending.pop(0)
            try:
                journal(path, event_loop.result(audit, session.raise_if_interrupted))
            except (EndpointError, BudgetReached) as error:
                if str(error) != self._last_note:
                    session.context.note(f"answers are not audited: {error}")
                self._last_note = str(error)

    def gap(self, batch: int) -> AuditGap | None:
        """The gap by what was audited of the first ``batch`` batches."""
        rows = self._session.run.rows(self._session.run.audits)
        return measure_gap([row for row in rows if row["batch"] <= batch])

    def preferred(self, batch: int) -> float | None:
        """Share of the latest pairs, up to ``batch``, won by the present answer; ties count half."""
        run = self._session.run
        rows = [row for row in run.rows(run.audit_pairs) if row["batch"] <= batch]
        judged = rows[-1]["better"] + rows[-1]["worse"] + rows[-1]["ties"] if rows else 0
        return (rows[-1]["better"] + rows[-1]["ties"] / 2) / judged if judged else None

    async def _compare(self, batch: int, answers: Sequence[Sample]) -> list[JsonRow]:
        before = {sample.prompt: sample.completion for sample in self._session.state.anchor}
        drawn = random.Random(f"audit-pairs-{self._session.config.seed}-{batch}")
        # Judges have a liking for a place, so the places are drawn.
        places: list[Winner] = [drawn.choice(("first", "second")) for _ in answers]
        pairs = [
            Pair(now.prompt, now.completion, before[now.prompt])
            if place == "first"
            else Pair(now.prompt, before[now.prompt], now.completion)
            for now, place in zip(answers, places, strict=True)
        ]
        winners = [result.winner for result in await self._pairwise.judge_pairs(pairs)]
        ties, failed = winners.count("tie"), winners.count(None)
        better = sum(winner == place for winner, place in zip(winners, places, strict=True))
        worse = len(pairs) - better - ties - failed
        return [{"batch": batch, "better": better, "worse": worse, "ties": ties, "failed": failed}]

    async def _score(self, rollouts: Sequence[Rollout], offset: float) -> list[JsonRow]:
        samples = [Sample(one.prompt, one.completion) for one in rollouts]
        verdicts = await self._judge.verdicts(samples, self._session.task.purpose_rubric)
        return [
            {
                "batch": one.batch,
                "row": one.row,
                "id": one.id,
                "text": text_hash(one.completion),
                "version": one.version,
                "reward": one.reward,
                "level": (one.reward or 0.0) - offset,
                "audit": verdict.reward,
                "failure": verdict.failure,
            }
            for one, verdict in zip(rollouts, verdicts, strict=True)
        ]

    def _cancel(self) -> None:
        for _, audit in self._pending:
            audit.cancel()  # its answers so far are cached


def choose_audited(rollouts: Sequence[Rollout], share: float, seed: int) -> list[Rollout]:
    """The rollouts of a batch that are audited: over the run, ``share`` of all that the judge scored."""
    judged = [one for one in rollouts if one.reward is not None and one.verdict.source == "judge"]
    if not judged:
        return []
    batch = judged[0].batch
    # Whole answers: what a small share leaves over in a batch counts in a later one.
    due = math.floor(share * len(rollouts) * batch) - math.floor(share * len(rollouts) * (batch - 1))
    drawn = random.Random(f"independent-audit-{seed}-{batch}")
    return sorted(drawn.sample(judged, min(due, len(judged))), key=lambda one: one.row)
