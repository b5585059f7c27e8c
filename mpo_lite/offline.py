"""Judging and refining existing answers from Python: no training, no run directory, no torch."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, Unpack

from mpo_lite.config import Config
from mpo_lite.config_sources import load_config
from mpo_lite.errors import LOST, ConfigError, EndpointError, JudgeDown, TaskError
from mpo_lite.judge.base import Sample
from mpo_lite.judge.breaker import JudgingResult
from mpo_lite.judge.pool import ModelPool
from mpo_lite.llm import event_loop
from mpo_lite.meta.gate_judge import BudgetedJudge
from mpo_lite.meta.meta_judge import MetaJudge
from mpo_lite.meta.refine import Labels, Round
from mpo_lite.meta.refine import refine_rubric as refine_in_rounds
from mpo_lite.options import Options
from mpo_lite.rubric import Rubric
from mpo_lite.run_dir import rubric_at
from mpo_lite.sandbox.stand_in import sandboxed
from mpo_lite.sanitize import pluralize, strip_thinking
from mpo_lite.tasks.data import Row, response_cluster, response_reference
from mpo_lite.tasks.rules import rule_verdict
from mpo_lite.tasks.spec import Task, task_of
from mpo_lite.types import Verdict

T = TypeVar("T")
S = TypeVar("S")
V = TypeVar("V", bound=JudgingResult)


@dataclass(frozen=True)
class Refinement:
    """A refined rubric.

    Attributes:
        rubric: The rubric after the last round.
        rounds: What each round proposed, and whether it was accepted or why not.
        spend: Calls, tokens and USD.
    """

    rubric: Rubric
    rounds: tuple[Round, ...]
    spend: dict[str, Any]


def judge_answers(
    prompts: Sequence[str],
    answers: Sequence[str],
    by: Rubric | None = None,
    /,
    references: Sequence[Any] = (),
    **options: Unpack[Options],
) -> list[Verdict]:
    """Judges answers to prompts.

    Args:
        prompts: N task prompts.
        answers: N answers, one to each.
        by: Rubric to judge by; None: ``options["rubric"]`` (a file or a run), or the task's own.
        references: N correct answers for a task whose judge sees the reference; or empty.
        options: Settings; ``judge`` names the judge, ``task`` or ``goal`` what the answers are for.

    Returns:
        N verdicts in order: the reward with the level and reason of each criterion, or why there is none.

    Raises:
        UsageError: A setting, the task, the rubric or an endpoint cannot work.
        StopRun: A cap is reached, or the judge rejects calls permanently.
    """
    pairs = _pair_up("judge_answers", prompts, answers, references)
    with _open_models("judge_answers", options, with_meta=False) as (config, task, models):
        models.check()
        samples = [response_sample(row, answer, task) for row, answer in pairs]
        return judge_by_rubric(models, task, by or first_rubric(config, task), samples)


def refine_rubric(
    prompts: Sequence[str],
    answers: Sequence[str],
    start: Rubric | None = None,
    /,
    labels: Labels = (),
    references: Sequence[Any] = (),
    **options: Unpack[Options],
) -> Refinement:
    """Refines a rubric on answers: judge them, revise the rubric, check the revision, repeat.

    Args:
        prompts: N task prompts; at least two different ones.
        answers: N answers of any quality, one to each.
        start: Rubric to begin with; None: ``options["rubric"]`` (a file or a run), or the task's own.
        labels: N human labels on any scale, more is better, None where there is none; or empty. Half of the
            labelled answers are kept from the meta-judge, and a new rubric must agree with their labels at
            least as well as the old one.
        references: N correct answers for a task whose judge sees the reference; or empty.
        options: Settings; ``judge`` and ``meta`` name the models, ``rounds`` the number of rounds.

    Returns:
        The refined rubric; equal to the first one where no proposal was accepted.

    Raises:
        UsageError: A setting, the task, the rubric or an endpoint cannot work.
        StopRun: A cap is reached, a model rejects calls permanently, too many answers could not be judged, or
            no round had a usable proposal.
    """
    pairs = _pair_up("refine_rubric", prompts, answers, references)
    if labels and len(labels) != len(pairs):
        raise ConfigError(f"refine_rubric: {len(labels)} labels for {pluralize(len(pairs), 'answer')}")
    with _open_models("refine_rubric", options, with_meta=True) as (config, task, models):
        models.check()
        samples = [response_sample(row, answer, task) for row, answer in pairs]
        rounds = refine_samples(models, config, task, start or first_rubric(config, task), samples, labels)
        require_proposal(rounds)
        return Refinement(rounds[-1].rubric, tuple(rounds), models.spend())


def judge_by_rubric(
    models: ModelPool, task: Task, rubric: Rubric, samples: Sequence[Sample]
) -> list[Verdict]:
    """Judges samples: the task's rules first, then the judge.

    Raises:
        StopRun: A cap is reached, or the judge rejects calls permanently.
    """
    by_rule = [rule_verdict(sample.completion, rubric.set_hash, task.rules) for sample in samples]
    undecided = [sample for sample, verdict in zip(samples, by_rule, strict=True) if verdict is None]
    judged = iter(wait_for_models(lambda: models.judge().verdicts(undecided, rubric)))
    return [verdict or next(judged) for verdict in by_rule]


def judge_twice(judge: Callable[[Sequence[S]], list[V]], samples: Sequence[S]) -> list[V]:
    """Judges samples, and retries those that were lost to server errors.

    Args:
        judge: Judges samples, in order.
        samples: N samples.

    Returns:
        N verdicts, in order.
    """
    verdicts = judge(samples)
    lost = [place for place, verdict in enumerate(verdicts) if verdict.failure in LOST]
    retried = judge([samples[place] for place in lost]) if lost else []
    for place, verdict in zip(lost, retried, strict=True):
        verdicts[place] = verdict
    return verdicts


def refine_samples(
    models: ModelPool,
    config: Config,
    task: Task,
    rubric: Rubric,
    samples: Sequence[Sample],
    labels: Labels = (),
    on_round: Callable[[Round], None] = lambda round_: None,
) -> list[Round]:
    """Refines a rubric in rounds; see ``meta.refine``.

    Raises:
        TaskError: The answers are to fewer than two prompts.
        StopRun: See ``refine_rubric``.
    """
    if len({sample.prompt for sample in samples}) < 2:
        raise TaskError("refining needs answers to at least two different prompts")
    assert models.meta is not None
    meta = MetaJudge(models.client, models.meta, models.brief)
    judge = BudgetedJudge(lambda draw: models.judge("judge", draw), lambda: models.judged_by, task.rules)
    return wait_for_models(
        lambda: refine_in_rounds(meta, judge, task, config, rubric, samples, labels, on_round)
    )


def require_proposal(rounds: Sequence[Round]) -> None:
    """Raises ``JudgeDown`` where no round had a proposal that could be used."""
    if all(attempt.rubric is None for round_ in rounds for attempt in round_.outcome.attempts):
        reason = rounds[-1].outcome.reason
        raise JudgeDown(f"no usable proposal in {pluralize(len(rounds), 'round')}: {reason}")


def response_sample(row: Row, response: str, task: Task) -> Sample:
    """A row of responses as judges take it, whoever wrote the response."""
    # Rows that were written for something else may hold another thing under the reference's name.
    reference = response_reference(row, task.data) if task.judge_sees else None
    return Sample(
        row["prompt"],
        response,
        response_cluster(row, task.data),
        task.shown_reference({"reference": reference}),
        row.get("truncated") is True,  # as mpo-lite eval writes it
    )


def first_rubric(config: Config, task: Task) -> Rubric:
    """The rubric that a configuration names, or the task's own."""
    return rubric_at(config.rubric)[0] if config.rubric else task.rubric


