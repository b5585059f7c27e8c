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

from mpo_lite.cli._models import Policy, answers
from mpo_lite.cli._options import FLAGS, GroupedCommand, config_options, json_option, overrides_option
from mpo_lite.cli.estimate import usd_span
from mpo_lite.cli.meta_trial import meta_lines, meta_row, one_line
from mpo_lite.cli.status import show_status
from mpo_lite.cli.terminal import echo
from mpo_lite.config_sources import load_config
from mpo_lite.errors import ConfigError, EndpointError, JudgeDown
from mpo_lite.judge.base import Sample
from mpo_lite.judge.breaker import FailureTally
from mpo_lite.llm import event_loop
from mpo_lite.loop.context import RunContext, prepare_run
from mpo_lite.loop.estimate import estimate
from mpo_lite.meta.refine import propose_once
from mpo_lite.meta.sentinels import COMPLAINTS, plant_sentinels
from mpo_lite.meta.step import StepOutcome
from mpo_lite.sandbox.stand_in import sandboxed
from mpo_lite.sanitize import pluralize
from mpo_lite.tasks.data import Prompts, cluster_of, responses
from mpo_lite.tasks.spec import Task, task_of
from mpo_lite.types import Verdict
from mpo_lite.wording import simulated_note

PER_PROMPT = 4
"""Answers to one prompt: what a policy learns from is how their scores differ."""
LEAST_SPREAD = 0.02
"""Mean standard deviation of scores within a prompt, below which there is nothing to learn from."""
LEAST_PROMPTS = 8
"""Prompts below which what is found is a sign, and says nothing of training."""
META_SAMPLES = 4
"""Judged answers that the meta-judge is shown, at most."""
SHOWN = (
    "judge", "meta", "judge_api_base", "meta_api_base", "judge_mode", "replicates", "concurrency",
    "max_judge_failures", "cache_dir", "task", "goal", "data", "rubric", "baseline", "max_usd", "max_calls",
    "max_tokens", "policy", "steps", "group_size", "temperature", "seed", "meta_samples",
)  # fmt: skip
"""Settings that matter here; the others are taken too: a command of ``train`` can be tried as it is."""


@dataclass(frozen=True)
class Trial:
    """What was judged.

    Attributes:
        samples: N answers; those to one prompt stand together.
        first: Their verdicts.
        again: Their verdicts when asked once more.
        sentinels: Kind of sentinel → what honest answers earn to the same prompts, and what it earns.
        spend: What the judgements took, as ``ModelPool.spend`` has it.
        meta: What one meta step on these answers came to; None where the run has none.
    """

    samples: list[Sample]
    first: list[Verdict]
    again: list[Verdict]
    sentinels: dict[str, tuple[float, float]]
    spend: dict[str, Any]
    meta: StepOutcome | None


@click.command("try", cls=GroupedCommand, short_help="See whether a judge and a rubric can train anything.")
@click.argument("config_file", metavar="[CONFIG.yaml]", required=False, type=click.Path(path_type=Path))
@config_options(*FLAGS, hidden=set(FLAGS) - set(SHOWN))
@click.option(
    "-n", "--n", "count", type=click.IntRange(min=4), default=8, show_default=True, help="Answers to judge."
)
@click.option(
    "--responses",
    "file",
    type=click.Path(path_type=Path),
    help="Judge those of a file (prompt, response); it stands in place of the task's data.",
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
    checks it), and what it costs. The exit code is 1 where something was found that would keep a policy from
    learning: too little is judged, all answers earn the same or nothing, the judge contradicts itself, the
    meta step fails, or known-bad answers are paid for and there is no meta-judge to mend that.

    \b
    mpo-lite try experiment.yaml -n 8
    mpo-lite try --judge gpt-4o-mini --baseline iter0 --responses answers.jsonl
    """
    config = load_config(config_file, flags, overrides)
    with sandboxed(config) as served:
        given = _given(file, count, task_of(served)) if file else []
        run = prepare_run(served, prompts=_prompts(given) if file else None)
        try:
            run.models.log_calls(Path())
            run.models.check()
            found = _tried(run, given or _answered(run, count))
            summary = _summary(run, found) | {"simulated": config.simulated}
        finally:
            run.close()
    if as_json:
        echo(json.dumps(summary))
    else:
        _show(run, found, summary)
    if summary["problems"]:
        context.exit(1)


def _given(file: Path, count: int, task: Task) -> list[Sample]:
    """The first answers of a file; those to one prompt stand together."""
    rows = islice(responses(file), count)
    samples = [Sample(row["prompt"], text, cluster_of(row, task.data)) for _, row, text in rows]
    if len({one.prompt for one in samples}) < 2:
        raise ConfigError(
            f"{file}: answers to at least two prompts are needed; take more rows, or a larger -n"
        )
    return sorted(samples, key=lambda one: one.prompt)


def _prompts(samples: list[Sample]) -> Prompts:
    """The prompts of answers, in place of a task's data."""
    rows = {one.prompt: {"prompt": one.prompt, "cluster": one.cluster} for one in samples}
    return Prompts(tuple(rows), (), rows)


