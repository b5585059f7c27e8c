"""When the rubric is rewritten, and how the outcome is published and recorded.

A step is due every ``interval`` generation batches, and early when an alarm fires. It begins between two
batches; its outcome is published there and then or, with ``publish_after``, that many batches later. Each
outcome goes to ``lineage.jsonl``; a resumed run takes outcomes from there, so that it follows the same
rubrics even where a call that failed then would succeed now.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import Future

from mpo_lite.alarms.alarms import Alarm
from mpo_lite.errors import EndpointError, JudgeDown
from mpo_lite.jsonl import JsonRow, journal
from mpo_lite.judge.base import Sample
from mpo_lite.llm import event_loop
from mpo_lite.loop.alarm_window import AlarmWindow, alarm_row, is_answered, leave_out_verified
from mpo_lite.loop.audit import Auditor
from mpo_lite.loop.distributed import is_main
from mpo_lite.loop.gate_budget import GateBudget, cost_of_pairs, gate_budget, paired_probes
from mpo_lite.loop.history import run_history
from mpo_lite.loop.meta_step import RunSnapshot, meta_step
from mpo_lite.loop.session import Answer, Session, answer_row
from mpo_lite.loop.version_scale import version_offset, version_scale
from mpo_lite.meta.refine import refine_rubric
from mpo_lite.rubric import Rubric, rubric_changes
from mpo_lite.types import Rollout

MAX_REFUSALS = 3
"""Refusals in a row that raise an alarm: the meta-judge finds no rubric that the gate accepts."""
PROMPTS, ANSWERS = 8, 4
"""What the baseline *autoprompt* is refined on: prompts, and answers of the initial policy to each."""


class MetaScheduler:
    """Watches a run, and has its rubric rewritten.

    Args:
        session: The run.
        waits: Whether a batch waits for the outcome of a step that is to be published before it. Otherwise
            the outcome is published before the first batch after it is there.
    """

    def __init__(self, session: Session, waits: bool = True) -> None:
        self._session, self._waits = session, waits
        self._window = AlarmWindow()
        self._rollouts: list[Rollout] = []  # of batches after _since
        self._since = 0  # batches that a step has looked at
        self._began = 0  # batches done when the last step began
        self._answered: list[str] = []  # alarms that a step was held for
        self._answered_signs: list[str] = []  # phrases and the like that these named
        self._signs: list[str] = []  # those that the step under way looks at
        self._refusals = 0
        self._last_note = ""  # about a step that the gate's budget does not cover
        self._outcomes: dict[int, JsonRow] = {}
        self._step: Future[JsonRow] | None = None
        auditor = session.models.auditor
        self._auditor = Auditor(session, auditor) if auditor and is_main() else None
        session.at_close(self._cancel_step)

    def add_batch(self, rollouts: Sequence[Rollout]) -> list[str]:
        """Takes in a judged batch; returns the names of active alarms."""
        rollouts = leave_out_verified(rollouts)
        self._rollouts = self._recent([*self._rollouts, *rollouts], self._session.state.batch)
        if self._auditor:
            self._auditor.begin(rollouts)
            session = self._session
            if gap := self._auditor.gap(session.state.batch - 1):
                session.add_metrics(audit_gap=gap.mean, audit_low=gap.low, audit_high=gap.high)
            session.add_metrics(audit_preferred=self._auditor.preferred(session.state.batch - 2))
        self._record_alarms(self._window.add_batch(rollouts))
        return sorted(self._window.raised)

    @property
    def has_outcome(self) -> bool:
        """Whether a step under way has ended, and its outcome is not settled yet."""
        return self._step is not None and self._step.done()

    def between_batches(self, answer: Answer | None) -> None:
        """Publishes what is ready, and begins a step if one is due.

        Args:
            answer: The policy; None where it is out of reach: then no step sees what it answers to the
                anchor's prompts by now.

        Raises:
            StopRun: A cap is reached, a model rejects calls permanently, or the user stops the run.
        """
        session, after, batch = self._session, self._session.config.publish_after, self._session.state.batch
        if self._auditor:
            # Those of the last step are under way, unless that was before a kill.
            self._auditor.begin_pairs(self._began, self._recorded_probes(self._began))
            self._auditor.collect()
            self._record_alarms(self._window.add_audit(self._audit_alarm(batch)))
        if row := self._outcomes.pop(batch, None):
            self._settle(row)
        elif (version := self._find_pin()) is not None:
            self._settle(self._pin_row(version))
        if session.config.baseline == "autoprompt" and not batch and not session.state.version.number:
            assert answer is not None
            self._settle(self._refine_once(answer))
        if self._is_due():
            self._began = batch
        if self._is_pending and not self._step and not self._has_recorded_outcome():
            self._begin(answer)
        if self._step and batch >= self._began + after and (self._waits or self._step.done()):
            self._finish(self._step)

    @property
    def _is_pending(self) -> bool:
        """Whether a step began whose outcome is not settled."""
        return self._since < self._began

    def _has_recorded_outcome(self) -> bool:
        """Whether the outcome of the pending step is on record: before a kill, the run had come further."""
        return any(row["began"] == self._began for row in self._outcomes.values())

    def _is_due(self) -> bool:
        session = self._session
        config, batches = session.config, session.state.batch - self._began
        if session.meta is None or config.baseline or session.run.pinned.exists() or self._is_pending:
            return False
        alarms = self._window.raised.values()
        fresh = [each for each in alarms if not is_answered(each, self._answered, self._answered_signs)]
        early = config.schedule == "alarms" and fresh and batches >= config.cooldown
        return (batches >= config.interval or bool(early)) and self._is_affordable()

    def _is_affordable(self) -> bool:
        """Whether the gate's budget covers a step by now; reports once where it does not."""
        session, batch, budget = self._session, self._session.state.batch, self._gate_budget
        if session.gate is None or budget is None:
            return True
        session.gate_judge.rewind(batch)
        cost = session.gate.max_cost(session.rubric) + cost_of_pairs(session.config, session.gate)
        note = budget.describe_shortage(cost, batch, session.gate_judge.spent_before(batch))
        if note and note != self._last_note:
            session.context.note(note)
        self._last_note = note
        return not note

    @property
    def _gate_budget(self) -> GateBudget | None:
        return gate_budget(self._session.context, self._session.state.anchor)

    def _begin(self, answer: Answer | None) -> None:
        """Starts the step on the batches done when it became due."""
        session, batch = self._session, self._began
        session.gate_judge.rewind(batch)
        if budget := self._gate_budget:
            session.gate_judge.left = budget.allowance(batch, session.gate_judge.spent_before(batch))
        window = self._window
        if batch < session.state.batch:  # a resumed run had it under way
            window = AlarmWindow(self._window.first_scores, self._audit_alarm(batch))
            rollouts = leave_out_verified(session.run.read_rollouts())
            window.catch_up([rollout for rollout in rollouts if rollout.batch <= batch])
        snapshot = RunSnapshot(
            batch=batch,
            version=session.state.version,
            rollouts=[rollout for rollout in self._rollouts if rollout.batch <= batch],
            probes=self._probes(answer, batch),
            paired=self._count_paired,
            alarms=dict(window.raised),
            latest=window.latest,
            checks=self._count_checks(batch),
            history=run_history(session, batch),  # read here: the step itself runs on the event loop
        )
        self._signs = sorted({sign for alarm in window.raised.values() for sign in alarm.signs})
        if self._auditor:
            self._auditor.begin_pairs(batch, snapshot.probes)
        self._step = event_loop.submit(meta_step(session, snapshot))

    def _count_checks(self, batch: int) -> int:
        """Steps that looked at the current rubric before the one at ``batch``, with the one that made it."""
        number = self._session.state.version.number
        rows = [row for row in self._session.run.rows(self._session.run.lineage) if row["began"] < batch]
        return sum(row["version"] == number for row in rows)

    def _finish(self, step: Future[JsonRow]) -> None:
        """Waits for the step under way and settles its outcome."""
        session = self._session
        try:
            row = event_loop.result(step, session.raise_if_interrupted)
        except EndpointError as error:
            raise JudgeDown(str(error)) from None
        finally:
            self._step = None
            session.context.warn_near_caps()
        if session.run.pinned.exists():
            row |= {"status": "failed", "rubric": None}
            row |= {"reason": "a version was pinned by hand meanwhile"}
        self._settle(row | {"alarm_signs": self._signs})

    def _cancel_step(self) -> None:
        if self._step:
            self._step.cancel()  # its answers so far are cached

    def _settle(self, row: JsonRow) -> None:
        """Publishes the rubric of a row if it was accepted, and records the row."""
        session = self._session
        is_accepted = row["status"] == "accepted"
        if is_accepted:
            rubric = Rubric.model_validate(row["rubric"])
            known = (session.state.version, rubric, session.state.anchor, session.gate_judge)
            # A row from before a kill has its own: by now, more of the anchor may have been judged.
            row = {"scale": version_scale(*known), "offset": version_offset(*known)} | row
            session.publish(rubric, row["author"], row["scale"], row["offset"])
        row = row | {"batch": session.state.batch, "version": session.state.version.number}
        journal(session.run.lineage, [row])
        if row["kind"] in ("meta", "rollback"):
            self._record_alarms(self._window.add_first_scores(row["frozen"]))
            self._began = self._since = row["began"]
            if row["status"] in ("accepted", "unchanged"):
                # Otherwise they still ask for a step.
                self._answered, self._answered_signs = row["alarms"], row["alarm_signs"]
            self._rollouts = [rollout for rollout in self._rollouts if rollout.batch > self._since]
            refused = not is_accepted and any(attempt["status"] == "refused" for attempt in row["refused"])
            self._refusals = self._refusals + 1 if refused else 0
            if self._refusals == MAX_REFUSALS:
                detail = f"{MAX_REFUSALS} proposals in a row were refused; the rubric stays as it is"
                self._record_alarms([Alarm("gate_refusals", MAX_REFUSALS, MAX_REFUSALS, (), detail)])
        session.context.observe("meta", row)

    def _audit_alarm(self, batch: int) -> Alarm | None:
        """What the audits of the first ``batch`` batches raise."""
        gap = self._auditor.gap(batch) if self._auditor else None
        return gap.alarm if gap else None

    def _probes(self, answer: Answer | None, batch: int) -> list[Sample]:
        """What the policy answers now to the anchor's prompts, those to be paired first; journalled, as its
        weights move on.
        """
        session = self._session
        path, anchor = session.run.probes, session.state.anchor
        recorded = self._recorded_probes(batch)
        if recorded or not anchor or answer is None:
            return recorded
        rows: list[JsonRow] = []
        drawn = random.Random(f"probes-{session.config.seed}-{batch}")
        paired = drawn.sample(list(anchor), self._count_paired)
        unpaired = [sample for sample in anchor if sample not in paired]
        for samples in (paired, unpaired):
            prompts = [sample.prompt for sample in samples]
            answers = answer(prompts) if prompts else []
            rows += [{"batch": batch, **row} for row in map(answer_row, prompts, answers)]
        journal(path, rows)
        return self._recorded_probes(batch)

    def _recorded_probes(self, batch: int) -> list[Sample]:
        """Those of the step at ``batch``; none where a kill came before all of them were written."""
        session, count = self._session, len(self._session.state.anchor)
        rows = [row for row in session.run.rows(session.run.probes) if row["batch"] == batch][-count:]
        return session.to_samples(rows) if len(rows) == count else []

    @property
    def _count_paired(self) -> int:
        """Probes that the meta-judge is shown next to what the initial policy answered."""
        return paired_probes(self._session.config, len(self._session.state.anchor))

    def _find_pin(self) -> int | None:
        """The version that a person pinned, unless its content is current already."""
        session = self._session
        if (number := session.run.pin) is None:
            return None
        same = session.run.version(number).rubric.set_hash == session.rubric.set_hash
        return None if same else number

    def _pin_row(self, number: int) -> JsonRow:
        rubric = self._session.run.version(number).rubric
        row = self._row_without_step("pin", rubric, f"v{number} pinned by hand")
        return row | {"author": f"pinned v{number}"}

    def _row_without_step(self, kind: str, new: Rubric, reason: str) -> JsonRow:
        """A row for a rubric that does not come from a meta step."""
        old = self._session.state.version
        return {
            "kind": kind,
            "began": self._session.state.batch,
            "status": "accepted",
            "reason": reason,
            "parent": old.number,
            **rubric_changes(old.rubric, new),
            "rubric": new.model_dump(mode="json"),
        }

    def _refine_once(self, answer: Answer) -> JsonRow:
        """The baseline *autoprompt*: a rubric refined on the initial policy's answers, then frozen."""
        session, train = self._session, self._session.state.prompts.train
        assert session.meta is not None
        drawn = random.Random(f"autoprompt-{session.config.seed}")
        prompts = drawn.sample(train, min(PROMPTS, len(train)))
        prompts = [prompt for prompt in prompts for _ in range(ANSWERS)]
        samples = session.to_samples(list(map(answer_row, prompts, answer(prompts))))
        work = refine_rubric(
            session.meta, session.gate_judge, session.task, session.config, session.rubric, samples
        )
        try:
            rounds = event_loop.wait(work, session.raise_if_interrupted)
        except EndpointError as error:
            raise JudgeDown(str(error)) from None
        outcomes = "; ".join(round_.outcome.reason or "accepted" for round_ in rounds)
        new = rounds[-1].rubric
        row = self._row_without_step("refine", new, f"refined in {len(rounds)} rounds: {outcomes}")
        status = "unchanged" if new.set_hash == session.rubric.set_hash else "accepted"
        return row | {"status": status, "author": session.meta.backend.model}

    def _record_alarms(self, alarms: Sequence[Alarm]) -> None:
        session = self._session
        if not alarms:
            return
        recorded = {(row["batch"], row["name"]) for row in session.run.rows(session.run.alarms)}
        for row in (alarm_row(alarm, session.state.batch) for alarm in alarms):
            if (row["batch"], row["name"]) not in recorded:  # a step that is done again raises the same
                journal(session.run.alarms, [row])
                session.context.observe("alarm", row)

    def _recent(self, rollouts: Sequence[Rollout], batch: int) -> list[Rollout]:
        """Those that a step may still look at: the latest ones, where steps are postponed."""
        config = self._session.config
        since = max(self._since, batch - 2 * config.interval - config.publish_after)
        return [rollout for rollout in rollouts if rollout.batch > since]

    def state(self) -> JsonRow:
        """What a checkpoint keeps."""
        return {
            "since": self._since,
            "began": self._began,
            "answered": self._answered,
            "answered_signs": self._answered_signs,
            "refusals": self._refusals,
            "first_scores": dict(self._window.first_scores),
        }

    def restore(self, state: JsonRow, batch: int, journalled: Sequence[Rollout]) -> None:
        """Goes back to where ``batch`` batches were done.

        Args:
            state: As ``state`` returned it; empty at the beginning.
            batch: Generation batches done.
            journalled: All rollouts of these batches.
        """
        journalled = leave_out_verified(journalled)
        self._since, self._began = state.get("since", 0), state.get("began", 0)
        self._answered, self._answered_signs = state.get("answered", []), state.get("answered_signs", [])
        self._refusals = state.get("refusals", 0)
        self._rollouts = self._recent(journalled, batch)
        self._window = AlarmWindow(state.get("first_scores", {}), self._audit_alarm(batch - 1))
        self._window.catch_up(journalled)
        if self._auditor:  # the last batch's audit was under way
            self._auditor.begin([rollout for rollout in journalled if rollout.batch == batch])
        self._outcomes = self._session.run.meta_outcomes(batch)
