"""``mpo-lite doctor``: check installation, keys and models, and suggest fixes."""

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
from mpo_lite.cli.meta_trial import build_meta_row, format_meta_row, shorten
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
"""Seconds for one tiny verdict from which on a judge is called slow."""
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
"""A decent and a poor answer, for real verdicts of every judge."""
State = Literal["ok", "note", "bad"]
_SIGNS = {"ok": ("✓", "green"), "note": ("–", "yellow"), "bad": ("✗", "red")}


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: What was checked.
        state: ``ok``; ``note``, which may be intended; ``bad``, which has to be fixed.
        detail: What was found.
        fix: How to fix it; empty where nothing needs fixing.
    """

    name: str
    state: State
    detail: str
    fix: str = ""


@click.command("doctor", short_help="Check installation, keys and models, and suggest fixes.")
@click.argument("config_file", metavar="[CONFIG.yaml]", required=False, type=click.Path(path_type=Path))
@config_options("judge", "judge_api_base", "judge_fallback", "meta", "meta_api_base", "audit_judge", "policy")
@overrides_option
@json_option
@click.pass_context
@show_status
def command(
    context: click.Context, config_file: Path | None, overrides: tuple[str, ...], as_json: bool, **flags: Any
) -> None:
    """Check Python, packages, GPU, keys, the Hub and each model, and suggest fixes.

    Each judge scores two answers by the task's first rubric, and the meta-judge does one small meta step on
    them. Keys are never shown. The exit code is 1 if something has to be fixed.

    \b
    mpo-lite doctor
    mpo-lite doctor experiment.yaml
    mpo-lite doctor --judge gpt-4o --meta claude --json
    """
    config = load_config(config_file, flags, overrides)
    checks: list[Check] = []
    for check in _run_checks(config):
        checks.append(check)
        if not as_json:
            _print_check(check)
    if as_json:
        echo(json.dumps({"findings": [asdict(check) for check in checks]}))
    if any(check.state == "bad" for check in checks):
        context.exit(1)


def _run_checks(config: Config) -> Iterator[Check]:
    yield from _check_packages()
    with activity("loading torch"):
        gpu = _check_gpu()
    yield gpu
    if os.environ.get("HF_TOKEN"):
        yield Check("HF_TOKEN", "ok", "is set")
    yield _check_hub()
    with sandboxed(config) as served:
        yield from _check_models(served)


def _check_packages() -> Iterator[Check]:
    import platform

    yield Check("Python", "ok", platform.python_version())
    for name in PACKAGES:
        try:
            yield Check(name, "ok", version(name))
        except PackageNotFoundError:
            yield Check(name, "bad", "is not installed", "pip install mpo-lite")


def _check_gpu() -> Check:
    from mpo_lite.loop.environment import accelerators  # loads torch

    devices = accelerators()
    if not devices:
        return Check(
            "GPU", "note", "torch sees none: training runs on the CPU", "that is fine for the sandbox"
        )
    listed = ", ".join(f"{name} ({free:.0f} of {total:.0f} GiB free)" for name, free, total in devices)
    return Check("GPU", "ok", listed)


def _check_key(role: str, backend: Backend) -> Check | None:
    """Whether a model's key is set; None where it needs none, or where that is unknown."""
    if backend.key_variable:
        return Check(backend.key_variable, "ok", f"is set, for the {role}")
    key = transport.provider_key(backend.model)
    if backend.api_base or key.is_set is None:
        return None
    names = " or ".join(key.variables) if key.is_plain else " and ".join(key.variables)
    if key.is_set:
        return Check(names, "ok", f"is set, for the {role}")
    detail = f"not set; needed by the {role} {backend.model}"
    return Check(names, "note", detail, f"export {key.variables[0]}=…" if key.is_plain else "")


def _check_hub() -> Check:
    if os.environ.get("HF_HUB_OFFLINE"):
        return Check(
            "hub", "note", "HF_HUB_OFFLINE is set: only local copies are used", "unset it to allow downloads"
        )
    address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=5).close()
        return Check("hub", "ok", f"{address.hostname} is reachable")
    except OSError as error:
        fix = "check the network, or use local files: --policy DIR and --data FILE"
        return Check("hub", "note", f"{address.hostname} is not reachable ({error})", fix)


def _check_models(config: Config) -> Iterator[Check]:
    if not config.judge:
        yield Check("judge", "note", "no judge is set", "set --judge MODEL or MPO_JUDGE to have it checked")
        return
    try:
        task = task_of(config)
        models = ModelPool(config, task.brief(), with_meta=config.meta is not None)
    except UsageError as error:
        yield Check("models", "bad", str(error), "see above")
        return
    try:
        yield from _try_models(config, task, models)
    finally:
        models.close()


