"""One meta step from chosen rollouts to a rubric that may be used, or to the reasons why there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mpo_lite.activity import activity
from mpo_lite.judge.base import Sample
from mpo_lite.meta.cases import STRATEGIES
from mpo_lite.meta.gate import Gate, GateResult
from mpo_lite.meta.meta_judge import MetaJudge
from mpo_lite.meta.objections import join_objections
from mpo_lite.rubric import Rubric
from mpo_lite.types import Rollout, StepStatus


@dataclass(frozen=True)
class StepInput:
    """What a meta step has to go by.

    Attributes:
        rubric: The current rubric.
        rollouts: Chosen rollouts, at least one, judged by it.
        reference: Prompt → the initial policy's answer to it.
        recent: Groups of recent answers that a new rubric must distinguish.
        figures: What was measured of criteria and answers, for the meta-judge.
        batch: Generation batches done.
        phrases: What an active alarm found that training made frequent.
    """

    rubric: Rubric
    rollouts: Sequence[Rollout]
    reference: Mapping[str, Rollout]
    recent: Sequence[Sequence[Sample]]
    figures: str
    batch: int
    phrases: Sequence[str] = ()

    @property
    def draw(self) -> str:
        """Part of the cache key: a later step draws answers of its own."""
        return f"batch-{self.batch}"


@dataclass(frozen=True)
class Attempt:
    """One proposal and what became of it.

    Attributes:
        status: What became of it.
        rubric: What was proposed; None where proposing failed.
        reason: Why it is not used; empty where it is.
        finding: What the gate found.
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


async def improve_rubric(
    meta: MetaJudge, gate: Gate | None, material: StepInput, strategy: str, count: int, prescreen: bool
) -> StepOutcome:
    """Runs a meta step.

    Args:
        meta: Proposes.
        gate: Tries proposals out; None takes each, as in the paper.
        material: What there is to go by.
        strategy: Name in ``STRATEGIES``.
        count: Rollouts to analyse, at most; more are only of use with ``prescreen``.
        prescreen: Have the meta-judge look for badly judged ones first.

    Raises:
        StopRun: A cap is reached.
        EndpointError: Judge or meta-judge rejects calls permanently.
    """
    old, draw = material.rubric, material.draw
    cases = STRATEGIES[strategy](material.rollouts, material.reference)
    if prescreen:
        bad = await meta.screen(old, cases, draw)
        cases.sort(key=lambda case: case.rollout.id not in bad)
    cases = cases[:count]
    samples = tuple(case.rollout.id for case in cases)
    proposal = await meta.propose(old, cases, material.figures, draw)
    attempts = [await _check_proposal(gate, proposal.rubric, proposal.reason, material)]
    refused = attempts[0]
    # A revision that the budget cannot check is not asked for: the reason recorded for the step would then be
    # the missing budget instead of the objections.
    if gate and refused.rubric and refused.gate_result.objections and gate.can_afford_another(old):
        again = await meta.revise(old, refused.rubric, refused.gate_result.objections, draw)
        attempts.append(await _check_proposal(gate, again.rubric, again.reason, material))
    return StepOutcome(tuple(attempts), samples, proposal.failed)


async def _check_proposal(
    gate: Gate | None, rubric: Rubric | None, reason: str, material: StepInput
) -> Attempt:
    """Has the gate check a proposal, if there is one that changes anything."""
    if rubric is None:
        return Attempt("failed", None, reason)
    if rubric.set_hash == material.rubric.set_hash:
        return Attempt("unchanged", rubric, "the meta-judge keeps the rubric as it is")
    if gate is None:
        return Attempt("accepted", rubric)
    with activity("checking the proposal"):
        gate_result = await gate.examine(
            rubric, material.rubric, material.recent, material.batch, material.phrases
        )
    if gate_result.unchecked:
        return Attempt("unchecked", rubric, gate_result.unchecked, gate_result)
    if gate_result.objections:
        return Attempt("refused", rubric, join_objections(gate_result.objections), gate_result)
    return Attempt("accepted", rubric, gate_result=gate_result)
