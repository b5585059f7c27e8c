"""The gate's budget: how many judgements its checks, audits and probes may take, and from which batch on.

The whole run may take ``gate.share`` of the judgements that training plans. The budget is released evenly
over the run, ahead by an interval's worth and at least by one step. So the first step of a short run, or one
that an early alarm asks for, is not postponed; a series of alarms cannot use up the rest of the run's budget;
and where the budget does not cover every planned step, the steps are spread over the run instead of ending
early. Within a step the check of the proposal comes first: audits, the recheck of the current rubric, and
probes by the first rubric take what it leaves. What was spent is counted by ``BudgetedJudge``, what a check
costs by ``Gate``.

All of it depends on the configuration and the journal of judgements alone: a resumed run decides as an
uninterrupted one would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mpo_lite.config import Config
from mpo_lite.judge.base import Sample
from mpo_lite.loop.context import RunContext
from mpo_lite.meta.gate import RECENT, Gate

# Stands for the initial policy's answers before there are any: long enough to break no rule on length.
_ANSWER = "A sentence of some words that stands for an answer. " * 40


@dataclass(frozen=True)
class GateBudget:
    """Judgements that are not trained on.

    Attributes:
        share: ``gate.share``.
        planned: Judgements that training plans.
        batches: Generation batches of the run.
        interval: Generation batches between regular steps.
        first: Judgements that a first step takes, without anything that can be left out.
        later: The same of a step after it: the anchor's answers were judged by the current rubric already.
    """

    share: float
    planned: int
    batches: int
    interval: int
    first: int
    later: int

    @property
    def total(self) -> int:
        """Judgements in the whole run."""
        return math.floor(self.share * self.planned + 1e-9)

    def allowance(self, batch: int, spent: int) -> float:
        """Judgements that a step may take.

        Args:
            batch: Generation batches done.
            spent: Judgements taken by earlier steps.
        """
        ahead = max(self.total * self.interval / self.batches, self.first)
        return min(self.total, self.total * batch / self.batches + ahead) - spent

    def first_affordable_batch(self, cost: int, batch: int, spent: int) -> int | None:
        """The batch from which on a step of ``cost`` judgements is covered; None: not in this run."""
        later = range(batch, self.batches)
        return next((done for done in later if cost <= self.allowance(done, spent)), None)

    def steps(self) -> list[int]:
        """The batches after which steps are expected, alarms, refusals and audits left out."""
        batches: list[int] = []
        spent, cost, due = 0, self.first, self.interval
        while (batch := self.first_affordable_batch(cost, due, spent)) is not None:
            batches.append(batch)
            spent, cost, due = spent + cost, self.later, batch + self.interval
        return batches

    @property
    def planned_steps(self) -> int:
        """Regular steps of the run, affordable or not."""
        return (self.batches - 1) // self.interval

    @property
    def most_steps(self) -> int:
        """Steps that the budget covers where alarms ask for them."""
        return 0 if self.total < self.first else 1 + (self.total - self.first) // self.later

    def __str__(self) -> str:
        share = f"{100 * self.share:g}% of {self.planned:,} planned judgements"
        return f"the gate's budget ({share} = {self.total:,})"


def planned_judgements(context: RunContext) -> int:
    """Completions that training has judged, all in all: those that the task's verifier scores left out."""
    config, verifier = context.config, context.task.verifier
    return round(config.steps * config.batch_completions * (1 - (verifier.rate if verifier else 0.0)))


def paired_probes(config: Config, prompts: int) -> int:
    """Probes that the meta-judge is shown next to the initial policy's answers, of ``prompts`` at most."""
    return min(config.meta_samples // 2, prompts) if config.strategy == "pairs" else 0


def gate_budget(context: RunContext, anchor: Sequence[Sample] = ()) -> GateBudget | None:
    """The budget of a run; None where no gate checks rubrics.

    Args:
        context: The run.
        anchor: The initial policy's answers; before there are any, texts that break no rule stand in.
    """
    config = context.config
    if context.meta is None or config.baseline or not config.use_gate:
        return None
    if not anchor:
        anchor = tuple(Sample(prompt, _ANSWER) for prompt in context.prompts.train[: config.gate.prompts])
    gate = Gate(context.make_gate_judge(), anchor, context.task, config.gate)
    later = (
        len(anchor) + (gate.planted if len(anchor) > 1 else 0) + RECENT + paired_probes(config, len(anchor))
    )
    planned = planned_judgements(context)
    return GateBudget(config.gate.share, planned, config.steps, config.interval, later + len(anchor), later)


def describe_budget(context: RunContext, budget: GateBudget) -> str:
    """A sentence: how many of the planned meta steps the budget covers, and from when; or what to change."""
    steps, planned = budget.steps(), budget.planned_steps
    if not planned:
        return (
            f"warning: no meta step but for alarms: the run has {budget.batches} batches, and the first step "
            f"comes after batch {budget.interval}; set --interval {max(1, budget.batches // 2)}"
        )
    if not steps:
        fewer = context.config.gate.prompts - math.ceil((budget.first - budget.total) / 2)
        return (
            f"warning: no meta step: {budget} does not cover the {budget.first} judgements of a step; "
            f"set -o gate.share={_share_for(budget, budget.first)}"
            + (f", or -o gate.prompts={fewer}" if fewer >= 4 else ", or longer training")
        )
    if len(steps) < planned:
        share = _share_for(budget, budget.first + (planned - 1) * budget.later)
        return (
            f"{budget} covers {len(steps)} of {planned} planned meta steps, the first after batch "
            f"{steps[0]}; for all of them, set -o gate.share={share}"
        )
    return f"{budget} covers all {planned} planned meta steps, the first after batch {steps[0]}"


def _share_for(budget: GateBudget, judgements: int) -> str:
    """The least share, in hundredths, whose budget is so many judgements."""
    hundredths = math.ceil(100 * judgements / max(1, budget.planned) - 1e-9)
    return f"{hundredths / 100:g}"
