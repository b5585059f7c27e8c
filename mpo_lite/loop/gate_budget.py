"""The gate's budget: how many calls its checks, audits and probes may take, and from which batch on.

The whole run may take ``gate.share`` of the calls that training plans. The budget is released evenly
over the run, ahead by an interval's worth and at least by two steps. So the first step of a short run, or one
that an early alarm asks for, is not postponed, and where its proposal is refused another follows at once: a
policy that exploits its rubric soon cannot be brought back. A series of alarms cannot use up the rest of the
run's budget; and where the budget does not cover every planned step, the steps are spread over the run
instead of ending early. Within a step the check of the proposal comes first: audits, the recheck of the
current rubric, and probes by the first rubric take what it leaves. How many calls judging takes is the
judge's ``CallCost``, what was spent is counted by ``BudgetedJudge``, what a check takes by ``Gate``.

All of it depends on the configuration and the journal of judgements alone: a resumed run decides as an
uninterrupted one would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mpo_lite.config import Config
from mpo_lite.judge.base import Sample
from mpo_lite.loop.context import RunContext
from mpo_lite.meta.gate import Gate

# Stands for the initial policy's answers before there are any: long enough to break no rule on length.
_ANSWER = "A sentence of some words that stands for an answer. " * 40


@dataclass(frozen=True)
class GateBudget:
    """Calls for judgements that are not trained on.

    Attributes:
        share: ``gate.share``.
        planned: Calls that training plans.
        batches: Generation batches of the run.
        interval: Generation batches between regular steps.
        first: Calls that a first step takes, without anything that can be left out.
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
        """Calls in the whole run."""
        return math.floor(self.share * self.planned + 1e-9)

    def allowance(self, batch: int, spent: int) -> float:
        """Calls that a step may make.

        Args:
            batch: Generation batches done.
            spent: Calls made by earlier steps.
        """
        ahead = max(self.total * self.interval / self.batches, self.first + self.later)
        return min(self.total, self.total * batch / self.batches + ahead) - spent

    def first_affordable_batch(self, cost: int, batch: int, spent: int) -> int | None:
        """The batch from which on a step of ``cost`` calls is covered; None: not in this run."""
        later = range(batch, self.batches)
        return next((done for done in later if cost <= self.allowance(done, spent)), None)

    def describe_shortage(self, cost: int, batch: int, spent: int) -> str:
        """A sentence: why a step of ``cost`` calls is not covered after ``batch`` batches; empty if it is."""
        first = self.first_affordable_batch(cost, batch, spent)
        if first == batch:
            return ""
        if first is not None:
            return f"the meta step is postponed to batch {first}: {self} has to last for the whole run"
        if spent:
            return f"no more meta steps: {self} is spent; raise gate.share"
        return f"no meta steps: {self} does not cover the {cost} calls of one; raise gate.share"

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
        share = f"{100 * self.share:g}% of {self.planned:,} planned judge calls"
        return f"the gate's budget ({share} = {self.total:,})"


def planned_judgements(context: RunContext) -> int:
    """Completions that training has judged, all in all: those that the task's verifier scores left out."""
    config, verifier = context.config, context.task.verifier
    return round(config.steps * config.batch_completions * (1 - (verifier.rate if verifier else 0.0)))


def planned_calls(context: RunContext) -> int:
    """Calls that these judgements take, by the judges that the run begins with."""
    models, config = context.models, context.config
    cost = replace(models.judge().cost, judges=len(models.judges) * config.replicates)
    return round(planned_judgements(context) / config.group_size * cost.most_calls(config.group_size, 1, 1))


def paired_probes(config: Config, prompts: int) -> int:
    """Probes that the meta-judge is shown next to the initial policy's answers, of ``prompts`` at most."""
    return min(config.meta_samples // 2, prompts) if config.strategy == "pairs" else 0


def cost_of_pairs(config: Config, gate: Gate) -> int:
    """The calls to set aside for judging those probes, once the anchor is judged by the same rubric."""
    paired = paired_probes(config, len(gate.anchor))
    return gate.gate_judge.cost.most_calls(paired, paired, 0)


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
    prompts, cost = len(anchor), gate.gate_judge.cost
    later = gate.cost_of_new + cost_of_pairs(config, gate)
    first = later + cost.most_calls(prompts, prompts, prompts)
    return GateBudget(config.gate.share, planned_calls(context), config.steps, config.interval, first, later)


def describe_budget(context: RunContext, budget: GateBudget) -> str:
    """A sentence: how many of the planned meta steps the budget covers, and from when; or what to change."""
    steps, planned = budget.steps(), budget.planned_steps
    if not planned:
        return (
            f"warning: no meta step but for alarms: the run has {budget.batches} batches, and the first step "
            f"comes after batch {budget.interval}; set --interval {max(1, budget.batches // 2)}"
        )
    if not steps:
        # One prompt less saves its answer's judgement by two rubrics, at least.
        saved = 2 * context.models.judge().cost.most_calls(1, 1, 1)
        fewer = context.config.gate.prompts - math.ceil((budget.first - budget.total) / saved)
        return (
            f"warning: no meta step: {budget} does not cover the {budget.first} calls of a step; "
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


def _share_for(budget: GateBudget, calls: int) -> str:
    """The least share, in hundredths, whose budget is so many calls."""
    hundredths = math.ceil(100 * calls / max(1, budget.planned) - 1e-9)
    return f"{hundredths / 100:g}"
