"""What a run will ask for and cost, before it begins: a middle figure, and from low to high what moves it.

Prompts are measured by rendering them; what no one can know before, such as how long answers get and how far
the rubric grows, is a factor with a low, a middle and a high value. The middle figure takes them all at their
middle. Each factor alone, from its low to its high, moves the figure by so much; as they do not move
together, the range is the root of the sum of these squares on either side. Nothing is sent.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from mpo_lite.jsonl import JsonRow
from mpo_lite.judge.base import Sample
from mpo_lite.judge.groupwise import GroupwiseJudge
from mpo_lite.judge.pointwise import PointwiseJudge
from mpo_lite.llm import transport
from mpo_lite.llm.models import Backend
from mpo_lite.loop.context import RunContext
from mpo_lite.loop.factors import Factor, Figure, Load, Values, span
from mpo_lite.loop.gate_budget import describe_budget, gate_budget, planned_calls, planned_judgements
from mpo_lite.prompts import prompts_dir
from mpo_lite.rubric import MAX_CRITERIA
from mpo_lite.types import Message

CRITERION_CHARS = 400
"""A criterion as meta-judges write them, levels included."""
ANALYSIS_TOKENS, REFINEMENT_TOKENS = 300, 500
"""What a meta-judge writes of an answer, and as a proposal, at the middle."""
SCREENING_TOKENS = 60
"""A prescreening's reason and choice."""
TOLD = 4
"""Factors that are told, those that move the sum most."""


def estimate(context: RunContext) -> JsonRow:
    """Estimates a run.

    Args:
        context: The run as it was prepared; nothing is sent.

    Returns:
        ``judge``, ``meta``, ``audit`` and ``total``, each with ``calls``, ``input_tokens``,
        ``output_tokens`` and ``usd`` as ``[low, high]`` and all of them once more at the ``middle`` (``usd``
        None where a price is unknown); ``moves``: the factors that move the sum most, each with what the sum
        is then; ``meta_steps`` (see below); and ``assumptions``: sentences.
    """
    model = _Model(context)
    parts = {"judge": model.judges, "meta": model.metas, "audit": model.audits, "total": model.loads}
    return {
        **{name: _row(model.factors, loads) for name, loads in parts.items()},
        "moves": _moves(model),
        "meta_steps": meta_steps(context),
        "assumptions": model.assumptions(),
    }


def meta_steps(context: RunContext) -> JsonRow:
    """What the gate's budget makes of the planned meta steps.

    Returns:
        Of the regular steps, those ``planned`` and ``affordable``, and the ``first_batch`` with one (None
        without any); ``gate_budget`` and the ``first_step``'s cost in calls (None without a gate);
        ``summary``: all that in a sentence, empty without a gate.
    """
    config, budget = context.config, gate_budget(context)
    if budget is None:
        evolves = context.meta is not None and not config.baseline
        planned = (config.steps - 1) // config.interval if evolves else 0
        first = config.interval if planned else None
        found: JsonRow = {"planned": planned, "affordable": planned, "first_batch": first}
        return found | {"gate_budget": None, "first_step": None, "summary": ""}
    steps = budget.steps()
    return {
        "planned": budget.planned_steps,
        "affordable": len(steps),
        "first_batch": steps[0] if steps else None,
        "gate_budget": budget.total,
        "first_step": budget.first,
        "summary": describe_budget(context, budget),
    }


def paid_for(context: RunContext, estimated: JsonRow) -> list[str]:
    """What each cap pays for that may not last for the whole run, one sentence each.

    Args:
        context: The run.
        estimated: What ``estimate`` gave of it.
    """
    config, total = context.config, estimated["total"]
    tokens = [sum(pair) for pair in zip(total["input_tokens"], total["output_tokens"], strict=True)]
    caps = (
        (config.max_usd, total["usd"], f"${config.max_usd or 0:.2f}"),
        (config.max_calls, total["calls"], f"{config.max_calls or 0:,} calls"),
        (config.max_tokens, tokens, f"{config.max_tokens or 0:,} tokens"),
    )
    lines: list[str] = []
    for cap, needed, told in caps:
        if cap is None or needed is None or needed[1] <= cap:
            continue
        fewest, most = (
            min(config.steps, math.floor(config.steps * cap / max(need, 1e-9))) for need in needed[::-1]
        )
        batches = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        lines.append(f"the cap of {told} pays for about {batches} of {config.steps} batches")
    return lines


def least_call(estimated: JsonRow) -> tuple[float, int]:
    """USD and tokens that a call to the judge takes at least; 0 USD where the price is unknown."""
    judge = estimated["judge"]
    calls = max(1, judge["calls"][0])
    return (judge["usd"] or [0.0])[0] / calls, (judge["input_tokens"][0] + judge["output_tokens"][0]) // calls


