"""``mpo-lite try``: check whether a judge and rubric give a usable reward signal, before any training."""

from __future__ import annotations

import asyncio
import json
import statistics
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import click

from mpo_lite.cli._models import Policy, generate_answers
from mpo_lite.cli._options import FLAGS, GroupedCommand, config_options, json_option, overrides_option
from mpo_lite.cli.estimate import format_usd_range
from mpo_lite.cli.meta_trial import build_meta_row, format_meta_row, shorten
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
from mpo_lite.meta.sentinels import COMPLAINTS, plant_answers
from mpo_lite.meta.step import StepOutcome
from mpo_lite.offline import response_sample
from mpo_lite.sandbox.stand_in import sandboxed
from mpo_lite.sanitize import pluralize
from mpo_lite.tasks.data import Prompts, read_responses
from mpo_lite.tasks.spec import Task, task_of
from mpo_lite.types import Verdict
from mpo_lite.wording import simulated_note

PER_PROMPT = 4
"""Answers to one prompt: a policy learns from how their scores differ."""
LEAST_SPREAD = 0.02
"""Mean standard deviation of scores within a prompt below which there is nothing to learn from."""
LEAST_PROMPTS = 8
"""Prompts below which the result is only a first indication."""
META_SAMPLES = 4
"""Judged answers that the meta-judge is shown, at most."""
SHOWN = (
    "judge", "meta", "judge_api_base", "meta_api_base", "judge_mode", "replicates", "concurrency",
    "max_judge_failures", "cache_dir", "task", "goal", "data", "rubric", "baseline", "max_usd", "max_calls",
    "max_tokens", "policy", "steps", "group_size", "temperature", "seed", "meta_samples",
)  # fmt: skip
"""Settings that matter here. The others are accepted too, so that any ``train`` command works."""


@dataclass(frozen=True)
class Trial:
    """What was judged.

    Attributes:
        samples: N answers, grouped by prompt.
        first: Their verdicts.
        again: A second verdict on each.
        sentinels: Kind of sentinel → mean reward of honest answers to the same prompts, and its own.
        spend: The cost of the judgements, as ``ModelPool.spend`` gives it.
        meta: Outcome of one meta step on these answers; None where the run has no meta-judge.
    """

    samples: list[Sample]
    first: list[Verdict]
    again: list[Verdict]
    sentinels: dict[str, tuple[float, float]]
    spend: dict[str, Any]
    meta: StepOutcome | None


