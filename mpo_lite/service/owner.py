"""The owner of a run whose policy trains elsewhere: it judges, journals, and has the rubric rewritten.

Answers are judged as they come, and journalled before their clients hear of it. What follows a batch
(metrics, alarms, meta step) happens once all of its answers are there, in a thread, while the next ones are
judged already. Everything else runs on the event loop of model calls.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from mpo_lite.errors import BudgetReached, StopRun, Unavailable
from mpo_lite.jsonl import JsonRow, journal, write_atomically
from mpo_lite.judge.base import Sample
from mpo_lite.loop.reward import summarize_batch
from mpo_lite.loop.schedule import MetaScheduler
from mpo_lite.loop.session import Answer, Session
from mpo_lite.sanitize import strip_thinking
from mpo_lite.service.anchor import record_anchor
from mpo_lite.service.batches import Batch, Batches, Entry, Score, Submission
from mpo_lite.service.breaker import Breaker
from mpo_lite.service.restart import Judged, PromptRows, journal_row, read_service_state, restore
from mpo_lite.tasks.rules import rule_verdict
from mpo_lite.types import Verdict

TICK_S = 0.25
"""How often groups that nothing joins any more, and requests to stop, are looked for."""
MOST_IN_FLIGHT = 20_000
"""Answers that are taken at a time; further ones come again later."""
LATEST = 256
"""Latest rewards whose mean stands for that of a group in which nothing could be judged."""


class RubricOwner:
    """Judges what clients send in, and keeps the run.

    Args:
        session: The run.
        rows: Prompt → row, as the run's prompts have it; what clients say of prompts is added.
        group_wait_s: Seconds without a further answer after which a prompt group is taken as it is.
        answer: The policy; None where it is out of reach.

    Attributes:
        figures: Of the policy's training, as last measured; they go into the row of each batch.
        reached: The cap that kept answers from being judged.
    """

    def __init__(
        self,
        session: Session,
        rows: dict[str, JsonRow],
        group_wait_s: float,
        answer: Answer | None = None,
    ) -> None:
        config = session.config
        self.session, self._group_wait_s, self._answer = session, group_wait_s, answer
        self.figures: JsonRow = {}
        self.scheduler = MetaScheduler(session, waits=False)
        self.breaker = Breaker(session)
        self._judged, self._prompts = Judged(), PromptRows(session.run, rows)
        self._batches = Batches(0, config.batch_completions, config.group_size, group_wait_s)
        self._latest: deque[float] = deque(maxlen=LATEST)
        self._unwritten: list[JsonRow] = []
        self._writing, self._finishing = asyncio.Lock(), asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()
        self.in_flight = 0
        self.is_stopping = False
        self.problem = ""
        self._failure: Exception | None = None
        self.reached: BudgetReached | None = None
        self._alarms: Sequence[str] = ()

    def start(self, answers_anew: bool = False) -> None:
        """Finds the place in the run: its beginning, or where a kill or a stop left it. Blocks.

        Args:
            answers_anew: The policy answers the prompts of open batches again; otherwise clients send the
                answers that they have.
        """
        session, config = self.session, self.session.config
        state = read_service_state(session.run)
        self._batches = Batches(state.batch, config.batch_completions, config.group_size, self._group_wait_s)
        journalled = session.resume(state.batch, state.version, state.fell_back)
        self.scheduler.restore(state.scheduler, state.batch, journalled)
        del journalled  # of a long run, it is large
        session.load_anchor()
        if state.batch:
            self._between_batches()  # repeats what followed the last batch
        if not answers_anew:
            self._judged = restore(session, self._batches, state.batch)

    async def score(self, submissions: Sequence[Submission], fill: bool) -> list[Score]:
        """Judges answers.

        Args:
            submissions: N answers.
            fill: Whether one that cannot be judged waits for its group and gets the group's mean, for an
                engine that knows no missing reward.

        Returns:
            N scores in order.

        Raises:
            Unavailable: The service stops, or the judge is down: try again later.
            BudgetReached: A cap is reached.
        """
        self.breaker.require_judge()
        if self.in_flight + len(submissions) > MOST_IN_FLIGHT:
            raise Unavailable(f"more than {MOST_IN_FLIGHT:,} answers are being judged", 1)
        if self.is_stopping:
            raise Unavailable("the service is stopping; it continues where it stopped once started again", 5)
        self.in_flight += len(submissions)
        task = asyncio.current_task()
        assert task
        self._running.add(task)
        try:
            entries = [self._place(submission) for submission in submissions]
            await self._judge([entry for entry in entries if entry.verdict is None])
            self._finish_done_batches()
            return [await self._score(entry, fill) for entry in entries]
        finally:
            self.in_flight -= len(submissions)
            self._running.discard(task)

    async def watch(self) -> None:
        """Runs until the service is to stop: gives up on late groups, publishes rubrics, minds ``STOP``."""
        while not self.is_stopping:
            await asyncio.sleep(TICK_S)
            self._batches.expire(time.monotonic())
            self._finish_done_batches()
            if self.session.state.interrupted or self.session.run.asked_to_stop():
                self.is_stopping = True

    async def stop(self) -> None:
        """Finishes what is done, and ends; open batches are completed after a restart.

        Raises:
            Exception: What the service stopped for, such as a full disk.
        """
        self.is_stopping = True
        for task in (running := list(self._running)):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._failure:
            raise self._failure
        await self._finish()

    def close_batch(self) -> int | None:
        """Ends the current batch: further prompts belong to the next.

        Returns:
            Its number; None where no batch takes prompts.
        """
        number = self._batches.close()
        self._finish_done_batches()
        return number

    def status(self) -> JsonRow:
        """Where the run stands."""
        session, state = self.session, self.session.state
        return {
            "version": state.version.number,
            "batch": state.batch,
            "in_flight": self.in_flight,
            "open_batches": [
                {"batch": batch.number, "version": batch.version.number, "answers": batch.rows}
                for batch in self._batches.open
            ],
            "alarms": list(self._alarms),
            "judge": session.models.judged_by,
            "problem": self.breaker.problem or self.problem,
            "run": str(session.run.path),
            **session.spend(),
        }

    def _place(self, submission: Submission) -> Entry:
        if before := self._judged.claim(submission):
            return before
        self._prompts.add(submission)
        return self._batches.place(submission, self.session.state.version, time.monotonic())

    async def _judge(self, entries: Sequence[Entry]) -> None:
        """Judges answers that have no verdict, and journals them."""
        if self.session.config.judge_mode == "groupwise":
            groups = list(dict.fromkeys(entry.group for entry in entries))
            await asyncio.gather(*(group.complete.wait() for group in groups))
            # Whoever comes first has the whole group judged; the others wait for it.
            mine = [group for group in groups if not group.is_being_judged]
            for group in mine:
                group.is_being_judged = True
            await asyncio.gather(*(self._judge_together(group.entries) for group in mine))
            await asyncio.gather(*(group.judged.wait() for group in groups))
            return
        by_batch: dict[Batch, list[Entry]] = {}
        for entry in entries:
            by_batch.setdefault(entry.group.batch, []).append(entry)
        await asyncio.gather(*map(self._judge_together, by_batch.values()))

    async def _judge_together(self, entries: Sequence[Entry]) -> None:
        session, batch = self.session, entries[0].group.batch
        rubric = batch.version.rubric
        samples = [self._sample(entry.submission) for entry in entries]
        verdicts: list[Verdict | None] = [
            rule_verdict(sample.completion, rubric.set_hash, session.task.rules) for sample in samples
        ]
        undecided = [row for row, verdict in enumerate(verdicts) if verdict is None]
        try:
            judged = await self.breaker.verdicts([samples[row] for row in undecided], rubric)
        except BaseException as error:
            self.problem = str(error)
            self.reached = error if isinstance(error, BudgetReached) else None
            self._batches.withdraw(entries, time.monotonic())
            raise
        for row, verdict in zip(undecided, judged, strict=True):
            verdicts[row] = verdict
        for entry, verdict in zip(entries, verdicts, strict=True):
            entry.verdict = verdict
            if verdict and verdict.reward is not None:
                self._latest.append(verdict.reward)
        await self._write([journal_row(entry) for entry in entries])
        for group in {entry.group for entry in entries}:
            group.update()

    def _sample(self, submission: Submission) -> Sample:
        completion = strip_thinking(submission.completion)
        return self.session.context.sample(submission.prompt, completion, submission.truncated)

    async def _write(self, rows: Sequence[JsonRow]) -> None:
        """Journals rows, together with those that others have to write."""
        self._unwritten += rows
        async with self._writing:
            if unwritten := self._unwritten:
                self._unwritten = []
                try:
                    await asyncio.to_thread(self._prompts.write)
                    await asyncio.to_thread(journal, self.session.run.rollouts, unwritten)
                except OSError as error:
                    self._fail(error)
        if self._failure:  # also for those whose rows another has tried to write
            raise Unavailable(f"the service stops: {self._failure}", 5)

    async def _score(self, entry: Entry, fill: bool) -> Score:
        batch, verdict = entry.group.batch, entry.verdict
        if verdict is None:  # withdrawn, with the group that it was to be judged in
            raise Unavailable(self.problem, 5)
        if verdict.reward is not None or not fill:
            return Score(verdict.reward, batch.version.number, batch.number, verdict)
        with suppress(TimeoutError):
            await asyncio.wait_for(entry.group.judged.wait(), self._group_wait_s)
        mean = entry.group.mean_reward()
        if mean is None and self._latest:
            mean = sum(self._latest) / len(self._latest)
        if mean is None:
            raise Unavailable(
                f"not judged ({verdict.failure}), and there is no reward yet to compare with", 5
            )
        batch.filled += 1
        return Score(mean, batch.version.number, batch.number, verdict, is_filled=True)

    def _finish_done_batches(self) -> None:
        """Has what follows a batch done in the background, where there is something."""
        is_done = bool(self._batches.open) and self._batches.open[0].is_done
        if (is_done or self.scheduler.has_outcome) and not self._finishing.locked():
            task = asyncio.ensure_future(self._finish())
            task.add_done_callback(self._note_failure)

    async def _finish(self) -> None:
        async with self._finishing:
            for batch in self._batches.take_done():
                await asyncio.to_thread(self._finish_batch, batch)
            if self.scheduler.has_outcome:  # open batches keep the version they began with
                await asyncio.to_thread(self._between_batches)

    def _note_failure(self, task: asyncio.Future[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Stops the service: it cannot keep the run."""
        self._failure, self.problem, self.is_stopping = error, str(error), True

    def _finish_batch(self, batch: Batch) -> None:
        """What follows a batch: metrics, alarms, and the meta step if one is due."""
        session = self.session
        groups = [
            [rollout for entry in group.entries if (rollout := entry.to_rollout())] for group in batch.groups
        ]
        groups = [group for group in groups if group]
        rollouts = [rollout for group in groups for rollout in group]
        session.finish_batch(
            summarize_batch(groups)
            | {
                "batch": batch.number,
                "version": batch.version.number,
                "set_hash": batch.version.rubric.set_hash,
                "judge": session.models.judged_by,
                "filled": batch.filled,
            }
        )
        record_anchor(session)
        self._alarms = self.scheduler.add_batch(rollouts)
        session.add_metrics(alarms=self._alarms, **self.figures)
        row = session.take_metrics() | session.spend()
        journal(session.run.metrics, [row])
        session.context.observe("step", row)
        self._save_state()
        self._between_batches()

    def _between_batches(self) -> None:
        session = self.session
        if session.config.use_gate and session.meta and not session.state.anchor:
            return  # nothing yet to check a proposal by
        problem = ""
        try:
            self.scheduler.between_batches(self._answer)
        except StopRun as stop:  # rewards are given all the same, as long as they can be
            problem = f"no meta step: {stop}"
        if problem and problem != self.problem:
            session.context.note(problem)
        self.problem = problem

    def _save_state(self) -> None:
        session = self.session
        state = {
            "batch": session.state.batch,
            "version": session.state.version.number,
            "fell_back": session.models.fell_back,
            "scheduler": self.scheduler.state(),
        }
        write_atomically(session.run.service_state, json.dumps(state))