class _Model:
    """How calls and tokens follow from the factors."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._rubric = context.first.rubric
        self._prompt = statistics.fmean(len(prompt) for prompt in context.prompts.train)
        self.factors = self._factors()
        self.judges = [self._judge(backend) for backend in context.models.judges]
        self.metas = [self._meta] if context.meta else []
        self.audits = [self._audit] if context.models.auditor else []
        self.loads = [*self.judges, *self.metas, *self.audits]

    def _factors(self) -> dict[str, Factor]:
        longest = float(self._context.max_new_tokens)
        first, steps = len(self._rubric.criteria), self._meta_steps()
        # Over the run: none is taken; each step brings one; all there may be from the first step on.
        grown = (
            first,
            (first + min(MAX_CRITERIA, first + steps[1])) / 2,
            MAX_CRITERIA if steps[2] else first,
        )
        more = self._further_calls()
        return {
            "answer": Factor("tokens of an answer", longest / 4, longest / 2, longest),
            "chars": Factor("characters per token", 4.5, 4.0, 3.0, "g"),
            "criteria": Factor("criteria of the rubric, over the run", *grown, ".3g"),
            "verdict": Factor("tokens of the judge's reply per criterion", 20, 40, 60),
            "called": Factor(
                "calls per judgement (rules and the cache save some, retries add some)", 0.8, 1.0, 1.1, "g"
            ),
            "gate": Factor(
                "calls for the gate, per call for training",
                0.0,
                self._gate_share() / 2,
                self._gate_share(),
                ".2g",
            ),
            "cached": Factor("share of prompt prefixes in the provider's cache", 1.0, 0.5, 0.0, "g"),
            "steps": Factor("meta steps", *steps),
            "unsound": Factor("share of judgements that the meta-judge finds unsound", 0.3, 0.7, 1.0, "g"),
            "more": Factor("guidelines and revisions per meta step", 0, more / 2, more, "g"),
            "written": Factor("length of the meta-judge's texts, 1 being usual", 0.4, 1.0, 2.5, "g"),
        }

    def _judge(self, backend: Backend) -> Callable[[Values], Load]:
        context, config = self._context, self._context.config
        single = PointwiseJudge(context.models.client, backend, context.models.judge_brief)
        at_once = config.group_size if config.judge_mode == "groupwise" else 1
        empty = [Sample("x" * round(self._prompt), "")] * at_once
        call = (
            GroupwiseJudge(single, at_once).build_call(empty, self._rubric)
            if at_once > 1
            else single.build_call(empty[0], self._rubric)
        )
        chars, prefix = _chars(call.messages), _chars(call.messages[:1])
        asked = planned_calls(context) / len(context.models.judges)

        def load(at: Values) -> Load:
            calls = asked * at["called"] * (1 + at["gate"])
            grown = (at["criteria"] - len(self._rubric.criteria)) * CRITERION_CHARS
            sent = (chars + grown) / at["chars"] + at_once * at["answer"]
            received = at_once * at["criteria"] * at["verdict"]
            return Load(
                backend, calls, calls * sent, calls * received, (prefix + grown) / at["chars"], at["cached"]
            )

        return load

    def _audit(self, at: Values) -> Load:
        """A share of the answers once more, each by one criterion."""
        context, auditor = self._context, self._context.models.auditor
        assert auditor is not None
        single = PointwiseJudge(context.models.client, auditor, context.models.brief)
        call = single.build_call(Sample("x" * round(self._prompt), ""), context.task.purpose_rubric)
        calls = planned_judgements(context) * context.config.audit_share * at["called"]
        sent = _chars(call.messages) / at["chars"] + at["answer"]
        return Load(auditor, calls, calls * sent, calls * at["verdict"])

    def _meta(self, at: Values) -> Load:
        """Per step and sample an analysis and, if called for, a proposal; then all are merged."""
        meta, config = self._context.meta, self._context.config
        assert meta is not None
        samples, per = config.meta_samples, at["chars"]
        grown = (at["criteria"] - len(self._rubric.criteria)) * CRITERION_CHARS
        rubric = (len(self._rubric.render()) + grown) / per
        # A pair shows two answers, and mostly two verdicts.
        answers = 2 if config.strategy == "pairs" else 1
        verdict = at["criteria"] * at["verdict"]
        shown = rubric + self._prompt / per + answers * (at["answer"] + verdict)
        analysis, proposal = ANALYSIS_TOKENS * at["written"], REFINEMENT_TOKENS * at["written"]
        analyse = self._templates["analyse"] / per + shown
        refine = self._templates["refine"] / per + shown + analysis
        refined = samples * at["unsound"]
        merge = self._templates["merge"] / per + rubric + refined * (analysis + proposal)
        screened = config.interval * config.batch_completions if config.prescreen else 0
        merged = min(meta.backend.max_tokens or 4096, 2 * proposal)
        merges = 1 + at["more"] / 2  # guidelines and revisions are on average half as long as a merge
        steps = at["steps"] * at["called"]
        return Load(
            meta.backend,
            steps * (screened + samples + refined + 1 + at["more"]),
            steps * ((screened + samples) * analyse + refined * refine + merges * merge),
            steps * (screened * SCREENING_TOKENS + samples * analysis + refined * proposal + merges * merged),
        )

    @cached_property
    def _templates(self) -> dict[str, int]:
        names = ("analyse", "refine", "merge")
        return {name: len((prompts_dir() / f"meta/{name}.md").read_text(encoding="utf-8")) for name in names}

    def _gate_share(self) -> float:
        """Calls besides those for training, at most, as a share of them."""
        config = self._context.config
        if self._context.meta is None or config.baseline:
            return 0.0
        if config.use_gate:
            return config.gate.share
        # Without a gate there are the probes that pairs are made of, and what the initial policy answered.
        pairs, batch = config.meta_samples, (config.batch_completions, config.batch_prompts)
        cost = self._context.models.judge().cost
        return cost.most_calls(pairs, pairs, pairs) / (config.interval * cost.most_calls(*batch, batch[1]))

    def _meta_steps(self) -> tuple[float, float, float]:
        """Meta steps of the run: the fewest, those to be expected, the most."""
        config = self._context.config
        if self._context.meta is None:
            return 0, 0, 0
        if config.baseline:
            return config.rounds, config.rounds, config.rounds
        low, early = ((config.steps - 1) // every for every in (config.interval, config.cooldown))
        high = max(low, early) if config.schedule == "alarms" else low
        if budget := gate_budget(self._context):
            low, high = min(low, len(budget.steps())), min(high, budget.most_steps)
        return low, low + (high - low) / 4, high

    def _further_calls(self) -> int:
        """Calls to the meta-judge per step for guidelines and for a revision, at most."""
        config, prompts = self._context.config, self._context.prompts
        kinds = len({prompts.cluster(prompt) for prompt in prompts.train} - {""})
        return config.use_gate + min(config.meta_samples, kinds)

    def assumptions(self) -> list[str]:
        """What the figures rest on, in sentences."""
        context, config = self._context, self._context.config
        modes = {
            "pointwise": "one call each",
            "groupwise": f"one call per group of {config.group_size}",
            "planned": f"one call each and one per group of {config.group_size} for a plan",
        }
        times = len(context.models.judges) * config.replicates
        lines = [
            f"{config.steps} batches of {config.batch_completions} completions, "
            + modes[config.judge_mode or "pointwise"]
            + (f", {times} times" if times > 1 else ""),
            f"a prompt has {self._prompt:.0f} characters, the mean of the data; {self.factors['answer']}, of "
            f"{context.max_new_tokens} at most",
            "the range takes what moves the figures as independent; a judge that thinks before it answers "
            "costs more, for thoughts are charged as output",
        ]
        unpriced = [which.model for _, which in context.models.all if transport.pricing(which) is None]
        return lines + [
            f"{model} is unpriced: give its price to have USD" for model in dict.fromkeys(unpriced)
        ]


def _row(factors: Mapping[str, Factor], loads: Sequence[Callable[[Values], Load]]) -> JsonRow:
    """Low, high and middle of all figures of some models together."""

    def figure(name: str) -> Figure:
        return lambda at: sum(getattr(load(at), name) for load in loads)

    names = ("calls", "input_tokens", "output_tokens")
    spans = {name: [round(value) for value in span(factors, figure(name))] for name in names}
    usd = [round(value, 4) for value in span(factors, figure("usd"))]
    priced = not any(map(math.isnan, usd))
    return {
        **{name: [low, high] for name, (low, _, high) in spans.items()},
        "usd": [usd[0], usd[2]] if priced else None,
        "middle": {**{name: span[1] for name, span in spans.items()}, "usd": usd[1] if priced else None},
    }


def _moves(model: _Model) -> list[JsonRow]:
    """The factors that move the sum most, in USD or, where that is nothing or not known, in tokens."""
    middle: dict[str, float] = {name: factor.middle for name, factor in model.factors.items()}

    def usd(at: Values) -> float:
        return sum(load(at).usd for load in model.loads)

    def tokens(at: Values) -> float:
        loads = [load(at) for load in model.loads]
        return sum(load.input_tokens + load.output_tokens for load in loads)

    unit, figure = ("usd", usd) if usd(middle) > 0 else ("tokens", tokens)
    found: list[tuple[float, dict[str, Any]]] = []
    for name, factor in model.factors.items():
        pair = [figure({**middle, name: value}) for value in (factor.low, factor.high)]
        row = {"factor": str(factor), unit: [round(value, 4) for value in sorted(pair)]}
        found.append((abs(pair[1] - pair[0]), row))
    found.sort(key=lambda each: -each[0])
    return [row for moved, row in found[:TOLD] if moved > 0]


def _chars(messages: Sequence[Message]) -> int:
    return sum(len(message["content"]) for message in messages)