def _try_models(config: Config, task: Task, models: ModelPool) -> Iterator[Check]:
    """Whether each model answers, the verdicts of the judges, and a trial meta step."""
    models.log_calls(Path())
    samples = [Sample(PROMPT, answer) for answer in ANSWERS]
    judged: list[Verdict] = []
    for role, backend in models.all:
        if key := _check_key(role, backend):
            yield key
        with activity(f"checking {role} {backend.model}"):
            answers = _try_call(models, f"{role} {backend.model}", backend)
        yield answers
        if answers.state == "bad":
            continue
        if backend is not models.meta:
            # A new draw each time, since the cache would repeat what the model answered the first time.
            judge = build_judge(config, models.client, [backend], models.brief, "check", str(time.time_ns()))
            verdicts, check = _try_verdicts(judge, backend, task.rubric, samples)
            judged = judged or verdicts
            yield check
        elif judged:
            yield _try_meta_step(models, backend, task, samples, judged)
        else:
            yield Check("meta step", "note", "skipped: no judge gave a verdict to learn from")


def _try_verdicts(
    judge: Judge, backend: Backend, rubric: Rubric, samples: list[Sample]
) -> tuple[list[Verdict], Check]:
    """Verdicts on a good and a poor answer (none if either failed), and the result of the check."""
    name = f"verdicts of {backend.model}"
    try:
        verdicts = event_loop.wait(judge.verdicts(samples, rubric))
    except EndpointError as error:
        return [], Check(name, "bad", str(error))
    good, poor = verdicts
    for verdict in verdicts:
        if verdict.reward is None:
            fix = "use another model, one that answers in JSON, or a rubric with fewer criteria"
            return [], Check(name, "bad", f"no verdict: {verdict.detail}", fix)
    pairs = [(key, better, poor.assessments[key]) for key, better in good.assessments.items()]
    detail = "; ".join(
        f"{key} {better.level} for a good answer ({shorten(better.reason)}), {worse.level} for a poor one "
        f"({shorten(worse.reason)})"
        for key, better, worse in pairs
    )
    if (good.reward or 0.0) > (poor.reward or 0.0):
        return verdicts, Check(name, "ok", detail)
    fix = "the first rubric may be too vague, or the judge too weak; run mpo-lite try"
    return verdicts, Check(name, "note", f"the poor answer scores as high as the good one: {detail}", fix)


def _try_meta_step(
    models: ModelPool, backend: Backend, task: Task, samples: list[Sample], verdicts: list[Verdict]
) -> Check:
    """One small meta step without a gate, to find out before a run whether the meta-judge is too weak."""
    meta = MetaJudge(models.client, backend, models.brief)
    work = propose_once(meta, task.rubric, samples, verdicts, time.time_ns(), META_SAMPLES)
    try:
        row = build_meta_row(task.rubric, event_loop.wait(work))
    except EndpointError as error:
        return Check("meta step", "bad", str(error))
    detail = "; ".join(format_meta_row(row))
    if row["failed"]:
        return Check("meta step", "bad", detail, "use a stronger meta-judge, or a larger -o meta_max_tokens")
    return Check("meta step", "note" if row["reason"] else "ok", detail)


def _try_call(models: ModelPool, name: str, backend: Backend) -> Check:
    """One test call: whether it succeeds, how fast, in which output mode, and whether its price is known."""
    started = time.monotonic()
    try:
        output_mode = event_loop.wait(models.client.probe(backend))
    except EndpointError as error:
        return Check(name, "bad", str(error))
    except CallFailed as error:
        # The message about a server that does not answer already says how to fix that.
        answered = error.kind not in ("transport", "timeout")
        fix = "use another model, one that answers in JSON" if answered else ""
        return Check(name, "bad", error.detail, fix)
    seconds = time.monotonic() - started
    pricing = transport.pricing(backend)
    price = "price unknown" if pricing is None else "price known"
    detail = f"at {backend.api_base or 'its provider'}: answers in {seconds:.1f} s by {output_mode}, {price}"
    if seconds > SLOW_S:
        return Check(name, "note", detail, "slow: use a larger --concurrency or a smaller model")
    if output_mode == "text":
        fix = "no structured output: verdicts depend on the prompt alone, so more of them fail"
        return Check(name, "note", detail, fix)
    fix = (
        ""
        if pricing
        else "set its price (judge_price, meta_price) to cap USD; --max-calls works without a price"
    )
    return Check(name, "ok", detail, fix)


def _print_check(check: Check) -> None:
    sign, colour = _SIGNS[check.state]
    echo(sign, nl=False, fg=colour)
    echo(f" {check.name}: {check.detail}")
    if check.fix:
        echo(f"    {check.fix}")
