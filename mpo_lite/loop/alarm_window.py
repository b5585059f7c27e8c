"""The alarms of a run: its latest answers against its first ones.

Phrases alone are compared with a later baseline: the answers from just before the current rubric version. A
new rubric asks for other words, and a policy that learns to use them does as it should; compared with the
initial answers, it would be in alarm for the rest of the run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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

    It depends on the rollouts and the arguments alone, so a resumed run finds its alarms again.

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
        self._take(rollouts)
        return self._check()

    def catch_up(self, rollouts: Sequence[Rollout]) -> None:
        """Takes in all batches of a run at once, and looks at the last as ``add_batch`` would."""
        for _, batch in groupby(rollouts, key=lambda rollout: rollout.batch):
            self._take(list(batch))
        self._check()

    def _take(self, rollouts: Sequence[Rollout]) -> None:
        if not rollouts:
            return
        if self._reference is None and len(self._first) >= WINDOW:
            self._reference = ReferenceWindow([_row(each, {}) for each in self._first])
        if self._reference and rollouts[0].version != self._latest[-1][0].version:
            self._reference.renew_phrases([_row(each, {}) for each in self.latest])
        # Thresholds are made for windows of this size, and duplicates are looked for in pairs.
        rollouts = rollouts[:: max(1, len(rollouts) // WINDOW)]
        self._latest.append(list(rollouts))
        while sum(map(len, self._latest[1:])) >= WINDOW:
            del self._latest[0]
        if self._reference is None:
            self._first += rollouts

    def add_first_scores(self, scores: Mapping[str, float]) -> list[Alarm]:
        """Checks again, now that some of the latest answers have a score under the first rubric."""
        self.first_scores = scores
        return self._check()

    def add_audit(self, alarm: Alarm | None) -> list[Alarm]:
        """Checks again, now that more answers are audited."""
        self._audit = alarm
        return self._check() if self.latest else []

    def _check(self) -> list[Alarm]:
        before = self.raised
        alarms = check_alarms([_row(each, self.first_scores) for each in self.latest], self._reference)
        alarms += [self._audit] if self._audit else []
        self.raised = {alarm.name: alarm for alarm in alarms}
        return [alarm for alarm in alarms if alarm.name not in before]


def leave_out_verified(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The rollouts of the batches that the judge scored: alarms and meta steps are about judging."""
    verified = {rollout.batch for rollout in rollouts if rollout.verdict.source == "verifier"}
    return [rollout for rollout in rollouts if rollout.batch not in verified]


def is_answered(alarm: Alarm, names: Collection[str], signs: Collection[str]) -> bool:
    """Whether a meta step has dealt with what an alarm shows.

    A step deals with an alarm by its name. Of what has become frequent, it knows the phrases that were named
    then: the alarm is another one once most of those it names are new. (Single ones come and go from batch to
    batch.)

    Args:
        alarm: The alarm.
        names: Names of the alarms that the step was held for.
        signs: What these named.
    """
    named = set(alarm.signs)  # a phrase may be an opening and a pair of words at once
    return alarm.name in names and 2 * len(named - set(signs)) <= len(named)


def alarm_row(alarm: Alarm, batch: int) -> JsonRow:
    """An alarm as ``alarms.jsonl`` keeps it."""
    return {"batch": batch, **asdict(alarm)}


def _row(rollout: Rollout, frozen: Mapping[str, float]) -> ResponseFeatures:
    reward = judged_reward(rollout)
    # Under the first rubric the reward is its score.
    under_first = reward if rollout.version == 0 else frozen.get(rollout.id)
    return ResponseFeatures(rollout.id, rollout.prompt, rollout.completion, reward, under_first)


def judged_reward(rollout: Rollout) -> float | None:
    """The reward by the judge; None also where a rule gave 0, which shows nothing of what the rubric pays."""
    return rollout.reward if rollout.verdict.source == "judge" else None
