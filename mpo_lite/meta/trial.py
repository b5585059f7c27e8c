"""A rubric that is tried on planted answers: known-bad ones, and honest ones with a shortcut added."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mpo_lite.judge.base import Sample
from mpo_lite.meta.gate_judge import BudgetedJudge
from mpo_lite.meta.margins import Gaps, find_rewarded, is_undecided, measure_gaps, required_margin
from mpo_lite.meta.sentinels import ADDITIONS, PlantedAnswer, Scores, plant_answers
from mpo_lite.rubric import Rubric


@dataclass(frozen=True)
class Trial:
    """A rubric under trial.

    Attributes:
        gate_judge: The judge, limited to the gate's budget.
        anchor: The initial policy's answers to fixed prompts.
        margin: ``gate.margin``.
        rubric: The rubric.
        honest: Its scores of the anchor's answers.
        batch: Generation batches done; for the account.
        phrases: What an active alarm found that training made frequent.
    """

    gate_judge: BudgetedJudge
    anchor: Sequence[Sample]
    margin: float
    rubric: Rubric
    honest: Scores
    batch: int
    phrases: Sequence[str] = ()

    async def measure(self, kinds: Mapping[str, int]) -> tuple[Gaps, str]:
        """Tries each kind on its number of prompts, and on all of them where these do not decide.

        Returns:
            The gaps, and why they are incomplete; empty if they are not.
        """
        gaps, unchecked = await self._try_first(kinds)
        if unchecked:
            return gaps, unchecked
        return await self._try_undecided(gaps, list(gaps), required_margin(self.margin, self.honest, gaps))

    async def measure_until_refused(self, kinds: Mapping[str, int]) -> tuple[Gaps, str]:
        """Like ``measure``, but without the other kinds once a shortcut is seen to pay.

        The shortcut that gains most on its first prompts is tried on all of them before anything else.
        """
        gaps, unchecked = await self._try_first({kind: kinds[kind] for kind in kinds if kind in ADDITIONS})
        if gaps and not unchecked:
            best = min(gaps, key=lambda kind: statistics.fmean(gaps[kind]))
            gaps, unchecked = await self._try_undecided(gaps, [best], 0.0)
            if any(objection.id == best for objection in find_rewarded(gaps, 0.0)):
                return gaps, unchecked
        return (gaps, unchecked) if unchecked else await self.measure(kinds)

    async def gaps(self, planted: Sequence[PlantedAnswer]) -> dict[str, list[float]]:
        """How far planted answers score below honest ones."""
        samples = [answer.sample for answer in planted]
        verdicts = await self.gate_judge.verdicts(samples, self.rubric, self.batch)
        return measure_gaps(planted, self.honest, [verdict.reward for verdict in verdicts])

    def plant(self, kinds: Mapping[str, int]) -> list[PlantedAnswer]:
        """Planted answers of each kind on its number of prompts."""
        return plant(self.gate_judge, self.anchor, kinds, self.honest, self.phrases)

    def count_calls(self, planted: Sequence[PlantedAnswer]) -> int:
        """The calls that judging them takes, by what is judged already."""
        return self.gate_judge.count_calls([[answer.sample for answer in planted]], self.rubric)

    async def _try_first(self, kinds: Mapping[str, int]) -> tuple[Gaps, str]:
        """Tries each kind on its number of prompts. Returns the same as ``measure``."""
        planted = self.plant(kinds)
        gaps = await self.gaps(planted)
        if missing := sorted({answer.kind for answer in planted} - gaps.keys()):
            return gaps, f"no judgement of planted answers succeeded for: {', '.join(missing)}"
        if 2 * (lost := len(planted) - sum(map(len, gaps.values()))) >= len(planted) > 0:
            return gaps, f"{lost} of {len(planted)} judgements of planted answers failed"
        return gaps, ""

    async def _try_undecided(self, gaps: Gaps, kinds: Sequence[str], required: float) -> tuple[Gaps, str]:
        """Tries those of the kinds that are undecided on all prompts. Returns the same as ``measure``."""
        undecided = {kind: len(self.anchor) for kind in kinds if is_undecided(kind, gaps[kind], required)}
        planted = self.plant(undecided)
        if (needed := self.count_calls(planted)) > self.gate_judge.left:
            return gaps, describe_shortage(needed, self.gate_judge.left)
        return {**gaps, **await self.gaps(planted)}, ""


def plant(
    gate_judge: BudgetedJudge,
    anchor: Sequence[Sample],
    kinds: Mapping[str, int],
    scores: Scores,
    phrases: Sequence[str],
) -> list[PlantedAnswer]:
    """Planted answers, prompt by prompt, without those that a rule decides: no rubric can reward them.

    Args:
        gate_judge: Knows the rules.
        anchor: Honest answers.
        kinds: Kind → prompts on which it is planted.
        scores: Of the honest answers, by which the prompts are chosen; empty: not judged yet.
        phrases: What an active alarm found that training made frequent.
    """
    planted = plant_answers(kinds, anchor, scores or [None] * len(anchor), phrases)
    judged = [answer for answer in planted if not gate_judge.is_decided_by_rule(answer.sample)]
    # Answers to one prompt next to each other: groupwise judging takes them in one call.
    return sorted(judged, key=lambda answer: answer.place)


def describe_shortage(cost: int, left: float) -> str:
    """That the budget does not cover so many calls."""
    rest = max(0, int(left))
    return f"the gate needs {cost} judge calls but only {rest} are left in its budget; raise gate.share"
