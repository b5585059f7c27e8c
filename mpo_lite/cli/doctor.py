"""``mpo-lite doctor``: see what works here, and how to fix what does not."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import click

from mpo_lite.activity import activity
from mpo_lite.cli._options import config_options, json_option, overrides_option
from mpo_lite.cli.meta_trial import meta_lines, meta_row, one_line
from mpo_lite.cli.status import show_status
from mpo_lite.cli.terminal import echo
from mpo_lite.config import Config
from mpo_lite.config_sources import load_config
from mpo_lite.errors import CallFailed, EndpointError, UsageError
from mpo_lite.judge.base import Judge, Sample
from mpo_lite.judge.panel import build_judge
from mpo_lite.judge.pool import ModelPool
from mpo_lite.llm import event_loop, transport
from mpo_lite.llm.models import Backend
from mpo_lite.meta.meta_judge import MetaJudge
from mpo_lite.meta.refine import propose_once
from mpo_lite.rubric import Rubric
from mpo_lite.sandbox.stand_in import sandboxed
from mpo_lite.tasks.spec import Task, task_of
from mpo_lite.types import Verdict

PACKAGES = ("torch", "transformers", "trl", "peft", "litellm", "datasets")
SLOW_S = 20.0
"""Seconds for one tiny verdict from which a judge is called slow."""
META_SAMPLES = 2
"""Judged answers that the meta-judge is shown: both of ``ANSWERS``."""
PROMPT = "Write a short text for parents: should children learn to cook at school?"
ANSWERS = (
    "Children should learn to cook at school. First, it keeps them healthy: who can make a soup from "
    "vegetables does not depend on ready meals, and learns what food contains. Second, it is fair: not every "
    "child has a parent with the time to teach it at home. A lesson of two hours a week is enough; my own "
    "class cooked lentils in the first month and a whole dinner for their families in the third. Some say "
    "that mathematics matters more, but weighing and doubling a recipe is mathematics too. So schools should "
    "give cooking a place.",
    "# Cooking At School\n\nCooking is very good. Cooking is very good. Cooking is very good.",
)
"""A decent answer and a poor one, for every judge to give a real verdict on."""
State = Literal["ok", "note", "bad"]
_SIGNS = {"ok": ("✓", "green"), "note": ("–", "yellow"), "bad": ("✗", "red")}


@dataclass(frozen=True)
class Check:
    """What was found out about one thing.

    Attributes:
        name: The thing.
        state: ``ok``; ``note``, which may be meant; ``bad``, which has to be fixed.
        detail: What was seen.
        fix: How to fix it; empty where nothing is to be done.
    """

    name: str
    state: State
    detail: str
    fix: str = ""


@click.command("doctor", short_help="See what works here, and how to fix what does not.")
@click.argument("config_file", metavar="[CONFIG.yaml]", required=False, type=click.Path(path_type=Path))
@config_options("judge", "judge_api_base", "judge_fallback", "meta", "meta_api_base", "policy")
@overrides_option
@json_option
@click.pass_context
@show_status
def command(
    context: click.Context, config_file: Path | None, overrides: tuple[str, ...], as_json: bool, **flags: Any
) -> None:
    """See what works here: Python, packages, GPU, keys, hub, and each model.

    Each judge gives verdicts on two answers by the task's first rubric; the meta-judge does one small meta
    step on them. Keys are looked for and never shown. The exit code is 1 where something has to be fixed.

    \b
    mpo-lite doctor
    mpo-lite doctor experiment.yaml
    mpo-lite doctor --judge gpt-4o --meta claude --json
    """
    config = load_config(config_file, flags, overrides)
    found: list[Check] = []
    for finding in _examined(config):
        found.append(finding)
        if not as_json:
            _say(finding)
    if as_json:
        echo(json.dumps({"findings": [asdict(one) for one in found]}))
    if any(one.state == "bad" for one in found):
        context.exit(1)


def _examined(config: Config) -> Iterator[Check]:
    yield from _packages()
    with activity("loading torch"):
        machine = _machine()
    yield machine
    if os.environ.get("HF_TOKEN"):
        yield Check("HF_TOKEN", "ok", "is set")
    yield _hub()
    with sandboxed(config) as served:
        yield from _models(served)


def _packages() -> Iterator[Check]:
    import platform

    yield Check("Python", "ok", platform.python_version())
    for name in PACKAGES:
        try:
            yield Check(name, "ok", version(name))
        except PackageNotFoundError:
            yield Check(name, "bad", "is not installed", "pip install mpo-lite")


def _machine() -> Check:
    from mpo_lite.loop.environment import accelerators  # loads torch

    devices = accelerators()
    if not devices:
        return Check("GPU", "note", "torch sees none: training runs on the CPU", "fine for the sandbox")
    told = ", ".join(f"{name} ({free:.0f} of {total:.0f} GiB free)" for name, free, total in devices)
    return Check("GPU", "ok", told)


def _key(role: str, backend: Backend) -> Check | None:
    """Whether the key that a model is asked with is there; None where it needs none, or that is not known."""
    if backend.key_variable:
        return Check(backend.key_variable, "ok", f"is set, for the {role}")
    key = transport.provider_key(backend.model)
    if backend.api_base or key.is_set is None:
        return None
    names = " or ".join(key.variables) if key.is_plain else " and ".join(key.variables)
    if key.is_set:
        return Check(names, "ok", f"is set, for the {role}")
    told = f"not set, for the {role} {backend.model}"
    return Check(names, "note", told, f"export {key.variables[0]}=…" if key.is_plain else "")


def _hub() -> Check:
    if os.environ.get("HF_HUB_OFFLINE"):
        return Check("hub", "note", "HF_HUB_OFFLINE is set: local copies alone", "unset it to download")
    address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=5).close()
        return Check("hub", "ok", f"{address.hostname} can be reached")
    except OSError as error:
        fix = "give local files by --policy DIR and --data FILE, or see to the network"
        return Check("hub", "note", f"{address.hostname} cannot be reached ({error})", fix)


def _models(config: Config) -> Iterator[Check]:
    if not config.judge:
        yield Check("judge", "note", "none is named", "--judge MODEL, or MPO_JUDGE, to have it tried")
        return
    try:
        task = task_of(config)
        models = ModelPool(config, task.persona, with_meta=config.meta is not None)
    except UsageError as error:
        yield Check("models", "bad", str(error), "see above")
        return
    try:
        yield from _tried_out(config, task, models)
    finally:
        models.close()


def _tried_out(config: Config, task: Task, models: ModelPool) -> Iterator[Check]:
    """Whether each model is there, what verdicts the judges give, and what a meta step comes to."""
    models.log_calls(Path())
    samples = [Sample(PROMPT, answer) for answer in ANSWERS]
    judged: list[Verdict] = []
    for role, backend in models.all:
        if key := _key(role, backend):
            yield key
        with activity(f"checking {role} {backend.model}"):
            there = _tried(models, f"{role} {backend.model}", backend)
        yield there
        if there.state == "bad":
            continue
        if backend is not models.meta:
            # Asked afresh each time: what a model said once, the cache would say for ever.
            judge = build_judge(config, models.client, [backend], task.persona, "check", str(time.time_ns()))
            verdicts, finding = _verdicts(judge, backend, task.rubric, samples)
            judged = judged or verdicts
            yield finding
        elif judged:
            yield _meta_step(models, backend, task, samples, judged)
        else:
            yield Check("meta step", "note", "not tried: no judge gave a verdict to learn from")


def _verdicts(
    judge: Judge, backend: Backend, rubric: Rubric, samples: list[Sample]
) -> tuple[list[Verdict], Check]:
    """Verdicts on a good and a poor answer, none where one failed, and what is to be said of them."""
    name = f"verdicts of {backend.model}"
    try:
        verdicts = event_loop.wait(judge.verdicts(samples, rubric))
    except EndpointError as error:
        return [], Check(name, "bad", str(error))
    good, poor = verdicts
    for one in verdicts:
        if one.reward is None:
            fix = "take another model, or one that answers in JSON; a rubric with fewer criteria is easier"
            return [], Check(name, "bad", f"no verdict: {one.detail}", fix)
    levels = [(key, each, poor.assessments[key]) for key, each in good.assessments.items()]
    told = "; ".join(
        f"{key} {a.level} for a good answer ({one_line(a.reason)}), {b.level} for a poor one "
        f"({one_line(b.reason)})"
        for key, a, b in levels
    )
    if (good.reward or 0.0) > (poor.reward or 0.0):
        return verdicts, Check(name, "ok", told)
    fix = "the first rubric may be too vague, or the judge too weak: see mpo-lite try"
    return verdicts, Check(name, "note", f"the poor answer earns as much as the good one: {told}", fix)


def _meta_step(
    models: ModelPool, backend: Backend, task: Task, samples: list[Sample], verdicts: list[Verdict]
) -> Check:
    """One small meta step, without a gate: a meta-judge that is too weak is known before a run."""
    meta = MetaJudge(models.client, backend, task.purpose)
    work = propose_once(meta, task.rubric, samples, verdicts, time.time_ns(), META_SAMPLES)
    try:
        row = meta_row(task.rubric, event_loop.wait(work))
    except EndpointError as error:
        return Check("meta step", "bad", str(error))
    told = "; ".join(meta_lines(row))
    if row["failed"]:
        return Check("meta step", "bad", told, "take a stronger meta-judge, or a larger -o meta_max_tokens")
    return Check("meta step", "note" if row["reason"] else "ok", told)


def _tried(models: ModelPool, name: str, backend: Backend) -> Check:
    """One tiny verdict: whether it comes, how fast, in which form, and whether its price is known."""
    started = time.monotonic()
    try:
        output_mode = event_loop.wait(models.client.probe(backend))
    except EndpointError as error:
        return Check(name, "bad", str(error))
    except CallFailed as error:
        # What a server that does not answer needs, its message says.
        answered = error.kind not in ("transport", "timeout")
        fix = "take another model, or one that answers in JSON" if answered else ""
        return Check(name, "bad", error.detail, fix)
    seconds = time.monotonic() - started
    pricing = transport.pricing(backend)
    price = "price unknown" if pricing is None else "price known"
    told = f"at {backend.api_base or 'its provider'}: answers in {seconds:.1f} s by {output_mode}, {price}"
    if seconds > SLOW_S:
        return Check(name, "note", told, "slow: a larger --concurrency or a smaller model shortens steps")
    if output_mode == "text":
        fix = "no structured output: verdicts rest on the prompt alone, and more of them fail"
        return Check(name, "note", told, fix)
    fix = "" if pricing else "give its price (judge_price, meta_price) to cap USD; --max-calls works without"
    return Check(name, "ok", told, fix)


def _say(finding: Check) -> None:
    sign, colour = _SIGNS[finding.state]
    echo(sign, nl=False, fg=colour)
    echo(f" {finding.name}: {finding.detail}")
    if finding.fix:
        echo(f"    {finding.fix}")
