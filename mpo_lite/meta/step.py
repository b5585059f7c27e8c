"""One meta step from chosen rollouts to a rubric that may be used, or to the reasons why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mpo_lite.activity import activity
from mpo_lite.judge.base import Sample
from mpo_lite.meta.cases import STRATEGIES, Background
from mpo_lite.meta.cases.samples import samples
from mpo_lite.meta.gate import Gate, GateResult
from mpo_lite.meta.meta_judge import MetaJudge, Proposal
from mpo_lite.meta.meta_model import Question
from mpo_lite.meta.objections import join_objections
from mpo_lite.meta.sampling import stratified_sample
from mpo_lite.rubric import Rubric
from mpo_lite.types import Rollout, StepStatus


@dataclass(frozen=True)
class StepInput:
    """What a meta step has to go by.

    Attributes:
        question: What the meta-judge is asked about.
        rollouts: Chosen rollouts, at least one, judged by the current rubric.
        batch: Generation batches done.
        background: What can be shown with the rollouts.
        recent: Groups of recent answers that a new rubric must distinguish.
        phrases: What an active alarm found that training made frequent.
    """

    question: Question
    rollouts: Sequence[Rollout]
    batch: int
    background: Background = field(default_factory=Background)
    recent: Sequence[Sequence[Sample]] = ()
    phrases: Sequence[str] = ()


@dataclass(frozen=True)
class Attempt:
    """One proposal and what became of it.

    Attributes:
        status: What became of it.
        rubric: What was proposed; None where proposing failed.
        reason: Why it is not used; empty where it is.
        gate_result: What the gate found.
    """

    status: StepStatus
    rubric: Rubric | None = None
    reason: str = ""
    gate_result: GateResult = field(default_factory=GateResult)


@dataclass(frozen=True)
class StepOutcome:
    """How a meta step ended.

    Attributes:
        attempts: One or two proposals; the last decides.
        samples: Ids of the rollouts that were looked at.
        failed: How many of them were dropped because a call on them failed.
    """

    attempts: tuple[Attempt, ...]
    samples: tuple[str, ...] = ()
    failed: int = 0

    @property
    def status(self) -> StepStatus:
        """What became of the last proposal."""
        return self.attempts[-1].status

    @property
    def rubric(self) -> Rubric | None:
        """The rubric to use from now on; None: the old one stays."""
        return self.attempts[-1].rubric if self.status == "accepted" else None

    @property
    def reason(self) -> str:
        """Why the old rubric stays; empty where it does not."""
        return self.attempts[-1].reason


async def choose_badly_judged(
    meta: MetaJudge,
    question: Question,
    candidates: Sequence[Rollout],
    count: int,
    seed: str,
    suspicious: Sequence[str] = (),
    background: Background | None = None,
) -> list[Rollout]:
    """Prescreens all candidates, and chooses those to analyse among the badly judged ones.

    Args:
        meta: Prescreens.
        question: The current rubric, by which the candidates were judged.
        candidates: Judged rollouts.
        count: How many to choose at most; too few badly judged ones are joined by others.
        seed: See ``stratified_sample``.
        suspicious: Ids of rollouts to look at first.
        background: What can be shown with the candidates.
    """
    judged = [
        rollout for rollout in candidates if rollout.reward is not None and rollout.verdict.source == "judge"
    ]
    bad = set(await meta.screen(question, samples(judged, background or Background())))
    chosen = stratified_sample([one for one in judged if one.id in bad], count, seed, suspicious)
    others = [one for one in judged if one.id not in bad]
    return [*chosen, *stratified_sample(others, count - len(chosen), seed, suspicious)]


async def improve_rubric(
    meta: MetaJudge, gate: Gate | None, material: StepInput, strategy: str
) -> StepOutcome:
    """Runs a meta step.

    Args:
        meta: Proposes.
        gate: Tries proposals out; None takes each, as in the paper.
        material: What there is to go by.
        strategy: Name in ``STRATEGIES``.

    Raises:
        StopRun: A cap is reached.
        EndpointError: Judge or meta-judge rejects calls permanently.
    """
    question, old = material.question, material.question.rubric
    cases = STRATEGIES[strategy](material.rollouts, material.background)
    proposal = await meta.propose(question, cases, gate.variants if gate else 0)
    attempts = [await _check_proposal(gate, proposal, material)]
    refused = attempts[0]
    # A revision that the budget cannot check is not asked for: the reason recorded for the step would then be
    # the missing budget instead of the objections.
    if gate and refused.rubric and refused.gate_result.objections and gate.can_afford_another(old):
        again = await meta.revise(question, refused.rubric, refused.gate_result.objections)
        attempts.append(await _check_proposal(gate, again, material))
    shown = tuple(case.rollout.id for case in cases)
    return StepOutcome(tuple(attempts), shown, proposal.failed)


async def _check_proposal(gate: Gate | None, proposal: Proposal, material: StepInput) -> Attempt:
    """Has the gate check a proposal, if there is one that changes anything."""
    rubric = proposal.rubric
    if rubric is None:
        return Attempt("failed", None, proposal.reason)
    old = material.question.rubric
    if rubric.set_hash == old.set_hash:
        return Attempt("unchanged", rubric, "the meta-judge keeps the rubric as it is")
    if gate is None:
        return Attempt("accepted", rubric)
    with activity("checking the proposal"):
        gate_result = await gate.examine(
            rubric, old, material.recent, material.batch, material.phrases, proposal.variants
        )
    if gate_result.unchecked:
        return Attempt("unchecked", rubric, gate_result.unchecked, gate_result)
    if gate_result.objections:
        return Attempt("refused", rubric, join_objections(gate_result.objections), gate_result)
    return Attempt("accepted", rubric, gate_result=gate_result)
