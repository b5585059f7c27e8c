"""``mpo-lite try``: whether a judge and a rubric can train anything, before anything is trained."""

from __future__ import annotations

import asyncio
import json
import statistics
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import click

from mpo_lite.cli.estimate import usd_span
from mpo_lite.cli.job import SIMULATED, sandboxed
from mpo_lite.cli.meta_trial import meta_lines, meta_row, one_line
from mpo_lite.cli.options import FLAGS, GroupedCommand, config_options, json_option, overrides_option
from mpo_lite.cli.policies import Policy, answers
from mpo_lite.cli.status import show_status
from mpo_lite.errors import ConfigError, EndpointError, JudgeDown
from mpo_lite.judge.base import Sample
from mpo_lite.llm import background
from mpo_lite.llm.models import SANDBOX
from mpo_lite.meta.gate import margins
from mpo_lite.meta.improve import Outcome
from mpo_lite.meta.offline import propose_once
from mpo_lite.meta.sentinels import SAID, plant
from mpo_lite.resolve import load_config
from mpo_lite.tasks.data import responses
from mpo_lite.training.estimate import estimate
from mpo_lite.training.session import Session
from mpo_lite.types import Verdict

PER_PROMPT = 4
"""Answers to one prompt: what a policy learns from is how their scores differ."""
LEAST_SPREAD = 0.02
"""Mean standard deviation of scores within a prompt, below which there is nothing to learn from."""
META_SAMPLES = 4
"""Judged answers that the meta-judge is shown, at most."""


@dataclass(frozen=True)
class Trial:
    """What was judged.

    Attributes:
        samples: N answers; those to one prompt stand together.
        first: Their verdicts.
        again: Their verdicts when asked once more.
        margins: Kind of sentinel → how far below honest answers it scores.
        spend: What the judgements took, as ``Endpoints.spend`` has it.
        meta: What one meta step on these answers came to; None where the run has none.
    """

    samples: list[Sample]
    first: list[Verdict]
    again: list[Verdict]
    margins: dict[str, float]
    spend: dict[str, Any]
    meta: Outcome | None


