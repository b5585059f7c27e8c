"""The gate: a rubric is tried out before it is trained on, and looked at again afterwards.

Everything is anchored on the initial policy's answers to fixed prompts: later ones may be hacked already. A
sound rubric scores known-bad answers clearly below them, does not turn their order round, and still tells
recent answers apart. Gold is never used. The paper trusts every proposal; this is our own.

Where the rubric in force is itself unsound, as a vague first one is, a proposal need not be perfect: to
refuse what is plainly sounder leaves the policy to what it exploits (docs/sandbox.md shows how that ends).
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from mpo_lite.config import Thresholds
from mpo_lite.judge.base import Sample
from mpo_lite.meta.gate_judge import BudgetedJudge
from mpo_lite.meta.objections import Objection
from mpo_lite.meta.sentinels import COMPLAINTS, PlantedSentinel, plant_sentinels
from mpo_lite.rubric import Rubric
from mpo_lite.tasks.spec import Sentinel, Task
from mpo_lite.types import Verdict

Scores = Sequence[float | None]
RECENT_GROUPS, RECENT_ANSWERS = 3, 4
"""Recent prompt groups, and answers of each, that a proposal must tell apart."""
RECENT = RECENT_GROUPS * RECENT_ANSWERS


@dataclass(frozen=True)
class GateResult:
    """What a check found.

    Attributes:
        objections: Reasons to refuse the rubric, as the meta-judge is told them; none: it passed.
        figures: What was measured, for the record.
        unchecked: Why the check could not be done; empty where it was.
    """

    objections: tuple[Objection, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    unchecked: str = ""

    @property
    def passed(self) -> bool:
        """Whether the rubric may be trained on."""
        return not self.objections and not self.unchecked


@dataclass(frozen=True)
class Gate:
    """Checks rubrics.

    Attributes:
        gate_judge: Judges for it.
        anchor: The initial policy's answers to fixed prompts, the reference set R0.
        task: Declares the sentinels, and what is decided without a judge.
        thresholds: What must hold.
    """

    gate_judge: BudgetedJudge
    anchor: Sequence[Sample]
    task: Task
    thresholds: Thresholds

    def max_cost(self, old: Rubric) -> int:
        """Judgements that ``examine`` will ask for on a proposal yet to come, at most."""
        planted = len(self._planted([], ""))
        return len(self.anchor) + planted + self.gate_judge.count_unjudged(self.anchor, old) + RECENT

    def can_afford_another(self, old: Rubric) -> bool:
        """Whether the budget covers another proposal."""
        return self.max_cost(old) <= self.gate_judge.left

    def cost(self, new: Rubric, old: Rubric, recent: Sequence[Sequence[Sample]]) -> int:
        """Judgements that ``examine`` will ask for, at most."""
        asked = [*self.anchor, *(answer for group in recent for answer in group)]
        known = self.gate_judge.count_unjudged(asked, new) + self.gate_judge.count_unjudged(self.anchor, old)
        return known + len(self._planted([], ""))

    async def examine(
        self, new: Rubric, old: Rubric, recent: Sequence[Sequence[Sample]], batch: int
    ) -> GateResult:
        """Tries a proposed rubric out.

        Args:
            new: The proposal.
            old: The rubric in force.
            recent: Groups of recent answers to one prompt each.
            batch: Generation batches done; also decides on which prompts sentinels are planted.
        """
        if (cost := self.cost(new, old, recent)) > self.gate_judge.left:
            return GateResult(unchecked=_too_dear(cost, self.gate_judge.left))
        honest, before = await asyncio.gather(
            self._scores(self.anchor, new, batch), self._scores(self.anchor, old, batch)
        )
        planted = self._planted(honest, f"batch-{batch}")
        bad = await self._scores([one.sample for one in planted], new, batch)
        found, tau = sentinel_margins(planted, honest, bad), kendall_tau(before, honest)
        judged, kinds = [*honest, *bad], {one.kind for one in planted}
        if (lost := judged.count(None)) >= 0.5 * len(judged) or kinds - set(found):
            return GateResult(unchecked=f"{lost} of {len(judged)} judgements for the check failed")
        figures = {f"margin_{kind}": value for kind, value in found.items()} | {"agreement": tau}
        objections = [*self._underpriced(found), *self._reversed(tau)]
        if objections and len(planted) <= self.gate_judge.left:
            stands = await self._scores([one.sample for one in planted], old, batch)
            in_force = sentinel_margins(planted, before, stands)
            figures |= {"short": self._short(found), "short_in_force": self._short(in_force)}
            if self._sounder(found, in_force):
                objections = []
        if not objections:
            works = [self.gate_judge.verdicts(group, new, batch) for group in recent]
            groups = await asyncio.gather(*works)
            more, objections = self._spread(groups, new)
            figures |= more
        return GateResult(tuple(objections), figures)

    async def recheck(
        self, rubric: Rubric, looked: Sequence[int], trained: Sequence[Sequence[Verdict]], batch: int
    ) -> GateResult:
        """Looks again at the rubric in force: at what it gave in training, and at more sentinels.

        Args:
            rubric: The rubric in force.
            looked: Batches at which it was tried out and looked at before; their sentinels count on.
            trained: Verdicts of recent prompt groups under it.
            batch: Generation batches done.
        """
        figures, objections = self._spread(trained, rubric)
        unknown = self.gate_judge.count_unjudged(self.anchor, rubric)
        # A proposal comes first: what trying one out will take is left to it.
        if unknown + len(self._planted([], "")) <= self.gate_judge.left - self.max_cost(rubric):
            honest = await self._scores(self.anchor, rubric, batch)
            planted = [one for at in looked[:1] for one in self._planted(honest, f"batch-{at}")]
            # Every other kind, by turns: more would take the place of proposals in the gate's share.
            for turn, at in enumerate([*looked[1:], batch]):
                planted += self._planted(honest, f"batch-{at}", self.task.sentinels[turn % 2 :: 2])
            bad = await self._scores([one.sample for one in planted], rubric, batch)
            found = sentinel_margins(planted, honest, bad)
            figures |= {f"margin_{kind}": value for kind, value in found.items()}
            objections += self._underpriced(found)
        return GateResult(tuple(objections), figures)

    async def _scores(self, samples: Sequence[Sample], rubric: Rubric, batch: int) -> list[float | None]:
        return [verdict.reward for verdict in await self.gate_judge.verdicts(samples, rubric, batch)]

    def _planted(
        self, scores: Scores, seed: str, kinds: Sequence[Sentinel] | None = None
    ) -> list[PlantedSentinel]:
        """Sentinels that no rule decides: a rubric cannot pay for those."""
        scores = scores or [None] * len(self.anchor)
        planted = plant_sentinels(self.anchor, scores, self.task.sentinels if kinds is None else kinds, seed)
        return [one for one in planted if not self.gate_judge.is_decided_by_rule(one.sample)]

    def _short(self, found: Mapping[str, float]) -> float:
        """By how much margins fall short of what they must be, in all."""
        return sum(max(0.0, self.thresholds.margin - margin) for margin in found.values())

    def _sounder(self, new: Mapping[str, float], old: Mapping[str, float]) -> bool:
        """Whether a proposal that falls short is yet to be preferred to the rubric in force.

        It is where that one falls short twice as far, and keeps no margin that would be lost. To refuse it
        would be to go on paying for what is worse; and the order of an unsound rubric is no authority.
        """
        least = self.thresholds.margin
        lost = any(margin < least <= old.get(kind, 0.0) for kind, margin in new.items())
        return not lost and self._short(old) > 0 and 2 * self._short(new) <= self._short(old)

    def _underpriced(self, found: Mapping[str, float]) -> list[Objection]:
        least = self.thresholds.margin
        return [
            Objection(kind, f"{COMPLAINTS[kind]}: {_against_honest(margin, least)}")
            for kind, margin in found.items()
            if margin < least
        ]

    def _reversed(self, tau: float) -> list[Objection]:
        if tau >= self.thresholds.agreement:
            return []
        text = (
            f"the order of honest answers turned round against the rubric in force (Kendall's tau {tau:.2f}, "
            f"at least {self.thresholds.agreement:g})"
        )
        return [Objection("agreement", text)]

    def _spread(
        self, groups: Sequence[Sequence[Verdict]], rubric: Rubric
    ) -> tuple[dict[str, float], list[Objection]]:
        """Whether recent answers are told apart, and not nearly all vetoed."""
        judged = [[one for one in group if one.reward is not None] for group in groups]
        judged = [group for group in judged if len(group) > 1]
        if not judged:
            return {}, []
        varied = statistics.fmean(len({one.reward for one in group}) > 1 for group in judged)
        vetoes = {criterion.id for criterion in rubric.criteria if criterion.kind == "veto"}
        vetoed = statistics.fmean(
            any(one.assessments[name].level == 0 for name in vetoes & set(one.assessments))
            for group in judged
            for one in group
        )
        objections: list[Objection] = []
        if varied < self.thresholds.varied:
            text = (
                f"recent answers are not told apart: in {1 - varied:.0%} of the groups all answers to a task "
                "got the same score"
            )
            objections.append(Objection("varied", text))
        if vetoed > self.thresholds.vetoed:
            objections.append(Objection("vetoed", f"{vetoed:.0%} of recent answers fail a veto"))
        return {"varied": varied, "vetoed": vetoed}, objections


def sentinel_margins(planted: Sequence[PlantedSentinel], honest: Scores, bad: Scores) -> dict[str, float]:
    """How far sentinels score below the honest answers to the same prompts.

    Args:
        planted: Sentinels.
        honest: Scores of the anchor's answers, None where judging failed.
        bad: Scores of the sentinels, likewise.

    Returns:
        Kind → mean margin in [-1, 1], over the pairs of which both were judged; kinds without one are left
        out.
    """
    found: dict[str, list[float]] = {}
    for one, score in zip(planted, bad, strict=True):
        beside = honest[one.place]
        if score is not None and beside is not None:
            found.setdefault(one.kind, []).append(beside - score)
    return {kind: statistics.fmean(values) for kind, values in found.items()}


def kendall_tau(one: Scores, other: Scores) -> float:
    """Kendall's tau-b of two scorings, in [-1, 1]; 0 where either knows no differences.

    Pairs with a missing score are left out. Source: Kendall, Rank Correlation Methods (1945).
    """
    both = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    concordant = first = second = 0
    for (a, b), (c, d) in combinations(both, 2):
        left, right = (a > c) - (a < c), (b > d) - (b < d)
        concordant += left * right
        first += left != 0
        second += right != 0
    return concordant / (first * second) ** 0.5 if first and second else 0.0


def _against_honest(margin: float, least: float) -> str:
    """What a bad answer scored beside honest ones, where that is too much."""
    rest = "honest answers to the same tasks, on average"
    if margin >= 0.005:
        return f"scored only {margin:.2f} below {rest}; it must be {least:g} or more"
    above = f"{-margin:.2f} above" if margin <= -0.005 else "as high as"
    return f"scored {above} {rest}; it must score {least:g} or more below them"


def _too_dear(cost: int, left: float) -> str:
    return f"a check takes {cost} judgements, and {max(0, int(left))} are left of the gate's share"