@click.command(
    "try", cls=GroupedCommand, short_help="Check whether a judge and rubric give a usable reward signal."
)
@click.argument("config_file", metavar="[CONFIG.yaml]", required=False, type=click.Path(path_type=Path))
@config_options(hidden=set(FLAGS) - set(SHOWN))
@click.option(
    "-n",
    "--n",
    "count",
    type=click.IntRange(min=4),
    default=8,
    show_default=True,
    help="Number of answers to judge.",
)
@click.option(
    "--responses",
    "file",
    type=click.Path(path_type=Path),
    help="Judge the answers in this file (prompt, response) instead of the policy's; replaces the data.",
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
    """Judge some answers of the policy or of a file twice, and known-bad answers once; nothing is trained.

    Shows scores with reasons, how scores differ within a prompt and between two judgements of one answer, the
    scores of known-bad answers, what the meta-judge proposes in one meta step on these answers (not checked
    by the gate), and the cost. The exit code is 1 if a policy could not learn from this: too few answers are
    judged, all score the same or 0, the judge contradicts itself, the meta step fails, or known-bad answers
    are rewarded and there is no meta-judge to fix that.

    \b
    mpo-lite try experiment.yaml -n 8
    mpo-lite try --judge gpt-4o-mini --baseline iter0 --responses answers.jsonl
    """
    config = load_config(config_file, flags, overrides)
    with sandboxed(config) as served:
        samples = _read_answers(file, count, task_of(served)) if file else []
        run = prepare_run(served, prompts=_collect_prompts(samples) if file else None)
        try:
            run.models.log_calls(Path())
            run.models.check()
            trial = _run_trial(run, samples or _generate_samples(run, count))
            summary = _summarize(run, trial) | {"simulated": config.simulated}
        finally:
            run.close()
    if as_json:
        echo(json.dumps(summary))
    else:
        _print_trial(run, trial, summary)
    if summary["problems"]:
        context.exit(1)


def _read_answers(file: Path, count: int, task: Task) -> list[Sample]:
    """The first answers of a file, grouped by prompt."""
    rows = islice(read_responses(file), count)
    samples = [response_sample(row, text, task) for _, row, text in rows]
    if len({sample.prompt for sample in samples}) < 2:
        raise ConfigError(f"{file}: answers to at least two prompts are needed; add rows, or use a larger -n")
    return sorted(samples, key=lambda sample: sample.prompt)


def _collect_prompts(samples: list[Sample]) -> Prompts:
    """The prompts of answers, to use instead of a task's data."""
    rows = {sample.prompt: {"prompt": sample.prompt, "cluster": sample.cluster} for sample in samples}
    return Prompts(tuple(rows), (), rows)


def _generate_samples(run: RunContext, count: int) -> list[Sample]:
    """New answers of the policy, grouped by prompt."""
    prompts = list(run.prompts.train[: max(2, count // PER_PROMPT)])
    repeated = [prompt for prompt in prompts for _ in range(count // len(prompts))]
    answers = generate_answers(Policy("policy", run.config, None), run.task, repeated)
    if len({prompt for prompt, _ in answers}) < 2:
        raise ConfigError("try: fewer than two prompts fit the policy; give other prompts with --data")
    return [run.sample(prompt, *answer) for prompt, answer in answers]


def _run_trial(run: RunContext, samples: list[Sample]) -> Trial:
    rubric, gate_judge = run.first.rubric, run.make_gate_judge()

    async def judge_all() -> Trial:
        first, again = await asyncio.gather(
            gate_judge.verdicts(samples, rubric, 0), gate_judge.verdicts(samples, rubric, 0, "again")
        )
        # Sentinels are compared with one honest answer per prompt: the first.
        places: dict[str, int] = {}
        for place, sample in enumerate(samples):
            places.setdefault(sample.prompt, place)
        scores = [first[place].reward for place in places.values()]
        honest = [samples[place] for place in places.values()]
        planted = plant_answers(dict.fromkeys(map(str, run.task.sentinels), 2), honest, scores)
        bad = await gate_judge.verdicts([sentinel.sample for sentinel in planted], rubric, 0)
        spend = run.models.spend()
        proposed = None
        if run.meta:
            count = min(META_SAMPLES, run.config.meta_samples)
            proposed = await propose_once(run.meta, rubric, samples, first, 0, count)
        pairs: dict[str, list[tuple[float, float]]] = {}
        for sentinel, verdict in zip(planted, bad, strict=True):
            if (score := scores[sentinel.place]) is not None and verdict.reward is not None:
                pairs.setdefault(sentinel.kind, []).append((score, verdict.reward))
        rewards = {kind: _average(rewards) for kind, rewards in pairs.items()}
        return Trial(samples, first, again, rewards, spend, proposed)

    try:
        return event_loop.wait(judge_all())
    except EndpointError as error:
        raise JudgeDown(str(error)) from None


def _average(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    honest, bad = zip(*pairs, strict=True)
    return statistics.fmean(honest), statistics.fmean(bad)


def _summarize(run: RunContext, trial: Trial) -> dict[str, Any]:
    """Figures and problems, as ``--json`` prints them."""
    scores = [verdict.reward for verdict in trial.first]
    judged = [score for score in scores if score is not None]
    groups = groupby(zip(trial.samples, scores, strict=True), key=lambda pair: pair[0].prompt)
    per_prompt = [[score for _, score in group if score is not None] for _, group in groups]
    spreads = [statistics.pstdev(group) for group in per_prompt if len(group) > 1]
    pairs = zip(trial.first, trial.again, strict=True)
    differences = [
        abs(a.reward - b.reward) for a, b in pairs if a.reward is not None and b.reward is not None
    ]
    judging, total = trial.spend, run.models.spend()
    calls = judging["gate_calls"]
    summary = {
        "answers": len(trial.samples),
        "prompts": len(per_prompt),
        "judged": len(judged),
        "reward": statistics.fmean(judged) if judged else None,
        "spread": statistics.fmean(spreads) if spreads else None,
        "repeat_difference": statistics.fmean(differences) if differences else None,
        "sentinel_margins": {kind: honest - bad for kind, (honest, bad) in trial.sentinels.items()},
        "meta_step": build_meta_row(run.first.rubric, trial.meta) if trial.meta else None,
        "calls": calls,
        "meta_calls": total["meta_calls"],
        "usd": total["usd"],
        "usd_per_answer": None if judging["usd"] is None or not calls else judging["usd"] / calls,
        "usd_run": estimate(run)["total"]["usd"],
        "scores": [
            {"prompt": sample.prompt, "response": sample.completion, "reward": verdict.reward,
             "failure": verdict.detail,
             "criteria": {key: vars(assessment) for key, assessment in verdict.assessments.items()}}
            for sample, verdict in zip(trial.samples, trial.first, strict=True)
        ],
    }  # fmt: skip
    problems, weaknesses = _find_problems(run, trial, summary), _find_rewarded_sentinels(run, trial)
    if run.meta is None and summary["reward"]:
        problems, weaknesses = problems + weaknesses, []
    return summary | {"problems": problems, "weaknesses": weaknesses}


def _find_problems(run: RunContext, trial: Trial, summary: dict[str, Any]) -> list[str]:
    """What would keep a policy from learning with this judge, rubric and meta-judge."""
    if complaint := FailureTally.of(trial.first, run.config.max_judge_failures).describe_problem("answer"):
        return [complaint]
    problems: list[str] = []
    judged = pluralize(summary["judged"], "answer")
    spread, noise = summary["spread"], summary["repeat_difference"]
    if not summary["reward"] and all(verdict.source == "rule" for verdict in trial.first):
        problems.append(
            f"a rule of the task scores all {judged} 0 before the judge sees them; mpo-lite tasks "
            f"{run.config.task} lists the rules"
        )
    elif not summary["reward"]:
        problems.append(f"the rubric rewards none of these answers: all {judged} scored 0")
    elif spread is not None and spread < LEAST_SPREAD:
        problems.append(
            f"scores barely differ within a prompt ({spread:.3f}), so there is nothing to learn from"
        )
    elif spread is not None and noise is not None and noise > spread:
        problems.append(
            f"two judgements of one answer differ ({noise:.3f}) more than different answers do ({spread:.3f})"
        )
    meta = summary["meta_step"]
    return problems + ([f"the meta step failed: {meta['reason']}"] if meta and meta["failed"] else [])


def _find_rewarded_sentinels(run: RunContext, trial: Trial) -> list[str]:
    """Known-bad answers that the rubric rewards as much as honest ones, or nearly so."""
    margin = run.config.gate.margin
    rewarded = {
        kind: (honest, bad)
        for kind, (honest, bad) in trial.sentinels.items()
        if bad > 0 and honest - bad < margin
    }
    more, nearly = (
        [
            f"{COMPLAINTS[kind]} ({bad:.2f}, honest ones {honest:.2f})"
            for kind, (honest, bad) in rewarded.items()
            if (bad >= honest) is as_much
        ]
        for as_much in (True, False)
    )
    return [
        *([f"known-bad answers score as high as honest ones, or higher: {'; '.join(more)}"] if more else []),
        *([f"known-bad answers score nearly as high as honest ones: {'; '.join(nearly)}"] if nearly else []),
    ]


def _print_trial(run: RunContext, trial: Trial, summary: dict[str, Any]) -> None:
    echo(f"rubric: {run.first.author}; judge: {run.models.judged_by}\n")
    prompt = None
    for sample, verdict in zip(trial.samples, trial.first, strict=True):
        if sample.prompt != prompt:
            prompt = sample.prompt
            echo(f"prompt: {shorten(prompt)}")
        score = "not judged" if verdict.reward is None else f"{verdict.reward:.2f}"
        echo(f"  {score}  {shorten(sample.completion)}")
        if verdict.failure:
            echo(f"        {' '.join(verdict.detail.split())}")
        for key, assessment in verdict.assessments.items():
            echo(f"        {key} {assessment.level}: {shorten(assessment.reason)}")
    figures = {
        "reward": summary["reward"],
        "spread within a prompt": summary["spread"],
        "repeat difference": summary["repeat_difference"],
        **{f"margin over {kind}": margin for kind, margin in summary["sentinel_margins"].items()},
    }
    echo()
    for name, value in figures.items():
        echo(f"{name:24} {'–' if value is None else f'{value:.3f}'}")
    usd = summary["usd_per_answer"]
    echo(f"{'cost per judgement':24} {'unpriced' if usd is None else f'${usd:.5f}'}")
    echo(f"{'cost of the run':24} {format_usd_range(summary['usd_run'])}")
    meta = summary["meta_step"]
    if meta and not meta["failed"]:
        echo("\nProposed by the meta-judge (not checked by the gate):")
        for line in format_meta_row(meta):
            echo(f"  {line}")
    for problem in summary["problems"]:
        echo(f"✗ {problem}")
    for weakness in summary["weaknesses"]:
        echo(f"– {weakness}")
    if not summary["problems"]:
        useful = "this judge and rubric distinguish answers"
        untested = "no problem found, but no prompt has two answers whose scores could differ"
        fixable = "; the meta-judge can fix what the rubric wrongly rewards, and the gate checks the fix"
        echo(f"✓ {untested if summary['spread'] is None else useful}", nl=False)
        echo(fixable if summary["weaknesses"] else ", and reward no known-bad answer")
    echo(_describe_evidence(summary))
    if summary["simulated"]:
        echo(f"Note: {simulated_note(summary['simulated'])}")


def _describe_evidence(summary: dict[str, Any]) -> str:
    """How many answers the result is based on, and whether that is enough."""
    based = f"{pluralize(summary['answers'], 'answer')} to {pluralize(summary['prompts'], 'prompt')}"
    if summary["prompts"] >= LEAST_PROMPTS:
        return f"Based on {based}."
    return f"Based on only {based}; use -n {LEAST_PROMPTS * PER_PROMPT} for a more reliable result."