@click.command("try", cls=GroupedCommand, short_help="See whether a judge and a rubric can train anything.")
@click.argument("config_file", metavar="[CONFIG.yaml]", required=False, type=click.Path(path_type=Path))
@config_options(*FLAGS)
@click.option(
    "-n", "count", type=click.IntRange(min=4), default=8, show_default=True, help="Answers to judge."
)
@click.option(
    "--responses", "file", type=click.Path(path_type=Path), help="Judge those of a file (prompt, response)."
)
@overrides_option
@json_option
@click.pass_context
@show_status
def command(
    context: click.Context,
    config_file: Path | None,
    count: int,
    file: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """Judge some answers, of the policy or of a file, twice, and known-bad ones; nothing is trained.

    Shows scores with their reasons, how they differ within a prompt and between two judgements of one answer,
    what known-bad answers earn, what the meta-judge proposes after one meta step on these answers (no gate
    checks it), and what it costs. The exit code is 1 where this judge and rubric cannot train, or the meta
    step fails.

    \b
    mpo-lite try experiment.yaml -n 8
    mpo-lite try --judge gpt-4o-mini --baseline iter0 --responses answers.jsonl
    """
    config = load_config(config_file, flags, overrides)
    with sandboxed(config) as served:
        session = Session(served)
        try:
            session.models.log_calls(Path())
            session.models.check()
            found = _tried(session, _samples(session, count, file))
            summary = _summary(session, found) | {"simulated_judge": SANDBOX in config.model_names}
        finally:
            session.close()
    if as_json:
        click.echo(json.dumps(summary))
    else:
        _show(session, found, summary)
    if summary["problems"]:
        context.exit(1)


def _samples(session: Session, count: int, file: Path | None) -> list[Sample]:
    """The answers to judge; those to one prompt stand together."""
    if file is None:
        prompts = list(session.prompts.train[: max(2, count // PER_PROMPT)])
        policy = Policy("policy", session.config, None)
        each = count // len(prompts)
        asked = [prompt for prompt in prompts for _ in range(each)]
        found = [(prompt, one.text) for prompt, one in answers(policy, session.task, asked)]
    else:
        rows = islice(responses(file), count)
        found = sorted(((row["prompt"], text) for _, row, text in rows), key=lambda row: row[0])
    if len({prompt for prompt, _ in found}) < 2:
        raise ConfigError("try: answers to at least two prompts are needed; take a larger -n or more rows")
    return [session.sample(prompt, text) for prompt, text in found]


def _tried(session: Session, samples: list[Sample]) -> Trial:
    rubric, examiner = session.version.rubric, session.examiner

    async def judged() -> Trial:
        first, again = await asyncio.gather(
            examiner.verdicts(samples, rubric, 0), examiner.verdicts(samples, rubric, 0, "again")
        )
        places = [next(place for place, one in enumerate(samples) if one.prompt == prompt)
                  for prompt in dict.fromkeys(one.prompt for one in samples)]  # fmt: skip
        scores = [first[place].reward for place in places]
        planted = plant([samples[place] for place in places], scores, session.task.sentinels, "try")
        bad = await examiner.verdicts([one.sample for one in planted], rubric, 0)
        spend = session.models.spend()
        proposed = None
        if session.meta:
            count = min(META_SAMPLES, session.config.meta_samples)
            proposed = await propose_once(session.meta, rubric, samples, first, 0, count)
        paid = margins(planted, scores, [one.reward for one in bad])
        return Trial(samples, first, again, paid, spend, proposed)

    try:
        return background.wait(judged(), session.check_interrupt)
    except EndpointError as error:
        raise JudgeDown(str(error)) from None


def _summary(session: Session, found: Trial) -> dict[str, Any]:
    """Figures and problems, as ``--json`` prints them."""
    scores = [one.reward for one in found.first]
    known = [score for score in scores if score is not None]
    groups = groupby(zip(found.samples, scores, strict=True), key=lambda pair: pair[0].prompt)
    per_prompt = [[score for _, score in group if score is not None] for _, group in groups]
    spreads = [statistics.pstdev(group) for group in per_prompt if len(group) > 1]
    pairs = zip(found.first, found.again, strict=True)
    differences = [
        abs(a.reward - b.reward) for a, b in pairs if a.reward is not None and b.reward is not None
    ]
    judging, total = found.spend, session.models.spend()
    calls = judging["gate_calls"]
    summary = {
        "answers": len(found.samples),
        "judged": len(known),
        "reward": statistics.fmean(known) if known else None,
        "spread": statistics.fmean(spreads) if spreads else None,
        "repeat_difference": statistics.fmean(differences) if differences else None,
        "sentinel_margins": found.margins,
        "meta_step": meta_row(session.version.rubric, found.meta) if found.meta else None,
        "calls": calls,
        "meta_calls": total["meta_calls"],
        "usd": total["usd"],
        "usd_per_answer": None if judging["usd"] is None or not calls else judging["usd"] / calls,
        "usd_run": estimate(session)["total"]["usd"],
        "scores": [
            {"prompt": one.prompt, "response": one.completion, "reward": verdict.reward,
             "failure": verdict.detail,
             "criteria": {key: vars(each) for key, each in verdict.assessments.items()}}
            for one, verdict in zip(found.samples, found.first, strict=True)
        ],
    }  # fmt: skip
    return summary | {"problems": _problems(session, summary)}


def _problems(session: Session, summary: dict[str, Any]) -> list[str]:
    """Why judge, rubric and meta-judge cannot train; empty where they can."""
    failed = 1 - summary["judged"] / summary["answers"]
    if failed > session.config.max_judge_failures:
        said = f"{failed:.0%} of the judgements failed: see that the judge answers in JSON (mpo-lite doctor)"
        return [said]
    spread, noise, floor = summary["spread"], summary["repeat_difference"], session.config.gate.margin
    problems: list[str] = []
    if spread is not None and spread < LEAST_SPREAD:
        problems.append(
            f"scores hardly differ within a prompt ({spread:.3f}): there is nothing to learn from"
        )
    elif spread is not None and noise is not None and noise > spread:
        problems.append(
            f"two judgements of one answer differ ({noise:.3f}) more than answers do ({spread:.3f})"
        )
    paid = {kind: margin for kind, margin in summary["sentinel_margins"].items() if margin < floor}
    problems += [f"the rubric pays for {SAID[kind]} (margin {margin:+.2f})" for kind, margin in paid.items()]
    meta = summary["meta_step"]
    return problems + ([f"the meta step failed: {meta['reason']}"] if meta and meta["failed"] else [])


def _show(session: Session, found: Trial, summary: dict[str, Any]) -> None:
    click.echo(f"rubric: {session.version.author}; judge: {session.models.judged_by}\n")
    prompt = None
    for sample, verdict in zip(found.samples, found.first, strict=True):
        if sample.prompt != prompt:
            prompt = sample.prompt
            click.echo(f"prompt: {one_line(prompt)}")
        score = "not judged" if verdict.reward is None else f"{verdict.reward:.2f}"
        click.echo(f"  {score}  {one_line(sample.completion)}")
        if verdict.detail:
            click.echo(f"        {verdict.detail}")
        for key, one in verdict.assessments.items():
            click.echo(f"        {key} {one.level}: {one_line(one.reason)}")
    figures = {
        "reward": summary["reward"],
        "spread within a prompt": summary["spread"],
        "between two judgements": summary["repeat_difference"],
        **{f"margin over {kind}": margin for kind, margin in summary["sentinel_margins"].items()},
    }
    click.echo()
    for name, value in figures.items():
        click.echo(f"{name:24} {'–' if value is None else f'{value:.3f}'}")
    each = summary["usd_per_answer"]
    click.echo(f"{'cost of a judgement':24} {'unpriced' if each is None else f'${each:.5f}'}")
    click.echo(f"{'cost of the run':24} {usd_span(summary['usd_run'])}")
    meta = summary["meta_step"]
    if meta and not meta["failed"]:
        click.echo("\nWhat the meta-judge would change (no gate has checked it):")
        for line in meta_lines(meta):
            click.echo(f"  {line}")
    for problem in summary["problems"]:
        click.echo(f"✗ {problem}")
    if not summary["problems"]:
        click.echo("✓ this judge and rubric tell answers apart, and pay for no known-bad one")
    elif meta and not meta["failed"]:
        click.echo(
            "  A vague first rubric may fail here: the meta-judge is there to mend it, and the gate to check."
        )
    if summary["simulated_judge"]:
        click.echo(f"Note: {SIMULATED}")