def _answered(run: RunContext, count: int) -> list[Sample]:
    """Fresh answers of the policy; those to one prompt stand together."""
    prompts = list(run.prompts.train[: max(2, count // PER_PROMPT)])
    asked = [prompt for prompt in prompts for _ in range(count // len(prompts))]
    told = answers(Policy("policy", run.config, None), run.task, asked)
    if len({prompt for prompt, _ in told}) < 2:
        raise ConfigError("try: fewer than two prompts fit the policy; name other prompts by --data")
    return [run.sample(prompt, one.text) for prompt, one in told]


def _tried(run: RunContext, samples: list[Sample]) -> Trial:
    rubric, gate_judge = run.first.rubric, run.make_gate_judge()

    async def judged() -> Trial:
        first, again = await asyncio.gather(
            gate_judge.verdicts(samples, rubric, 0), gate_judge.verdicts(samples, rubric, 0, "again")
        )
        places = [next(place for place, one in enumerate(samples) if one.prompt == prompt)
                  for prompt in dict.fromkeys(one.prompt for one in samples)]  # fmt: skip
        scores = [first[place].reward for place in places]
        planted = plant_sentinels([samples[place] for place in places], scores, run.task.sentinels, "try")
        bad = await gate_judge.verdicts([one.sample for one in planted], rubric, 0)
        spend = run.models.spend()
        proposed = None
        if run.meta:
            count = min(META_SAMPLES, run.config.meta_samples)
            proposed = await propose_once(run.meta, rubric, samples, first, 0, count)
        pairs: dict[str, list[tuple[float, float]]] = {}
        for one, verdict in zip(planted, bad, strict=True):
            if (honest := scores[one.place]) is not None and verdict.reward is not None:
                pairs.setdefault(one.kind, []).append((honest, verdict.reward))
        earned = {kind: _means(each) for kind, each in pairs.items()}
        return Trial(samples, first, again, earned, spend, proposed)

    try:
        return event_loop.wait(judged())
    except EndpointError as error:
        raise JudgeDown(str(error)) from None


def _means(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    honest, bad = zip(*pairs, strict=True)
    return statistics.fmean(honest), statistics.fmean(bad)


def _summary(run: RunContext, found: Trial) -> dict[str, Any]:
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
    judging, total = found.spend, run.models.spend()
    calls = judging["gate_calls"]
    summary = {
        "answers": len(found.samples),
        "prompts": len(per_prompt),
        "judged": len(known),
        "reward": statistics.fmean(known) if known else None,
        "spread": statistics.fmean(spreads) if spreads else None,
        "repeat_difference": statistics.fmean(differences) if differences else None,
        "sentinel_margins": {kind: honest - bad for kind, (honest, bad) in found.sentinels.items()},
        "meta_step": meta_row(run.first.rubric, found.meta) if found.meta else None,
        "calls": calls,
        "meta_calls": total["meta_calls"],
        "usd": total["usd"],
        "usd_per_answer": None if judging["usd"] is None or not calls else judging["usd"] / calls,
        "usd_run": estimate(run)["total"]["usd"],
        "scores": [
            {"prompt": one.prompt, "response": one.completion, "reward": verdict.reward,
             "failure": verdict.detail,
             "criteria": {key: vars(each) for key, each in verdict.assessments.items()}}
            for one, verdict in zip(found.samples, found.first, strict=True)
        ],
    }  # fmt: skip
    problems, paid = _problems(run, found, summary), _paid_for(run, found)
    if run.meta is None and summary["reward"]:
        problems, paid = problems + paid, []
    return summary | {"problems": problems, "weaknesses": paid}


def _problems(run: RunContext, found: Trial, summary: dict[str, Any]) -> list[str]:
    """What would keep a policy from learning by this judge, rubric and meta-judge."""
    if said := FailureTally.of(found.first, run.config.max_judge_failures).complaint("answer"):
        return [said]
    problems: list[str] = []
    judged = pluralize(summary["judged"], "answer")
    spread, noise = summary["spread"], summary["repeat_difference"]
    if not summary["reward"] and all(one.source == "rule" for one in found.first):
        problems.append(
            f"a rule of the task gives all {judged} 0 before the judge sees them: mpo-lite tasks "
            f"{run.config.task} lists its rules"
        )
    elif not summary["reward"]:
        problems.append(f"the rubric pays for nothing here: all {judged} earned 0")
    elif spread is not None and spread < LEAST_SPREAD:
        problems.append(
            f"scores hardly differ within a prompt ({spread:.3f}): there is nothing to learn from"
        )
    elif spread is not None and noise is not None and noise > spread:
        problems.append(
            f"two judgements of one answer differ ({noise:.3f}) more than answers do ({spread:.3f})"
        )
    meta = summary["meta_step"]
    return problems + ([f"the meta step failed: {meta['reason']}"] if meta and meta["failed"] else [])


def _paid_for(run: RunContext, found: Trial) -> list[str]:
    """Known-bad answers that the rubric pays for, as it does for honest ones or nearly so."""
    margin = run.config.gate.margin
    paid = {
        kind: each for kind, each in found.sentinels.items() if each[1] > 0 and each[0] - each[1] < margin
    }
    more, nearly = (
        [
            f"{COMPLAINTS[kind]} ({bad:.2f}, honest ones {honest:.2f})"
            for kind, (honest, bad) in paid.items()
            if (bad >= honest) is as_much
        ]
        for as_much in (True, False)
    )
    return [
        *([f"known-bad answers earn as much as honest ones, or more: {'; '.join(more)}"] if more else []),
        *([f"known-bad answers earn nearly as much as honest ones: {'; '.join(nearly)}"] if nearly else []),
    ]


def _show(run: RunContext, found: Trial, summary: dict[str, Any]) -> None:
    echo(f"rubric: {run.first.author}; judge: {run.models.judged_by}\n")
    prompt = None
    for sample, verdict in zip(found.samples, found.first, strict=True):
        if sample.prompt != prompt:
            prompt = sample.prompt
            echo(f"prompt: {one_line(prompt)}")
        score = "not judged" if verdict.reward is None else f"{verdict.reward:.2f}"
        echo(f"  {score}  {one_line(sample.completion)}")
        if verdict.failure:
            echo(f"        {' '.join(verdict.detail.split())}")
        for key, one in verdict.assessments.items():
            echo(f"        {key} {one.level}: {one_line(one.reason)}")
    figures = {
        "reward": summary["reward"],
        "spread within a prompt": summary["spread"],
        "between two judgements": summary["repeat_difference"],
        **{f"margin over {kind}": margin for kind, margin in summary["sentinel_margins"].items()},
    }
    echo()
    for name, value in figures.items():
        echo(f"{name:24} {'–' if value is None else f'{value:.3f}'}")
    each = summary["usd_per_answer"]
    echo(f"{'cost of a judgement':24} {'unpriced' if each is None else f'${each:.5f}'}")
    echo(f"{'cost of the run':24} {usd_span(summary['usd_run'])}")
    meta = summary["meta_step"]
    if meta and not meta["failed"]:
        echo("\nWhat the meta-judge would change (no gate has checked it):")
        for line in meta_lines(meta):
            echo(f"  {line}")
    for problem in summary["problems"]:
        echo(f"✗ {problem}")
    for weakness in summary["weaknesses"]:
        echo(f"– {weakness}")
    if not summary["problems"]:
        apart = "this judge and rubric tell answers apart"
        unseen = "nothing speaks against this judge and rubric, but no prompt has two answers to tell apart"
        mended = "; what the rubric pays for, the meta-judge is there to mend, and the gate to check"
        echo(f"✓ {unseen if summary['spread'] is None else apart}", nl=False)
        echo(mended if summary["weaknesses"] else "; they pay for no known-bad one")
    echo(_evidence(summary))
    if summary["simulated"]:
        echo(f"Note: {simulated_note(summary['simulated'])}")


def _evidence(summary: dict[str, Any]) -> str:
    """What the verdict rests on, and how far that carries."""
    rests = f"on {pluralize(summary['answers'], 'answer')} to {pluralize(summary['prompts'], 'prompt')}"
    if summary["prompts"] >= LEAST_PROMPTS:
        return f"This rests {rests}."
    return f"This rests {rests}: a sign, and no more; -n {LEAST_PROMPTS * PER_PROMPT} looks at more of them."
