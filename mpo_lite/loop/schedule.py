"""When the rubric is rewritten, and how the outcome is put in force and on record.

A step is due every ``interval`` generation batches, and early when an alarm is raised. It begins between two
batches; what it comes to is published there and then, or, with ``publish_after``, that many batches later.
Each outcome goes to ``lineage.jsonl``; a resumed run takes outcomes from there, so that it follows the same
rubrics even where a call that failed then would succeed now.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from mpo_lite.alarms.alarms import Alarm
from mpo_lite.errors import EndpointError, JudgeDown
from mpo_lite.jsonl import JsonRow, journal
from mpo_lite.judge.base import Sample
from mpo_lite.llm import event_loop
from mpo_lite.loop.alarm_window import AlarmWindow, alarm_row
from mpo_lite.loop.gate_budget import gate_budget, paired_probes
from mpo_lite.loop.meta_step import RunSnapshot, meta_step
from mpo_lite.loop.session import Answer, Session
from mpo_lite.meta.meta_judge import rubric_changes
from mpo_lite.meta.refine import refine_rubric
from mpo_lite.rubric import Rubric
from mpo_lite.types import Rollout

MAX_REFUSALS = 3
"""Refusals in a row that raise an alarm: the meta-judge is at its wits' end."""
PROMPTS, ANSWERS = 8, 4
"""What the baseline *autoprompt* is refined on: prompts, and answers of the initial policy to each."""


