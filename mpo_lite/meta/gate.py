"""The gate: a rubric is checked before it is trained on, and again later.

The checks rest on the initial policy's answers to fixed prompts, since later answers may be hacked already. A
sound rubric scores known-bad answers clearly below them, pays nothing for shortcuts added to them, does not
reverse their order, and still distinguishes recent answers. Gold is never used. The paper accepts every
proposal; the gate is our own.

Each kind of planted answer is tried on a few prompts, and on all of them where these do not decide. Which
prompts follows from the rubric's own scores: the same proposal gets the same answer. Shortcuts come first,
and one that clearly pays ends the check: what a refusal does not take is left for the next proposal.

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
    kendall_tau,
    mean_gaps,
    required_margin,
    shortfall,
)
from mpo_lite.meta.objections import Objection
from mpo_lite.meta.sentinels import ADDITIONS, PlantedAnswer, Scores
from mpo_lite.meta.trial import Trial, describe_shortage, plant
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
IN_DOUBT = 40
"""Answers set aside for kinds that are tried on all prompts, because a few did not decide: about five."""


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
        planted = self._planted(self._kinds(()))
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
            return GateResult(unchecked=describe_shortage(cost, self.gate_judge.left))
        honest, before = await asyncio.gather(
            self._score(self.anchor, new, batch), self._score(self.anchor, old, batch)
        )
        if (lost := honest.count(None)) >= 0.5 * len(honest):
            return GateResult(unchecked=f"{lost} of {len(honest)} judgements of the anchor's answers failed")
        trial = self._try(new, honest, batch, phrases)
        gaps, unchecked = await trial.measure_until_refused(self._kinds(phrases))
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
            return trial.plant({kind: len(self.anchor)}) if kind in gaps else []

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
        needed += self._most_calls(self._planted(kinds, phrases))
        objections: list[Objection] = []
        # Proposals come first: what the check of one needs is reserved for it.
        if needed <= self.gate_judge.left - self.max_cost(rubric):
            honest = await self._score(self.anchor, rubric, batch)
            gaps, unchecked = await self._try(rubric, honest, batch, phrases).measure(kinds)
            if not unchecked:
                figures |= mean_gaps(gaps)
                objections = find_rewarded(gaps, required_margin(self.thresholds.margin, honest, gaps))
        return GateResult(tuple(objections), figures, tuple(hints))

    async def _halves_shortfalls(
        self, old: Rubric, before: Scores, missed: Gaps, required: float, batch: int
    ) -> tuple[bool, dict[str, float]]:
        """Whether the current rubric misses the same margins, at least twice as far in total.

        Returns:
            That, and both sums of shortfalls; False where the budget does not cover the comparison.
        """
        trial = self._try(old, before, batch)
        planted = trial.plant({kind: len(values) for kind, values in missed.items()})
        if trial.count_calls(planted) > self.gate_judge.left:
            return False, {}
        old_gaps = await trial.gaps(planted)
        old_required = required_margin(self.thresholds.margin, before, {})
        short = {kind: shortfall(values, required) for kind, values in missed.items()}
        old_short = {kind: shortfall(values, old_required) for kind, values in old_gaps.items()}
        sums = {"short": sum(short.values()), "short_in_force": sum(old_short.values())}
        return all(map(old_short.get, short)) and 2 * sums["short"] <= sums["short_in_force"], sums

    async def _find_rewarded_by(self, old: Rubric, before: Scores, batch: int) -> list[Objection]:
        """What the current rubric rewards wrongly; nothing where the budget does not cover the check."""
        trial = self._try(old, before, batch)
        planted = trial.plant(self._kinds(()))
        if trial.count_calls(planted) > self.gate_judge.left:
            return []
        gaps = await trial.gaps(planted)
        return find_rewarded(gaps, required_margin(self.thresholds.margin, before, gaps))

    def _try(self, rubric: Rubric, honest: Scores, batch: int, phrases: Sequence[str] = ()) -> Trial:
        return Trial(self.gate_judge, self.anchor, self.thresholds.margin, rubric, honest, batch, phrases)

    async def _score(self, samples: Sequence[Sample], rubric: Rubric, batch: int) -> list[float | None]:
        return [verdict.reward for verdict in await self.gate_judge.verdicts(samples, rubric, batch)]

    def _kinds(self, phrases: Sequence[str]) -> dict[str, int]:
        """Kind of planted answer → prompts on which it is tried at first."""
        sentinels = dict.fromkeys(map(str, self.task.sentinels), SENTINEL_PROMPTS)
        shortcuts = dict.fromkeys(map(str, self.task.shortcuts), SHORTCUT_PROMPTS)
        kinds = sentinels | shortcuts | self._alarmed(phrases)
        # A kind that a rule decides on all prompts cannot be rewarded by any rubric.
        return {kind: count for kind, count in kinds.items() if self._planted({kind: count}, phrases)}

    def _planted(self, kinds: Mapping[str, int], phrases: Sequence[str] = ()) -> list[PlantedAnswer]:
        """As many planted answers as will be tried, though not yet on which prompts."""
        return plant(self.gate_judge, self.anchor, kinds, (), phrases)

    def _alarmed(self, phrases: Sequence[str]) -> dict[str, int]:
        return {"phrases": SHORTCUT_PROMPTS} if phrases else {}

    async def _measure_consensus(self, variants: Sequence[Rubric], honest: Scores, batch: int) -> float:
        """How far rubrics that lack one of the proposal's sources rank the anchor's answers as it does."""
        scores = await asyncio.gather(*(self._score(self.anchor, variant, batch) for variant in variants))
        return statistics.fmean(kendall_tau(honest, each) for each in scores)
