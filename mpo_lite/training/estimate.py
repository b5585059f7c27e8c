"""What a run will ask for and cost, before it begins: from low to high, with what is assumed.

Prompts are measured by rendering them; what no one can know before, how long answers get and how far the
rubric grows, is a range. Nothing is sent.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from mpo_lite.files import JsonRow
from mpo_lite.judge.base import Sample
from mpo_lite.judge.groupwise import GroupwiseJudge
from mpo_lite.judge.pointwise import PointwiseJudge
from mpo_lite.llm import transport
from mpo_lite.llm.models import Backend
from mpo_lite.prompts import prompts_dir
from mpo_lite.rubric import MAX_CRITERIA
from mpo_lite.training.gate_budget import describe_budget, gate_budget, planned_judgements
from mpo_lite.training.session import Session
from mpo_lite.types import Message

CHARS_PER_TOKEN = (4.5, 3.0)
CRITERION_CHARS = 400
"""A criterion as meta-judges write them, levels included."""
CRITERION_TOKENS = (20, 60)
"""A reason and a level."""
CALLED = (0.8, 1.1)
"""Calls per completion: rules and repeats save some, retries and repairs add some."""
ANALYSIS_TOKENS, REFINEMENT_TOKENS = (100, 600), (150, 1500)
CACHED_PREFIX_TOKENS = 1024
"""Shortest prefix that providers cache (OpenAI, Anthropic's Sonnet)."""


@dataclass(frozen=True)
class Load:
    """Calls to one model and their tokens, all in all; each a pair of low and high."""

    backend: Backend
    calls: tuple[float, float]
    input_tokens: tuple[float, float]
    output_tokens: tuple[float, float]
    prefix_tokens: float = 0.0
    """Tokens per call that equal those of the call before, by the low estimate."""

    @property
    def usd(self) -> tuple[float, float] | None:
        """USD; None where the price is unknown."""
        tariff = transport.tariff(self.backend)
        if tariff is None:
            return None
        cached = self.calls[0] * self.prefix_tokens if self.prefix_tokens >= CACHED_PREFIX_TOKENS else 0.0
        low = (self.input_tokens[0] - cached) * tariff.input + cached * tariff.cached
        high = self.input_tokens[1] * max(tariff.input, tariff.written)
        return (
            (low + self.output_tokens[0] * tariff.output) / 1e6,
            (high + self.output_tokens[1] * tariff.output) / 1e6,
        )


def estimate(session: Session) -> JsonRow:
    """Estimates a run.

    Args:
        session: The run as it was prepared; nothing is sent.

    Returns:
        ``judge``, ``meta`` and ``total``, each with ``calls``, ``input_tokens``, ``output_tokens`` and
        ``usd`` as ``[low, high]`` (``usd`` None where a price is unknown), ``meta_steps`` (see below), and
        ``assumptions``: sentences.
    """
    judge = [_judge_load(session, backend) for backend in session.models.judges]
    meta = [_meta_load(session)] if session.meta else []
    return {
        "judge": _sum(judge),
        "meta": _sum(meta),
        "total": _sum([*judge, *meta]),
        "meta_steps": meta_steps(session),
        "assumptions": _assumptions(session),
    }


def meta_steps(session: Session) -> JsonRow:
    """What the gate's budget makes of the planned meta steps.

    Returns:
        Of the regular steps, those ``planned`` and ``affordable``, and the ``first_batch`` with one (None
        without any); ``gate_budget`` and the ``first_step``'s cost in judgements (None without a gate);
        ``summary``: all that in a sentence, empty without a gate.
    """
    config, budget = session.config, gate_budget(session)
    if budget is None:
        evolves = session.meta is not None and not config.baseline
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
        "summary": describe_budget(session, budget),
    }


def _judge_load(session: Session, backend: Backend) -> Load:
    config = session.config
    prompt = "x" * round(_mean_prompt(session))
    single = PointwiseJudge(session.client, backend, "x" * len(session.task.persona))
    rubric = session.version.rubric
    at_once = config.group_size if config.judge_mode == "groupwise" else 1
    empty = [Sample(prompt, "")] * at_once
    call = (
        GroupwiseJudge(single, at_once).call(empty, rubric) if at_once > 1 else single.call(empty[0], rubric)
    )
    fixed, grown = _chars(call.messages), _rubric_growth(session)
    trained = planned_judgements(session)
    calls = trained * config.replicates / at_once
    if config.judge_mode == "planned":
        calls += trained / config.group_size * config.replicates
    answers = [at_once * tokens for tokens in _completion_tokens(session)]
    criteria = len(rubric.criteria), MAX_CRITERIA if session.meta else len(rubric.criteria)
    judged = calls, calls * (1 + _gate_share(session))
    return Load(
        backend,
        _scaled(judged),
        _scaled(
            judged, fixed / CHARS_PER_TOKEN[0] + answers[0], (fixed + grown) / CHARS_PER_TOKEN[1] + answers[1]
        ),
        _scaled(judged, *(at_once * n * each for n, each in zip(criteria, CRITERION_TOKENS, strict=True))),
        _chars(call.messages[:1]) / CHARS_PER_TOKEN[0],
    )


