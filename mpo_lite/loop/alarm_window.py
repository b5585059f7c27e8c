"""The alarms of a run: its latest answers against its first ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from types import MappingProxyType

from mpo_lite.alarms.alarms import Alarm, ReferenceWindow, check_alarms
from mpo_lite.alarms.features import ResponseFeatures
from mpo_lite.jsonl import JsonRow
from mpo_lite.types import Rollout

WINDOW = 64
"""Answers that alarms look at, and that the baseline has: at least so many, of a large batch hardly more."""


class AlarmWindow:
    """Keeps the first and the latest answers of a run, and what alarms they raise.

    Args:
        first_scores: Rollout id → its score under the first rubric, where that was asked.
        audit: What the independent audit raises, if anything.
    """

    def __init__(
        self, first_scores: Mapping[str, float] = MappingProxyType({}), audit: Alarm | None = None
    ) -> None:
        self.first_scores, self._audit = first_scores, audit
        self._first: list[Rollout] = []
        self._latest: list[list[Rollout]] = []
        self._reference: ReferenceWindow | None = None
        self.raised: dict[str, Alarm] = {}

    @property
    def latest(self) -> list[Rollout]:
        """The answers looked at."""
        return [rollout for batch in self._latest for rollout in batch]

    def add_batch(self, rollouts: Sequence[Rollout]) -> list[Alarm]:
        """Takes in the next batch; gives the alarms that were not standing before it."""
        reference = self._reference
        self._take(rollouts)
        return self._check(reference)

    def catch_up(self, rollouts: Sequence[Rollout]) -> None:
        """Takes in all batches of a run at once, and looks at the last as ``add_batch`` would."""
        reference = None
        for _, batch in groupby(rollouts, key=lambda rollout: rollout.batch):
            reference = self._reference
            self._take(list(batch))
        if self._latest:
            self._check(reference)

    def _take(self, rollouts: Sequence[Rollout]) -> None:
        # Thresholds are made for windows of this size, and duplicates are looked for in pairs.
        rollouts = rollouts[:: max(1, len(rollouts) // WINDOW)]
        self._latest.append(list(rollouts))
        while sum(map(len, self._latest[1:])) >= WINDOW:
            del self._latest[0]
        if self._reference is None:
            self._first += rollouts
            if len(self._first) >= WINDOW:
                self._reference = ReferenceWindow([_row(each, {}) for each in self._first])

    def add_first_scores(self, scores: Mapping[str, float]) -> list[Alarm]:
        """Checks again, now that some of the latest answers have a score under the first rubric."""
        self.first_scores = scores
        return self._check(self._reference) if self._latest else []

    def add_audit(self, alarm: Alarm | None) -> list[Alarm]:
        """Checks again, now that more answers are audited."""
        self._audit = alarm
        return self._check(self._reference) if self._latest else []

    def _check(self, reference: ReferenceWindow | None) -> list[Alarm]:
        before, alarms = (
            self.raised,
            check_alarms([_row(each, self.first_scores) for each in self.latest], reference),
        )
        alarms += [self._audit] if self._audit else []
        self.raised = {alarm.name: alarm for alarm in alarms}
        return [alarm for alarm in alarms if alarm.name not in before]


def alarm_row(alarm: Alarm, batch: int) -> JsonRow:
    """An alarm as ``alarms.jsonl`` keeps it."""
    return {"batch": batch, **asdict(alarm)}


def _row(rollout: Rollout, frozen: Mapping[str, float]) -> ResponseFeatures:
    # Under the first rubric the reward is its score.
    under_first = rollout.reward if rollout.version == 0 else frozen.get(rollout.id)
    return ResponseFeatures(rollout.id, rollout.prompt, rollout.completion, rollout.reward, under_first)