@contextmanager
def _open_models(
    function: str, options: Options, with_meta: bool
) -> Generator[tuple[Config, Task, ModelPool]]:
    """Configuration, task and models for one call of the library; closed afterwards."""
    given: dict[str, Any] = {**options}
    config = load_config(given=given, named=f"{function}({{}}=…)")
    if with_meta and config.meta is None:
        raise ConfigError(
            f"{function}: no meta-judge; pass meta= (it may be the judge's model), or set MPO_META"
        )
    with sandboxed(config) as served:
        task = task_of(served)
        served = served.model_copy(update={"judge_mode": served.judge_mode or task.judge_mode})
        models = ModelPool(served, task.brief(), with_meta, waits_out=True)
        try:
            yield served, task, models
        finally:
            models.close()


def _pair_up(
    function: str, prompts: Sequence[str], answers: Sequence[str], references: Sequence[Any]
) -> list[tuple[Row, str]]:
    """Data rows with the answers to them. Raises ``ConfigError`` if their numbers differ."""
    if len(prompts) != len(answers):
        raise ConfigError(
            f"{function}: {pluralize(len(prompts), 'prompt')} and {pluralize(len(answers), 'answer')}; "
            "pass two lists of the same length"
        )
    if references and len(references) != len(prompts):
        raise ConfigError(
            f"{function}: {pluralize(len(references), 'reference')} for {pluralize(len(prompts), 'prompt')}"
        )
    right = references or [None] * len(prompts)
    rows = [{"prompt": prompt, "reference": one} for prompt, one in zip(prompts, right, strict=True)]
    return [(row, strip_thinking(answer)) for row, answer in zip(rows, answers, strict=True)]


def wait_for_models(start: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs work on the event loop's thread; an endpoint that cannot be used becomes a reason to stop."""
    try:
        return event_loop.wait(start())
    except EndpointError as error:
        raise JudgeDown(str(error)) from None
