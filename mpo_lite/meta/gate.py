"""The gate: a rubric is checked before it is trained on, and again later.

The checks rest on the initial policy's answers to fixed prompts, since later answers may be hacked already. A
sound rubric scores known-bad answers clearly below them, pays nothing for shortcuts added to them, does not
reverse their order, and still distinguishes recent answers. Gold is never used. The paper accepts every
proposal; the gate is our own.

Each kind of planted answer is tried on a few prompts, and on all of them where these do not decide. Which
prompts follows from the rubric's own scores: the same proposal gets the same answer.

If the current rubric rewards known-bad answers itself, as a vague first one does, a proposal need not be
perfect: rejecting a clearly sounder one would keep a rubric that is being exploited (docs/sandbox.md shows
how that ends). Shortcuts are never excused: what pays for them would be exploited next.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mpo_lite.config import Thresholds
from mpo_lite.judge.base import Sample
from mpo_lite.meta.examples import add_examples
from mpo_lite.meta.gate_judge import BudgetedJudge
from mpo_lite.meta.margins import (
    Gaps,
    check_consensus,
    check_order,
    check_spread,
    find_rewarded,
    is_undecided,
    kendall_tau,
    mean_gaps,
    measure_gaps,
    required_margin,
    shortfall,
)
from mpo_lite.meta.objections import Objection
from mpo_lite.meta.sentinels import ADDITIONS, PlantedAnswer, Scores, plant_answers
from mpo_lite.rubric import Rubric
from mpo_lite.tasks.spec import Task
from mpo_lite.types import Verdict

RECENT_GROUPS, RECENT_ANSWERS = 3, 4
"""Recent prompt groups, and answers of each, that a proposal must distinguish."""
RECENT = RECENT_GROUPS * RECENT_ANSWERS
SENTINEL_PROMPTS, SHORTCUT_PROMPTS = 2, 4
"""Prompts on which each kind of sentinel and of shortcut is tried at first."""
VARIANTS = 3
"""Merges that each leave one source out, where ``gate.consensus`` asks for them."""
IN_DOUBT = 24
"""Answers set aside for kinds that are tried on all prompts, because a few did not decide: about three."""


@dataclass(frozen=True)
class GateResult:
    """The result of a check.

    Attributes:
        objections: Reasons to reject the rubric, as the meta-judge reads them; none if it passed.
        figures: The measurements, for the record.
        hints: What the next rubric should do better, though it is no reason to give up this one.
        unchecked: Why the check could not be made; empty if it was.
    """

    objections: tuple[Objection, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    hints: tuple[Objection, ...] = ()
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

    @property
    def variants(self) -> int:
        """Merges to ask for besides a proposal's."""
        return 0 if self.thresholds.consensus is None else VARIANTS

    def max_cost(self, old: Rubric) -> int:
        """The calls to set aside for ``examine`` of a future proposal."""
        return self.cost_of_new + self.gate_judge.count_calls([self.anchor], old)

    @property
    def cost_of_new(self) -> int:
        """The calls to set aside for judging by a rubric that nothing was judged by yet."""
        prompts, cost = len(self.anchor), self.gate_judge.cost
        recent = cost.most_calls(RECENT, RECENT_GROUPS, RECENT_GROUPS)
        return (
            (1 + self.variants) * cost.most_calls(prompts, prompts, prompts) + self.cost_of_planted + recent
        )

    @property
    def cost_of_planted(self) -> int:
        """The calls to set aside for the planted answers, once the anchor's answers are judged."""
        if len(self.anchor) < 2:  # nothing to plant
            return 0
        planted = self._plant(self._kinds(()), [])
        return self._most_calls(planted) + self.gate_judge.cost.most_calls(IN_DOUBT, len(self.anchor), 0)

    def _most_calls(self, planted: Sequence[PlantedAnswer]) -> int:
        """The most calls for so many planted answers, on whatever prompts, once the anchor's are judged."""
        # Where a rule decides the honest answer to a prompt, there is no plan for that prompt yet.
        unplanned = sum(map(self.gate_judge.is_decided_by_rule, self.anchor))
        return self.gate_judge.cost.most_calls(len(planted), len(self.anchor), unplanned)

    def can_afford_another(self, old: Rubric) -> bool:
        """Whether the budget covers another proposal."""
        return self.max_cost(old) <= self.gate_judge.left

    def cost(
        self,
        new: Rubric,
        old: Rubric,
        recent: Sequence[Sequence[Sample]],
        variants: Sequence[Rubric] = (),
    ) -> int:
        """The calls to set aside for ``examine`` of this proposal."""
        by_new = self.gate_judge.count_calls([self.anchor, *recent], new) + self.cost_of_planted
        return by_new + self.gate_judge.count_calls([self.anchor], old) + self._cost_of_variants(variants)

    def _cost_of_variants(self, variants: Sequence[Rubric]) -> int:
        return sum(self.gate_judge.count_calls([self.anchor], variant) for variant in variants)

    async def examine(
        self,
        new: Rubric,
        old: Rubric,
        recent: Sequence[Sequence[Sample]],
        batch: int,
        phrases: Sequence[str] = (),
        variants: Sequence[Rubric] = (),
    ) -> GateResult:
        """Checks a proposed rubric.

        Args:
            new: The proposal.
            old: The current rubric.
            recent: Groups of recent answers to one prompt each.
            batch: Generation batches done; for the account.
            phrases: What an active alarm found that training made frequent.
            variants: What the proposal would have been with one of its sources left out.
        """
        if (cost := self.cost(new, old, recent, variants)) > self.gate_judge.left:
            return GateResult(unchecked=_describe_shortage(cost, self.gate_judge.left))
        honest, before = await asyncio.gather(
            self._score(self.anchor, new, batch), self._score(self.anchor, old, batch)
        )
        if (lost := honest.count(None)) >= 0.5 * len(honest):
            return GateResult(unchecked=f"{lost} of {len(honest)} judgements of the anchor's answers failed")
        gaps, unchecked = await self._measure(new, honest, self._kinds(phrases), batch, phrases)
        if unchecked:
            return GateResult(unchecked=unchecked)
        tau = kendall_tau(before, honest)
        required = required_margin(self.thresholds.margin, honest, gaps)
        rewarded, order = find_rewarded(gaps, required), check_order(tau, self.thresholds)
        figures = mean_gaps(gaps) | {"agreement": tau, "required_margin": required}
        binding = [objection for objection in rewarded if objection.id in ADDITIONS]
        objections = [*rewarded, *order]
        if objections and not binding:
            missed = {objection.id: gaps[objection.id] for objection in rewarded}
            if missed:
                excused, short = await self._halves_shortfalls(old, before, missed, required, batch)
                figures |= short
            else:
                # The order that an unsound rubric gives to answers is no standard for another.
                excused = bool(await self._find_rewarded_by(old, before, batch))
            objections = [] if excused else objections
        if not objections:
            judging = [self.gate_judge.verdicts(group, new, batch) for group in recent]
            spread_figures, objections = check_spread(await asyncio.gather(*judging), new, self.thresholds)
            figures |= spread_figures
        if variants and not objections:
            figures["consensus"] = await self._measure_consensus(variants, honest, batch)
            objections = check_consensus(figures["consensus"], self.thresholds)

        def plant(kind: str) -> list[PlantedAnswer]:
            return self._plant({kind: len(self.anchor)}, honest, phrases) if kind in gaps else []

        with_examples = await add_examples(objections, plant, new, honest, self.gate_judge, batch)
        return GateResult(with_examples, figures)

    async def recheck(
        self,
        rubric: Rubric,
        turn: int,
        trained: Sequence[Sequence[Verdict]],
        batch: int,
        phrases: Sequence[str] = (),
    ) -> GateResult:
        """Checks the current rubric again: on more prompts, and on what alarms named since.

        Args:
            rubric: The current rubric.
            turn: How often it was checked before; every turn looks at half of the kinds, and at more prompts.
            trained: Verdicts of recent prompt groups under it.
            batch: Generation batches done.
            phrases: What an active alarm found that training made frequent.

        Returns:
            Objections only to what it rewards. That answers no longer differ is a hint: they may all be good.
        """
        figures, hints = check_spread(trained, rubric, self.thresholds)
        kinds = dict(list(self._kinds(()).items())[turn % 2 :: 2])
        kinds = {kind: count + 2 * turn for kind, count in (kinds | self._alarmed(phrases)).items()}
        needed = self.gate_judge.count_calls([self.anchor], rubric)
        needed += self._most_calls(self._plant(kinds, [], phrases))
        objections: list[Objection] = []
        # Proposals come first: what the check of one needs is reserved for it.
        if needed <= self.gate_judge.left - self.max_cost(rubric):
            honest = await self._score(self.anchor, rubric, batch)
            gaps, unchecked = await self._measure(rubric, honest, kinds, batch, phrases)
            if not unchecked:
                figures |= mean_gaps(gaps)
                objections = find_rewarded(gaps, required_margin(self.thresholds.margin, honest, gaps))
        return GateResult(tuple(objections), figures, tuple(hints))

    async def _measure(
        self,
        rubric: Rubric,
        honest: Scores,
        kinds: Mapping[str, int],
        batch: int,
        phrases: Sequence[str],
    ) -> tuple[Gaps, str]:
        """Tries each kind on its number of prompts, and on all of them where these do not decide.

        Returns:
            The gaps, and why they are incomplete; empty if they are not.
        """
        planted = self._plant(kinds, honest, phrases)
        gaps = await self._gaps(rubric, honest, planted, batch)
        if missing := sorted({answer.kind for answer in planted} - gaps.keys()):
            return gaps, f"no judgement of planted answers succeeded for: {', '.join(missing)}"
        if 2 * (lost := len(planted) - sum(map(len, gaps.values()))) >= len(planted) > 0:
            return gaps, f"{lost} of {len(planted)} judgements of planted answers failed"
        required = required_margin(self.thresholds.margin, honest, gaps)
        undecided = {
            kind: len(self.anchor) for kind, values in gaps.items() if is_undecided(kind, values, required)
        }
        planted = self._plant(undecided, honest, phrases)
        if (needed := self._count_calls(planted, rubric)) > self.gate_judge.left:
            return gaps, _describe_shortage(needed, self.gate_judge.left)
        return gaps | await self._gaps(rubric, honest, planted, batch), ""

    async def _gaps(
        self, rubric: Rubric, honest: Scores, planted: Sequence[PlantedAnswer], batch: int
    ) -> dict[str, list[float]]:
        scores = await self._score([answer.sample for answer in planted], rubric, batch)
        return measure_gaps(planted, honest, scores)

    async def _halves_shortfalls(
        self, old: Rubric, before: Scores, missed: Gaps, required: float, batch: int
    ) -> tuple[bool, dict[str, float]]:
        """Whether the current rubric misses the same margins, at least twice as far in total.

        Returns:
            That, and both sums of shortfalls; False where the budget does not cover the comparison.
        """
        planted = self._plant({kind: len(values) for kind, values in missed.items()}, before)
        if self._count_calls(planted, old) > self.gate_judge.left:
            return False, {}
        old_gaps = await self._gaps(old, before, planted, batch)
        old_required = required_margin(self.thresholds.margin, before, {})
        short = {kind: shortfall(values, required) for kind, values in missed.items()}
        old_short = {kind: shortfall(values, old_required) for kind, values in old_gaps.items()}
        sums = {"short": sum(short.values()), "short_in_force": sum(old_short.values())}
        return all(map(old_short.get, short)) and 2 * sums["short"] <= sums["short_in_force"], sums

    async def _find_rewarded_by(self, old: Rubric, before: Scores, batch: int) -> list[Objection]:
        """What the current rubric rewards wrongly; nothing where the budget does not cover the check."""
        planted = self._plant(self._kinds(()), before)
        if self._count_calls(planted, old) > self.gate_judge.left:
            return []
        gaps = await self._gaps(old, before, planted, batch)
        return find_rewarded(gaps, required_margin(self.thresholds.margin, before, gaps))

    def _count_calls(self, planted: Sequence[PlantedAnswer], rubric: Rubric) -> int:
        return self.gate_judge.count_calls([[answer.sample for answer in planted]], rubric)

    async def _score(self, samples: Sequence[Sample], rubric: Rubric, batch: int) -> list[float | None]:
        return [verdict.reward for verdict in await self.gate_judge.verdicts(samples, rubric, batch)]

    def _kinds(self, phrases: Sequence[str]) -> dict[str, int]:
        """Kind of planted answer → prompts on which it is tried at first."""
        sentinels = dict.fromkeys(map(str, self.task.sentinels), SENTINEL_PROMPTS)
        shortcuts = dict.fromkeys(map(str, self.task.shortcuts), SHORTCUT_PROMPTS)
        kinds = sentinels | shortcuts | self._alarmed(phrases)
        # A kind that a rule decides on all prompts cannot be rewarded by any rubric.
        return {kind: count for kind, count in kinds.items() if self._plant({kind: count}, [], phrases)}

    def _alarmed(self, phrases: Sequence[str]) -> dict[str, int]:
        return {"phrases": SHORTCUT_PROMPTS} if phrases else {}

    def _plant(
        self, kinds: Mapping[str, int], scores: Scores, phrases: Sequence[str] = ()
    ) -> list[PlantedAnswer]:
        """Planted answers, prompt by prompt, without those that a rule decides: no rubric can reward them."""
        planted = plant_answers(kinds, self.anchor, scores or [None] * len(self.anchor), phrases)
        judged = [answer for answer in planted if not self.gate_judge.is_decided_by_rule(answer.sample)]
        # Answers to one prompt next to each other: groupwise judging takes them in one call.
        return sorted(judged, key=lambda answer: answer.place)

    async def _measure_consensus(self, variants: Sequence[Rubric], honest: Scores, batch: int) -> float:
        """How far rubrics that lack one of the proposal's sources rank the anchor's answers as it does."""
        scores = await asyncio.gather(*(self._score(self.anchor, variant, batch) for variant in variants))
        return statistics.fmean(kendall_tau(honest, each) for each in scores)


def _describe_shortage(cost: int, left: float) -> str:
    rest = max(0, int(left))
    return f"the gate needs {cost} judge calls but only {rest} are left in its budget; raise gate.share"