class MetaScheduler:
    """Watches a run, and has its rubric rewritten.

    Args:
        session: The run.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._watch = AlarmWindow()
        self._rollouts: list[Rollout] = []  # of batches from _since on
        self._since = 0  # first batch that no step has looked at yet, nor one under way
        self._began = 0  # batch at which the last step began
        self._answered: list[str] = []  # alarms that a step was held for
        self._refusals = 0
        self._short = ""  # what was said of a step that the gate's budget does not cover
        self._outcomes: dict[int, JsonRow] = {}

    def add_batch(self, rollouts: Sequence[Rollout]) -> list[str]:
        """Takes in a judged batch; gives the names of standing alarms."""
        rollouts = _not_verified(rollouts)
        self._rollouts = self._kept([*self._rollouts, *rollouts], self._session.batch)
        self._tell(self._watch.add_batch(rollouts))
        return sorted(self._watch.raised)

    def between_batches(self, answer: Answer) -> None:
        """Between two batches: publishes what is ready, and begins a step if one is due.

        Raises:
            StopRun: A cap is reached, a model refuses for good, or the user stops the run.
        """
        session, after = self._session, self._session.config.publish_after
        if row := self._outcomes.pop(session.batch, None):
            self._settle(row)
        elif (version := self._pinned()) is not None:
            self._settle(self._pin_row(version))
        if session.batch == 0 and session.config.baseline == "autoprompt" and not session.version.number:
            self._settle(self._refined(answer))
        if self._due():
            self._began = session.batch
        if self._pending and not session.beside and not self._settled_later():
            self._begin(answer)
        if session.beside and session.batch >= self._began + after:
            self._finish()

    @property
    def _pending(self) -> bool:
        """Whether a step began whose outcome is not settled."""
        return self._since < self._began

    def _settled_later(self) -> bool:
        """Whether the outcome of the step under way is on record: the run was further on once."""
        return any(row["began"] == self._began for row in self._outcomes.values())

    def _due(self) -> bool:
        session = self._session
        config, batches = session.config, session.batch - self._began
        if session.meta is None or config.baseline or session.run.pinned.exists() or self._pending:
            return False
        fresh = set(self._watch.raised) - set(self._answered)
        early = config.schedule == "alarms" and fresh and batches >= config.cooldown
        return (batches >= config.interval or bool(early)) and self._affordable()

    def _affordable(self) -> bool:
        """Whether the gate's budget covers a step by now; says so once where it does not."""
        session, budget = self._session, gate_budget(self._session)
        if session.gate is None or budget is None:
            return True
        session.gate_judge.rewind(session.batch)
        cost = session.gate.max_cost(session.version.rubric) + self._paired
        used = session.gate_judge.used(before=session.batch)
        begins = budget.first_affordable_batch(cost, session.batch, used)
        if begins == session.batch:
            said = ""
        elif begins is not None:
            said = f"the meta step is postponed to batch {begins}: {budget} has to last for the whole run"
        elif used:
            said = f"no more meta steps: {budget} is spent; raise gate.share"
        else:
            said = f"no meta steps: {budget} does not cover the {cost} judgements of one; raise gate.share"
        if said and said != self._short:
            session.note(said)
        self._short = said
        return not said

    def _begin(self, answer: Answer) -> None:
        """Starts the step on what was seen before the batch it began at."""
        session, batch = self._session, self._began
        session.gate_judge.rewind(batch)
        if budget := gate_budget(session):
            session.gate_judge.left = budget.left(batch, session.gate_judge.used(before=batch))
        watch = self._watch
        if batch < session.batch:  # a resumed run had it under way
            watch = AlarmWindow(self._watch.frozen)
            watch.catch_up([each for each in _not_verified(session.run.journalled(0)) if each.batch < batch])
        now = RunSnapshot(
            batch=batch,
            version=session.version,
            rollouts=[rollout for rollout in self._rollouts if rollout.batch < batch],
            probes=self._probes(answer, batch),
            paired=self._paired,
            alarms=dict(watch.raised),
            latest=watch.latest,
            looked=self._looked(batch),
        )
        session.beside = event_loop.submit(meta_step(session, now))

    def _looked(self, batch: int) -> list[int]:
        """When the rubric in force was accepted, and the steps since, before the one at ``batch``."""
        number = self._session.version.number
        rows = [row for row in self._session.run.rows(self._session.run.lineage) if row["began"] < batch]
        return [row["began"] for row in rows if row["version"] == number]

    def _finish(self) -> None:
        """Waits for the step under way and puts its outcome in force."""
        session = self._session
        assert session.beside is not None
        try:
            row = event_loop.result(session.beside, session.raise_if_interrupted)
        except EndpointError as error:
            raise JudgeDown(str(error)) from None
        finally:
            session.beside = None
            session.warn()
        if session.run.pinned.exists():
            row |= {"status": "failed", "rubric": None}
            row |= {"reason": "a version was pinned by hand meanwhile"}
        self._settle(row)

    def _settle(self, row: JsonRow) -> None:
        """Publishes what a row says, and records it."""
        session = self._session
        is_accepted = row["status"] == "accepted"
        version = session.version.number + is_accepted
        if is_accepted:
            session.publish(Rubric.model_validate(row["rubric"]), row["author"])
        row = row | {"batch": session.batch, "version": version}
        journal(session.run.lineage, [row])
        if row["kind"] in ("meta", "rollback"):
            self._tell(self._watch.score(row["frozen"]))
            self._began = self._since = row["began"]
            if row["status"] in ("accepted", "unchanged"):
                self._answered = row["alarms"]  # else they stand as before, and ask for another step
            self._rollouts = [rollout for rollout in self._rollouts if rollout.batch >= self._since]
            refused = not is_accepted and any(each["status"] == "refused" for each in row["refused"])
            self._refusals = self._refusals + 1 if refused else 0
            if self._refusals == MAX_REFUSALS:
                said = f"{MAX_REFUSALS} proposals in a row were refused; the rubric stays as it is"
                self._tell([Alarm("gate_refusals", MAX_REFUSALS, MAX_REFUSALS, (), said)])
        session.observe("meta", row)

    def _probes(self, answer: Answer, batch: int) -> list[Sample]:
        """What the policy answers now to the anchor's prompts, those to be paired first; journalled, as its
        weights move on.
        """
        session = self._session
        path, count = session.run.probes, len(session.anchor)
        rows: list[JsonRow] = [row for row in session.run.rows(path) if row["batch"] == batch][-count:]
        if len(rows) < count:  # none, or as many as a kill let be written
            rows = []
            drawn = random.Random(f"probes-{session.config.seed}-{batch}")
            paired = drawn.sample(list(session.anchor), self._paired)
            others = [sample for sample in session.anchor if sample not in paired]
            for asked in (paired, others):
                answers = answer([sample.prompt for sample in asked]) if asked else []
                rows += [
                    {"batch": batch, "prompt": one.prompt, "completion": text, "cluster": one.cluster}
                    for one, text in zip(asked, answers, strict=True)
                ]
            journal(path, rows)
        return [Sample(row["prompt"], row["completion"], row["cluster"]) for row in rows]

    @property
    def _paired(self) -> int:
        """Probes that the meta-judge is shown beside what the initial policy answered."""
        return paired_probes(self._session.config, len(self._session.anchor))

    def _pinned(self) -> int | None:
        """The version that a person wants in force, unless its content is."""
        session = self._session
        if (number := session.run.pin) is None:
            return None
        same = session.run.version(number).rubric.set_hash == session.set_hash
        return None if same else number

    def _pin_row(self, number: int) -> JsonRow:
        rubric = self._session.run.version(number).rubric
        return self._by_hand("pin", rubric, f"v{number} pinned by hand") | {"author": f"pinned v{number}"}

    def _by_hand(self, kind: str, new: Rubric, reason: str) -> JsonRow:
        """A row for a rubric that comes from elsewhere than a meta step."""
        old = self._session.version
        return {
            "kind": kind,
            "began": self._session.batch,
            "status": "accepted",
            "reason": reason,
            "parent": old.number,
            **rubric_changes(old.rubric, new),
            "rubric": new.model_dump(mode="json"),
        }

    def _refined(self, answer: Answer) -> JsonRow:
        """The baseline *autoprompt*: a rubric refined on the initial policy's answers, then frozen."""
        session = self._session
        assert session.meta is not None
        drawn = random.Random(f"autoprompt-{session.config.seed}")
        prompts = drawn.sample(session.prompts.train, min(PROMPTS, len(session.prompts.train)))
        prompts = [prompt for prompt in prompts for _ in range(ANSWERS)]
        samples = list(map(session.sample, prompts, answer(prompts)))
        work = refine_rubric(
            session.meta, session.gate_judge, session.task, session.config, session.version.rubric, samples
        )
        try:
            rounds = event_loop.wait(work, session.raise_if_interrupted)
        except EndpointError as error:
            raise JudgeDown(str(error)) from None
        told = [one.outcome.reason or "accepted" for one in rounds]
        new = rounds[-1].rubric
        row = self._by_hand("refine", new, f"refined in {len(rounds)} rounds: {'; '.join(told)}")
        status = "unchanged" if new.set_hash == session.set_hash else "accepted"
        return row | {"status": status, "author": session.meta.backend.model}

    def _tell(self, alarms: Sequence[Alarm]) -> None:
        session = self._session
        if not alarms:
            return
        raised = {(row["batch"], row["name"]) for row in session.run.rows(session.run.alarms)}
        for row in (alarm_row(alarm, session.batch) for alarm in alarms):
            if (row["batch"], row["name"]) not in raised:  # a step that is done again raises the same
                journal(session.run.alarms, [row])
                session.observe("alarm", row)

    def _kept(self, rollouts: Sequence[Rollout], batch: int) -> list[Rollout]:
        """Those that a step may still look at: where steps wait, the latest of them."""
        config = self._session.config
        first = max(self._since, batch - 2 * config.interval - config.publish_after)
        return [rollout for rollout in rollouts if rollout.batch >= first]

    def state(self) -> JsonRow:
        """What a checkpoint keeps."""
        return {
            "since": self._since,
            "began": self._began,
            "answered": self._answered,
            "refusals": self._refusals,
            "frozen": dict(self._watch.frozen),
        }

    def restore(self, state: JsonRow, batch: int, journalled: Sequence[Rollout]) -> None:
        """Goes back to where ``batch`` batches were done.

        Args:
            state: As ``state`` gave it; empty at the beginning.
            batch: Generation batches done.
            journalled: All rollouts before it.
        """
        journalled = _not_verified(journalled)
        self._since, self._began = state.get("since", 0), state.get("began", 0)
        self._answered, self._refusals = state.get("answered", []), state.get("refusals", 0)
        self._rollouts = self._kept(journalled, batch)
        self._watch = AlarmWindow(state.get("frozen", {}))
        self._watch.catch_up(journalled)
        self._outcomes = self._session.run.meta_outcomes(batch)


def _not_verified(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Without those of batches that no judge saw: alarms and meta steps are about judging."""
    verified = {rollout.batch for rollout in rollouts if rollout.verdict.source == "verifier"}
    return [rollout for rollout in rollouts if rollout.batch not in verified]
