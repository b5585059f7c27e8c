"""Which batch and which rubric version an answer belongs to, where answers come from outside one by one.

A prompt group belongs to one batch, and a batch is judged by one version: the one that is current when its
first answer comes. A batch takes no further groups once it has as many answers as planned, once a later step
of the client begins, or on request; the groups that it has are still completed. So two batches may be open
at a time, and the rubric changes neither within one nor within a step of the client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mpo_lite.rubric_versions import RubricVersion
from mpo_lite.sanitize import strip_thinking
from mpo_lite.types import Rollout, Verdict


@dataclass(frozen=True)
class Submission:
    """An answer that a client wants a reward for.

    Attributes:
        prompt: The task prompt, as the judge is shown it.
        completion: The policy's answer.
        group: The engine's name of the prompt group; empty: answers to one prompt that come together are one.
        group_size: Answers of its group, where the client knows; None: as many as configured.
        truncated: The answer was cut off at the policy's token limit.
        step: The client's training step; None where it does not say.
        reference: A correct answer, for tasks whose judge sees it; empty: that of the task's data.
        cluster: The kind of prompt; empty: that of the task's data.
    """

    prompt: str
    completion: str
    group: str = ""
    group_size: int | None = None
    truncated: bool = False
    step: int | None = None
    reference: str = ""
    cluster: str = ""

    @property
    def group_key(self) -> str:
        """What the answers of one group have in common."""
        return self.group or self.prompt


@dataclass(eq=False)
class Entry:
    """An answer with its place.

    Attributes:
        submission: The answer.
        group: Its prompt group.
        row: Its index within the batch.
        verdict: Its verdict; None while it is being judged.
    """

    submission: Submission
    group: Group
    row: int
    verdict: Verdict | None = None

    def to_rollout(self) -> Rollout | None:
        """The answer as a run keeps it; None while it is being judged."""
        batch, submission, verdict = self.group.batch, self.submission, self.verdict
        return verdict and Rollout(
            batch.number,
            self.row,
            submission.prompt,
            strip_thinking(submission.completion),
            verdict,
            batch.version.number,
            verdict.reward,
            submission.cluster,
            truncated=submission.truncated,
        )


@dataclass(eq=False)
class Group:
    """The answers to one prompt within a batch.

    Attributes:
        batch: Its batch.
        key: What its answers have in common.
        size: Answers that it is expected to have.
        entries: Those that have come.
        touched: When the last of them came, in seconds of a monotonic clock.
        is_late: No further answer is waited for.
        is_being_judged: Its answers are being judged together.
        complete: Set once no further answer will join.
        judged: Set once, moreover, each has a verdict.
    """

    batch: Batch
    key: str
    size: int
    touched: float
    entries: list[Entry] = field(default_factory=list[Entry])
    is_late: bool = False
    is_being_judged: bool = False
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    judged: asyncio.Event = field(default_factory=asyncio.Event)

    def update(self) -> None:
        """Sets the events that are due."""
        if self.is_late or len(self.entries) >= self.size:
            self.complete.set()
            if all(entry.verdict for entry in self.entries):
                self.judged.set()

    def mean_reward(self) -> float | None:
        """Mean of the rewards there are; None without any."""
        verdicts = (entry.verdict for entry in self.entries)
        rewards = [
            verdict.reward for verdict in verdicts if verdict is not None and verdict.reward is not None
        ]
        return sum(rewards) / len(rewards) if rewards else None


@dataclass(eq=False)
class Batch:
    """A generation batch.

    Attributes:
        number: From 1.
        version: The rubric version that judges it.
        step: The client's step that it began with, where the client names steps.
        groups: Its prompt groups.
        planned: Answers that these are expected to have.
        rows: Answers that have come, withdrawn ones included.
        is_closed: It takes no further group.
        filled: Answers in it whose reward is their group's mean, because they could not be judged.
    """

    number: int
    version: RubricVersion
    step: int | None = None
    groups: list[Group] = field(default_factory=list[Group])
    planned: int = 0
    rows: int = 0
    is_closed: bool = False
    filled: int = 0

    @property
    def is_done(self) -> bool:
        """Whether all of its answers have come and been judged."""
        return self.is_closed and all(group.judged.is_set() for group in self.groups)


class Batches:
    """The open batches, and the groups that answers can still join.

    Args:
        done: Batches that are done.
        size: Planned answers of a batch.
        group_size: Answers per prompt, where the client does not say.
        group_wait_s: Seconds without a further answer after which a group is taken as it is.
    """

    def __init__(self, done: int, size: int, group_size: int, group_wait_s: float) -> None:
        self._next = done + 1
        self._size, self._group_size, self._group_wait_s = size, group_size, group_wait_s
        self._joinable: dict[str, Group] = {}
        self._newest: Batch | None = None
        self.open: list[Batch] = []

    def place(self, submission: Submission, current: RubricVersion, now: float) -> Entry:
        """Gives an answer its group and batch.

        Args:
            submission: The answer.
            current: The rubric version for a batch that begins with it.
            now: Seconds of a monotonic clock.
        """
        group = self._joinable.get(submission.group_key) or self._open_group(
            self._batch_for_new_group(submission.step, current), submission, now
        )
        return self._join(group, submission, now)

    def withdraw(self, entries: Iterable[Entry], now: float) -> None:
        """Takes back answers that nobody can judge now. Sent again, they join the rest of their groups."""
        for entry in list(entries):
            group = entry.group
            group.entries.remove(entry)
            if not group.entries:
                self._dissolve(group)
            elif self._joinable.setdefault(group.key, group) is group:
                group.is_late, group.touched = False, now
                group.complete.clear()
            group.update()

    def restore(
        self,
        number: int,
        version: RubricVersion,
        submission: Submission,
        verdict: Verdict,
        row: int,
        now: float,
    ) -> Entry:
        """Puts back an answer that was judged before a restart; earlier batches and rows come first."""
        if not self.open or self.open[-1].number != number:
            for batch in self.open:
                batch.is_closed = True
            self._newest = Batch(number, version, submission.step)
            self.open.append(self._newest)
            self._next = number + 1
        batch = self.open[-1]
        group = self._joinable.get(submission.group_key)
        if group is None or group.batch is not batch:
            group = self._open_group(batch, submission, now)
        batch.rows = row  # those of withdrawn answers are missing
        entry = self._join(group, submission, now)
        entry.verdict = verdict
        group.update()
        return entry

    def close(self) -> int | None:
        """Lets the newest batch take no further groups. Returns its number; None where none is open."""
        newest = self.open[-1] if self.open else None
        if newest is None or newest.is_closed or not newest.groups:
            return None
        newest.is_closed = True
        return newest.number

    def expire(self, now: float) -> None:
        """Stops waiting for the rest of groups that nothing has joined for a while."""
        for group in list(self._joinable.values()):
            if now - group.touched > self._group_wait_s:
                self._close_group(group)

    def take_done(self) -> Iterator[Batch]:
        """Takes out batches that are done, in order."""
        while self.open and self.open[0].is_done:
            yield self.open.pop(0)

    def _batch_for_new_group(self, step: int | None, current: RubricVersion) -> Batch:
        batch = next((batch for batch in self.open if not batch.is_closed), None)
        if batch and not batch.groups:  # all were withdrawn
            batch.step = step
        elif batch and step is not None and batch.step is not None and step > batch.step:
            batch.is_closed = True
        if batch is None or batch.is_closed:
            newest = self._newest
            version = newest.version if newest and step is not None and newest.step == step else current
            batch = self._newest = Batch(self._next, version, step)
            self._next += 1
            self.open.append(batch)
        return batch

    def _open_group(self, batch: Batch, submission: Submission, now: float) -> Group:
        group = Group(batch, submission.group_key, submission.group_size or self._group_size, now)
        batch.groups.append(group)
        batch.planned += group.size
        if batch.planned >= self._size:
            batch.is_closed = True
        self._joinable[group.key] = group
        return group

    def _join(self, group: Group, submission: Submission, now: float) -> Entry:
        entry = Entry(submission, group, group.batch.rows)
        group.batch.rows += 1
        group.entries.append(entry)
        group.touched = now
        if len(group.entries) >= group.size:
            self._close_group(group)
        return entry

    def _dissolve(self, group: Group) -> None:
        """Drops a group without answers; a batch without groups takes others."""
        batch = group.batch
        batch.groups.remove(group)
        batch.planned -= group.size
        batch.is_closed = batch.is_closed and bool(batch.groups)
        self._close_group(group)

    def _close_group(self, group: Group) -> None:
        group.is_late = True
        if self._joinable.get(group.key) is group:
            del self._joinable[group.key]
        group.update()


@dataclass(frozen=True)
class Score:
    """What a client is told of an answer.

    Attributes:
        reward: In [0, 1]; None where the answer could not be judged.
        version: Rubric version of the verdict.
        batch: The batch that the answer belongs to.
        verdict: The verdict.
        is_filled: The reward is its group's mean, because the answer could not be judged.
    """

    reward: float | None
    version: int
    batch: int
    verdict: Verdict
    is_filled: bool = False