def _meta_load(session: Session) -> Load:
    config, meta = session.config, session.meta
    assert meta is not None
    steps = _meta_steps(session)
    samples = config.meta_samples
    template = {
        name: len((prompts_dir() / f"meta/{name}.md").read_text(encoding="utf-8"))
        for name in ("analyse", "refine", "merge")
    }
    rubric = len(session.version.rubric.render())
    sent: list[float] = []
    received: list[float] = []
    for level, chars in enumerate(CHARS_PER_TOKEN):
        shown = rubric + level * _rubric_growth(session) + _mean_prompt(session)
        text = shown / chars + _completion_tokens(session)[level]
        analyse = (
            template["analyse"] / chars
            + text
            + len(session.version.rubric.criteria) * CRITERION_TOKENS[level]
        )
        refine = template["refine"] / chars + text + ANALYSIS_TOKENS[level]
        merge = (template["merge"] + shown) / chars + samples * REFINEMENT_TOKENS[level]
        screen = 2 * samples * config.prescreen * analyse
        sent.append(steps[level] * (screen + samples * (analyse + refine) + (1 + level) * merge))
        merged = min(meta.backend.max_tokens or 4096, 2 * REFINEMENT_TOKENS[level])
        answers = samples * (ANALYSIS_TOKENS[level] + REFINEMENT_TOKENS[level])
        received.append(steps[level] * (answers + (1 + level) * merged))
    calls = [steps[level] * each for level, each in enumerate(_step_calls(session))]
    low, high = CALLED
    return Load(
        meta.backend,
        (low * calls[0], high * calls[1]),
        (low * sent[0], high * sent[1]),
        (low * received[0], high * received[1]),
    )


def _scaled(calls: tuple[float, float], low: float = 1.0, high: float = 1.0) -> tuple[float, float]:
    return CALLED[0] * calls[0] * low, CALLED[1] * calls[1] * high


def _gate_share(session: Session) -> float:
    """Judgements besides those trained on, at most, as a share of them."""
    config = session.config
    if session.meta is None or config.baseline:
        return 0.0
    if config.mode == "guarded":
        return config.gate.share
    # Without a gate there are the probes that pairs are made of, and what the initial policy answered.
    return config.meta_samples / (config.interval * config.batch_completions)


def _meta_steps(session: Session) -> tuple[int, int]:
    """Meta steps of the run, at least and at most."""
    config = session.config
    if config.baseline:
        return config.rounds, config.rounds
    low, early = ((config.steps - 1) // every for every in (config.interval, config.cooldown))
    high = max(low, early) if config.schedule == "alarms" else low
    if budget := gate_budget(session):
        return min(low, len(budget.steps())), min(high, budget.most_steps)
    return low, high


def _step_calls(session: Session) -> tuple[int, int]:
    """Calls to the meta-judge per step, at least and at most."""
    config = session.config
    calls = 2 * config.meta_samples + 1 + 2 * config.meta_samples * config.prescreen
    kinds = len({session.prompts.cluster(prompt) for prompt in session.prompts.train} - {""})
    return calls, calls + (config.mode == "guarded") + min(config.meta_samples, kinds)


def _sum(loads: Sequence[Load]) -> JsonRow:
    def total(pairs: Sequence[tuple[float, float]]) -> list[int]:
        return [round(sum(pair[side] for pair in pairs)) for side in (0, 1)]

    prices = [load.usd for load in loads]
    known = [price for price in prices if price is not None]
    return {
        "calls": total([load.calls for load in loads]),
        "input_tokens": total([load.input_tokens for load in loads]),
        "output_tokens": total([load.output_tokens for load in loads]),
        "usd": [round(sum(price[side] for price in known), 4) for side in (0, 1)]
        if len(known) == len(prices)
        else None,
    }


def _assumptions(session: Session) -> list[str]:
    config = session.config
    per_call = (
        f"one call per group of {config.group_size}" if config.judge_mode == "groupwise" else "one call each"
    )
    low, high = _completion_tokens(session)
    lines = [
        f"{config.steps} batches of {config.batch_completions} completions, {per_call}, "
        f"{len(session.models.judges) * config.replicates} time(s); {CALLED[0]:.0%} to {CALLED[1]:.0%} of "
        "these calls are made: rules and the cache save some, retries add some",
        f"a completion has {low:.0f} to {high:.0f} tokens, a prompt {_mean_prompt(session):.0f} characters "
        f"(the mean of the data); {CHARS_PER_TOKEN[1]:g} to {CHARS_PER_TOKEN[0]:g} characters per token",
        f"a criterion takes the judge {CRITERION_TOKENS[0]} to {CRITERION_TOKENS[1]} tokens to answer; a "
        "judge that thinks first costs more, for thoughts are charged as output",
    ]
    if session.meta:
        lines.append(
            "{} to {} meta steps of {} to {} calls; ".format(*_meta_steps(session), *_step_calls(session))
            + f"up to {_gate_share(session):.0%} more judgements than are trained on, for the gate; the "
            f"rubric has {len(session.version.rubric.criteria)} criteria at first, up to {MAX_CRITERIA} later"
        )
    lines.append(
        "low prices count a prefix of 1024 tokens or more as cached by the provider, high prices do not"
    )
    lines += [
        f"{which.model} is unpriced: give its price to have USD"
        for _, which in session.models.all
        if transport.tariff(which) is None
    ]
    return lines


def _chars(messages: Sequence[Message]) -> int:
    return sum(len(message["content"]) for message in messages)


def _mean_prompt(session: Session) -> float:
    return statistics.fmean(len(prompt) for prompt in session.prompts.train)


def _rubric_growth(session: Session) -> int:
    """Characters by which the rubric grows at most."""
    if session.meta is None:
        return 0
    return max(0, MAX_CRITERIA * CRITERION_CHARS - len(session.version.rubric.render()))


def _completion_tokens(session: Session) -> tuple[float, float]:
    return session.max_new_tokens / 4, float(session.max_new_tokens)
