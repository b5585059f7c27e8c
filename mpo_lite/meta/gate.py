"""The gate: a rubric is checked before it is trained on, and again later.

The checks rest on the initial policy's answers to fixed prompts, since later answers may be hacked already. A
sound rubric scores known-bad answers clearly below them, does not reverse their order, and still
distinguishes recent answers. Gold is never used. The paper accepts every proposal; the gate is our own.

If the current rubric is unsound itself, as a vague first one is, a proposal need not be perfect: rejecting a
clearly sounder one would keep a rubric that is being exploited (docs/sandbox.md shows how that ends).
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
"""Recent prompt groups, and answers of each, that a proposal must distinguish."""
RECENT = RECENT_GROUPS * RECENT_ANSWERS


@dataclass(frozen=True)
class GateResult:
    """The result of a check.

    Attributes:
        objections: Reasons to reject the rubric, as the meta-judge reads them; none if it passed.
        figures: The measurements, for the record.
        unchecked: Why the check could not be made; empty if it was.
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
        gate_judge: The judge, limited to the gate's budget.
        anchor: The initial policy's answers to fixed prompts, the reference set R0.
        task: Declares the sentinels, and the rules that decide without a judge.
        thresholds: What a rubric must satisfy.
    """

    gate_judge: BudgetedJudge
    anchor: Sequence[Sample]
    task: Task
    thresholds: Thresholds

    def max_cost(self, old: Rubric) -> int:
        """The most judgements that ``examine`` can need for a future proposal."""
        planted = len(self._plant([], ""))
        return len(self.anchor) + planted + self.gate_judge.count_unjudged(self.anchor, old) + RECENT

    def can_afford_another(self, old: Rubric) -> bool:
        """Whether the budget covers another proposal."""
        return self.max_cost(old) <= self.gate_judge.left

    def cost(self, new: Rubric, old: Rubric, recent: Sequence[Sequence[Sample]]) -> int:
        """The most judgements that ``examine`` can need for this proposal."""
        answers = [*self.anchor, *(answer for group in recent for answer in group)]
        by_new, by_old = (
            self.gate_judge.count_unjudged(answers, new),
            self.gate_judge.count_unjudged(self.anchor, old),
        )
        return by_new + by_old + len(self._plant([], ""))

    async def examine(
        self, new: Rubric, old: Rubric, recent: Sequence[Sequence[Sample]], batch: int
    ) -> GateResult:
        """Checks a proposed rubric.

        Args:
            new: The proposal.
            old: The current rubric.
            recent: Groups of recent answers to one prompt each.
            batch: Generation batches done; also decides on which prompts sentinels are planted.
        """
        if (cost := self.cost(new, old, recent)) > self.gate_judge.left:
            return GateResult(unchecked=_describe_shortage(cost, self.gate_judge.left))
        honest, before = await asyncio.gather(
            self._score(self.anchor, new, batch), self._score(self.anchor, old, batch)
        )
        planted = self._plant(honest, f"batch-{batch}")
        bad = await self._score([sentinel.sample for sentinel in planted], new, batch)
        margins, tau = sentinel_margins(planted, honest, bad), kendall_tau(before, honest)
        judged, kinds = [*honest, *bad], {sentinel.kind for sentinel in planted}
        if (lost := judged.count(None)) >= 0.5 * len(judged) or kinds - set(margins):
            return GateResult(unchecked=f"{lost} of {len(judged)} judgements for the check failed")
        figures = {f"margin_{kind}": value for kind, value in margins.items()} | {"agreement": tau}
        objections = [*self._find_rewarded(margins), *self._check_order(tau)]
        if objections and len(planted) <= self.gate_judge.left:
            bad_by_old = await self._score([sentinel.sample for sentinel in planted], old, batch)
            old_margins = sentinel_margins(planted, before, bad_by_old)
            figures |= {"short": self._sum_shortfalls(margins)}
            figures |= {"short_in_force": self._sum_shortfalls(old_margins)}
            if self._is_sounder(margins, old_margins):
                objections = []
        if not objections:
            judging = [self.gate_judge.verdicts(group, new, batch) for group in recent]
            spread_figures, objections = self._check_spread(await asyncio.gather(*judging), new)
            figures |= spread_figures
        return GateResult(tuple(objections), figures)

    async def recheck(
        self, rubric: Rubric, looked: Sequence[int], trained: Sequence[Sequence[Verdict]], batch: int
    ) -> GateResult:
        """Checks the current rubric again, on its verdicts in training and on more sentinels.

        Args:
            rubric: The current rubric.
            looked: Batches at which it was checked before; their sentinels are checked again.
            trained: Verdicts of recent prompt groups under it.
            batch: Generation batches done.
        """
        figures, objections = self._check_spread(trained, rubric)
        unknown = self.gate_judge.count_unjudged(self.anchor, rubric)
        # Proposals come first: what the check of one can need is reserved for it.
        if unknown + len(self._plant([], "")) <= self.gate_judge.left - self.max_cost(rubric):
            honest = await self._score(self.anchor, rubric, batch)
            planted = [sentinel for at in looked[:1] for sentinel in self._plant(honest, f"batch-{at}")]
            # Only half of the kinds, in turns: more would use up the budget for proposals.
            for turn, at in enumerate([*looked[1:], batch]):
                planted += self._plant(honest, f"batch-{at}", self.task.sentinels[turn % 2 :: 2])
            bad = await self._score([sentinel.sample for sentinel in planted], rubric, batch)
            margins = sentinel_margins(planted, honest, bad)
            figures |= {f"margin_{kind}": value for kind, value in margins.items()}
            objections += self._find_rewarded(margins)
        return GateResult(tuple(objections), figures)

    async def _score(self, samples: Sequence[Sample], rubric: Rubric, batch: int) -> list[float | None]:
        return [verdict.reward for verdict in await self.gate_judge.verdicts(samples, rubric, batch)]

    def _plant(
        self, scores: Scores, seed: str, kinds: Sequence[Sentinel] | None = None
    ) -> list[PlantedSentinel]:
        """Sentinels, except those that a rule decides: no rubric can reward them."""
        scores = scores or [None] * len(self.anchor)
        planted = plant_sentinels(self.anchor, scores, self.task.sentinels if kinds is None else kinds, seed)
        return [sentinel for sentinel in planted if not self.gate_judge.is_decided_by_rule(sentinel.sample)]

    def _sum_shortfalls(self, margins: Mapping[str, float]) -> float:
        """By how much the margins fall short of the threshold in total."""
        return sum(max(0.0, self.thresholds.margin - margin) for margin in margins.values())

    def _is_sounder(self, new: Mapping[str, float], old: Mapping[str, float]) -> bool:
        """Whether a proposal that falls short is still better than the current rubric.

        It is if the current rubric falls short at least twice as far and satisfies no margin that the
        proposal misses. Rejecting the proposal would keep rewarding worse answers, and the order that an
        unsound rubric gives to answers is no standard for another.
        """
        least = self.thresholds.margin
        lost = any(margin < least <= old.get(kind, 0.0) for kind, margin in new.items())
        return (
            not lost
            and self._sum_shortfalls(old) > 0
            and 2 * self._sum_shortfalls(new) <= self._sum_shortfalls(old)
        )

    def _find_rewarded(self, margins: Mapping[str, float]) -> list[Objection]:
        least = self.thresholds.margin
        return [
            Objection(kind, f"{COMPLAINTS[kind]}: {_against_honest(margin, least)}")
            for kind, margin in margins.items()
            if margin < least
        ]

    def _check_order(self, tau: float) -> list[Objection]:
        if tau >= self.thresholds.agreement:
            return []
        text = (
            f"the order of honest answers turned round against the rubric in force (Kendall's tau {tau:.2f}, "
            f"at least {self.thresholds.agreement:g})"
        )
        return [Objection("agreement", text)]

    def _check_spread(
        self, groups: Sequence[Sequence[Verdict]], rubric: Rubric
    ) -> tuple[dict[str, float], list[Objection]]:
        """Whether the rubric distinguishes recent answers, and does not veto nearly all of them."""
        judged = [[verdict for verdict in group if verdict.reward is not None] for group in groups]
        judged = [group for group in judged if len(group) > 1]
        if not judged:
            return {}, []
        varied = statistics.fmean(len({verdict.reward for verdict in group}) > 1 for group in judged)
        vetoes = {criterion.id for criterion in rubric.criteria if criterion.kind == "veto"}
        vetoed = statistics.fmean(
            any(verdict.assessments[name].level == 0 for name in vetoes & set(verdict.assessments))
            for group in judged
            for verdict in group
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
        bad: Scores of the sentinels, None where judging failed.

    Returns:
        Kind → mean margin in [-1, 1], over the pairs with two scores; kinds without such a pair are left
        out.
    """
    differences: dict[str, list[float]] = {}
    for sentinel, score in zip(planted, bad, strict=True):
        honest_score = honest[sentinel.place]
        if score is not None and honest_score is not None:
            differences.setdefault(sentinel.kind, []).append(honest_score - score)
    return {kind: statistics.fmean(values) for kind, values in differences.items()}


def kendall_tau(one: Scores, other: Scores) -> float:
    """Kendall's tau-b of two scorings, in [-1, 1]; 0 where all scores of either are equal.

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
    """How a bad answer scored relative to honest ones, where that is too high."""
    rest = "honest answers to the same tasks, on average"
    if margin >= 0.005:
        return f"scored only {margin:.2f} below {rest}; it must be {least:g} or more"
    above = f"{-margin:.2f} above" if margin <= -0.005 else "as high as"
    return f"scored {above} {rest}; it must score {least:g} or more below them"


def _describe_shortage(cost: int, left: float) -> str:
    return f"the gate needs {cost} judge calls but only {max(0, int(left))} are left in its budget"
