"""One meta step within a run: audits, a recheck of the current rubric, the proposal, its way into a row.

All that a step rests on is on disk: rollouts, probes, trials. So a step that a kill cut short is the same
step when it is done again.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from mpo_lite.alarms.alarms import Alarm
from mpo_lite.jsonl import JsonRow
from mpo_lite.judge.base import Sample
from mpo_lite.loop.meta_material import (
    choose_rollouts,
    find_unsure,
    gather_background,
    group_verdicts,
    recent_groups,
)
from mpo_lite.loop.session import Session
from mpo_lite.meta.criterion_stats import CriterionStats, criterion_stats, describe_stats
from mpo_lite.meta.gate import GateResult
from mpo_lite.meta.meta_model import Question
from mpo_lite.meta.objections import join_objections
from mpo_lite.meta.sampling import stratified_sample
from mpo_lite.meta.step import Attempt, StepInput, StepOutcome, improve_rubric
from mpo_lite.rubric import Rubric, rubric_changes
from mpo_lite.run_dir import RubricVersion
from mpo_lite.types import Rollout, Verdict

AUDITS = 8
"""Rollouts per step that are judged a second time, by a sampled judgement, and by the first rubric."""


@dataclass(frozen=True)
class RunSnapshot:
    """Where a run stands when a step begins.

    Attributes:
        batch: Generation batches done.
        version: The current rubric.
        rollouts: Answers of the batches since the last step began.
        probes: The policy's present answers to the prompts of the anchor.
        paired: How many of these, from the first, the meta-judge is shown next to the initial policy's.
        alarms: Those standing.
        latest: The answers these looked at.
        checks: Steps that looked at the current rubric before, with the one that made it.
        history: What became of earlier rubrics and proposals, for the meta-judge.
    """

    batch: int
    version: RubricVersion
    rollouts: Sequence[Rollout]
    probes: Sequence[Sample]
    paired: int
    alarms: Mapping[str, Alarm]
    latest: Sequence[Rollout]
    checks: int
    history: str = ""


async def meta_step(session: Session, snapshot: RunSnapshot) -> JsonRow:
    """Runs a step.

    Returns:
        Its row of the lineage; ``frozen`` in it is the score under the first rubric of what was audited,
        ``probes`` that of the probes.

    Raises:
        StopRun: A cap is reached.
        EndpointError: Judge or meta-judge rejects calls permanently.
    """
    frozen: dict[str, float] = {}
    row: JsonRow | None = None
    probes: JsonRow = {}
    try:
        async with asyncio.timeout(session.config.meta_timeout):
            row = await _step(session, snapshot, frozen)
            probes = await _probes_by_first(session, snapshot)
    except TimeoutError:
        late = f"the meta step was not done after {session.config.meta_timeout:g} s"
        # Where only the probes are late, what the step came to stands.
        row = row or _row(session, snapshot, StepOutcome((Attempt("failed", None, late),)), {}, GateResult())
    return row | {"frozen": frozen, "probes": probes}


async def _probes_by_first(session: Session, snapshot: RunSnapshot) -> JsonRow:
    """The fixed prompts' answers by the first rubric, then and now: the one reward that stays comparable
    while rubrics change. Last, and only of what another check of a proposal would leave.

    Returns:
        Mean rewards ``before`` (the initial policy's answers) and ``now`` over the ``n`` prompts of which
        both are judged; empty where nothing was measured.
    """
    if session.gate is None or not snapshot.probes:
        return {}
    first, gate_judge = session.run.version(0).rubric, session.gate_judge
    answers = {sample.prompt: sample for sample in snapshot.probes}
    both = [*session.state.anchor, *(answers[sample.prompt] for sample in session.state.anchor)]
    reserve = session.gate.max_cost(snapshot.version.rubric)
    if gate_judge.count_calls([both], first) > gate_judge.left - reserve:
        return {}
    rewards = [verdict.reward for verdict in await gate_judge.verdicts(both, first, snapshot.batch)]
    half = len(session.state.anchor)
    pairs = [
        (old, new)
        for old, new in zip(rewards[:half], rewards[half:], strict=True)
        if old is not None and new is not None
    ]
    if not pairs:
        return {}
    before, today = (statistics.fmean(pair[side] for pair in pairs) for side in (0, 1))
    return {"n": len(pairs), "before": before, "now": today}


async def _step(session: Session, snapshot: RunSnapshot, frozen: dict[str, float]) -> JsonRow:
    rubric, batch, config = snapshot.version.rubric, snapshot.batch, session.config
    judged = [rollout for rollout in snapshot.rollouts if rollout.version == snapshot.version.number]
    repeats: dict[str, Verdict] = {}
    recheck = GateResult()
    phrases = [phrase for alarm in snapshot.alarms.values() for phrase in alarm.phrases]
    if session.gate:
        repeats = await _audit(session, snapshot, frozen)
        if snapshot.version.number:
            recheck = await session.gate.recheck(
                rubric, snapshot.checks, [*group_verdicts(judged).values()], batch, phrases
            )
            if recheck.objections and (row := await _rollback(session, snapshot, recheck)):
                return row
    health = criterion_stats(rubric, judged, repeats)
    probes, initial = await _judge_probes(session, snapshot)
    question = Question(
        rubric,
        f"batch-{batch}",
        _figures(health, snapshot.alarms, recheck),
        snapshot.history,
        demands_change=bool(snapshot.alarms or recheck.objections or recheck.hints),
    )
    suspicious = [name for alarm in snapshot.alarms.values() for name in alarm.evidence]
    suspicious += find_unsure(judged, repeats)
    chosen = await choose_rollouts(
        session, question, judged, probes, f"select-{config.seed}-{batch}", suspicious
    )
    if not chosen:
        none = StepOutcome((Attempt("failed", None, "no judged rollouts to learn from"),))
        return _row(session, snapshot, none, health, recheck)
    background = await gather_background(session, question.rubric, judged, chosen, initial)
    material = StepInput(question, chosen, batch, background, recent_groups(session, judged), phrases)
    assert session.meta is not None
    outcome = await improve_rubric(session.meta, session.gate, material, config.strategy)
    return _row(session, snapshot, outcome, health, recheck)


async def _audit(session: Session, snapshot: RunSnapshot, frozen: dict[str, float]) -> dict[str, Verdict]:
    """Judges some of the latest rollouts again, and by the first rubric; fewer where calls are short.

    Returns:
        Rollout id → the second verdict.
    """
    assert session.gate is not None
    gate_judge, rubric = session.gate.gate_judge, snapshot.version.rubric
    first = session.run.version(0).rubric
    latest = [rollout for rollout in snapshot.latest if rollout.version == snapshot.version.number]
    # The gate comes first: what it will need, for a second try too, is kept for it. (That one is cheaper by
    # the anchor's answers under the current rubric, which covers the probes.)
    reserve = 2 * session.gate.max_cost(rubric)
    spare = int(max(0, gate_judge.left - reserve)) // (2 * gate_judge.cost.most_calls(1, 1, 1))
    audited = stratified_sample(latest, min(AUDITS, spare), f"audit-{session.config.seed}-{snapshot.batch}")
    samples = list(map(session.context.sample_of, audited))
    again = await gate_judge.verdicts(samples, rubric, snapshot.batch, draw="again")
    by_first = await gate_judge.verdicts(samples, first, snapshot.batch)
    for rollout, verdict in zip(audited, by_first, strict=True):
        if verdict.reward is not None:
            frozen[rollout.id] = verdict.reward
    return {rollout.id: verdict for rollout, verdict in zip(audited, again, strict=True)}


async def _rollback(session: Session, snapshot: RunSnapshot, recheck: GateResult) -> JsonRow | None:
    """Back to the newest earlier rubric that was not gone back from, if it passes today; None where not."""
    assert session.gate is not None
    rows = [row for row in session.run.rows(session.run.lineage) if row["kind"] == "rollback"]
    left = {session.run.version(row["parent"]).rubric.set_hash for row in rows}
    earlier = [session.run.version(number) for number in reversed(range(snapshot.version.number))]
    sound = [one for one in earlier if one.rubric.set_hash not in {*left, snapshot.version.rubric.set_hash}]
    if not sound:
        return None
    target = sound[0]
    judged = [rollout for rollout in snapshot.rollouts if rollout.version == snapshot.version.number]
    # Compared with itself: a ranking that differs from the current rubric's is the reason to go back.
    today = await session.gate.examine(
        target.rubric, target.rubric, recent_groups(session, judged), snapshot.batch
    )
    if not today.passed:
        return None
    row = _row(
        session, snapshot, StepOutcome((Attempt("accepted", target.rubric, gate_result=today),)), {}, recheck
    )
    reason = f"rolled back: {join_objections(recheck.objections)}"
    return row | {"kind": "rollback", "author": f"rollback to v{target.number}", "reason": reason}


async def _judge_probes(session: Session, snapshot: RunSnapshot) -> tuple[list[Rollout], dict[str, Rollout]]:
    """The probes as judged rollouts, and next to them the initial policy's answers."""
    paired = snapshot.probes[: snapshot.paired]
    if not paired:
        return [], {}
    rubric, number = snapshot.version.rubric, snapshot.version.number
    prompts = {probe.prompt for probe in paired}
    anchor = [sample for sample in session.state.anchor if sample.prompt in prompts]
    verdicts = await session.gate_judge.verdicts([*paired, *anchor], rubric, snapshot.batch)

    def rollout(batch: int, row: int, sample: Sample, verdict: Verdict) -> Rollout:
        return Rollout(
            batch,
            row,
            sample.prompt,
            sample.completion,
            verdict,
            number,
            verdict.reward,
            sample.cluster,
            truncated=sample.truncated,
            origin="probe",
        )

    count = len(paired)
    probes = [
        rollout(snapshot.batch, row, *each)
        for row, each in enumerate(zip(paired, verdicts[:count], strict=True))
    ]
    before = [rollout(0, row, *each) for row, each in enumerate(zip(anchor, verdicts[count:], strict=True))]
    usable = [one for one in probes if one.reward is not None and one.verdict.source == "judge"]
    return usable, {rollout.prompt: rollout for rollout in before}


def _figures(health: Mapping[str, CriterionStats], alarms: Mapping[str, Alarm], recheck: GateResult) -> str:
    """What is measured, for the meta-judge."""
    parts = [describe_stats(health)] if health else []
    parts += [f"Alarm {alarm.name}: {alarm.detail}" for alarm in alarms.values()]
    parts += [
        f"The current rubric no longer passes: {objection.complaint}" for objection in recheck.objections
    ]
    parts += [f"The next rubric must ask for more: {hint.complaint}" for hint in recheck.hints]
    return "\n".join(parts)


def _row(
    session: Session,
    snapshot: RunSnapshot,
    outcome: StepOutcome,
    health: Mapping[str, CriterionStats],
    recheck: GateResult,
) -> JsonRow:
    """A row of the lineage: what was proposed, tried and decided, and why."""
    old, new = snapshot.version.rubric, outcome.rubric
    last = outcome.attempts[-1]
    refused = [one for one in outcome.attempts if one.reason]
    return {
        "kind": "meta",
        "began": snapshot.batch,
        "status": outcome.status,
        "reason": outcome.reason,
        "parent": snapshot.version.number,
        "author": session.meta.backend.model if session.meta else "",
        "samples": list(outcome.samples),
        "failed_samples": outcome.failed,
        "alarms": sorted(snapshot.alarms),
        **(rubric_changes(old, new) if new else {"added": [], "changed": [], "dropped": []}),
        "gate": dict(last.gate_result.figures),
        "refused": [
            {
                "status": one.status,
                "reason": one.reason,
                "objections": [objection.to_row() for objection in one.gate_result.objections],
                "figures": dict(one.gate_result.figures),
                "rubric": _dump(one.rubric),
            }
            for one in refused
        ],
        "recheck": {
            "objections": [objection.to_row() for objection in recheck.objections],
            "hints": [hint.to_row() for hint in recheck.hints],
            "figures": dict(recheck.figures),
        },
        "health": {name: asdict(one) for name, one in health.items()},
        "rubric": _dump(new),
    }


def _dump(rubric: Rubric | None) -> JsonRow | None:
    return rubric.model_dump(mode="json") if rubric else None
