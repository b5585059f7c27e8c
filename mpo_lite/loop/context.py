"""What a run works with and never changes: configuration, task, prompts, models, first rubric.

Everything that can be wrong with a user's input is noticed here, before torch is loaded or a call is paid.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mpo_lite.config import Config
from mpo_lite.errors import ConfigError, UsageError
from mpo_lite.jsonl import JsonRow
from mpo_lite.judge.base import Sample
from mpo_lite.judge.pool import ModelPool
from mpo_lite.loop.distributed import run_on_main, world_size
from mpo_lite.meta.gate_judge import BudgetedJudge
from mpo_lite.meta.meta_judge import MetaJudge
from mpo_lite.rubric import Rubric
from mpo_lite.rubric_versions import RubricVersion
from mpo_lite.run_dir import rubric_at
from mpo_lite.tasks.data import Prompts, load_prompts
from mpo_lite.tasks.spec import Metric, Task, task_of
from mpo_lite.types import Rollout, text_hash

Observer = Callable[[str, JsonRow], None]
"""Called with each event as it happens, ``note``, ``gold``, ``step``, ``alarm`` or ``meta``, and its row."""


@dataclass(frozen=True)
class RunContext:
    """What a run works with, checked and ready; ``prepare_run`` makes it.

    Attributes:
        config: Resolved configuration; ``judge_mode`` is set.
        task: The task.
        prompts: Prompts to train on and held-out ones.
        models: Judges and meta-judge, with client, ledger and cache.
        meta: The meta-judge; None where the rubric does not evolve.
        first: The rubric that the run begins with, as version 0.
        gold: The task's gold metric, or None.
        verify: The task's verifier, or None.
        observe: Called with what happens.
    """

    config: Config
    task: Task
    prompts: Prompts
    models: ModelPool
    meta: MetaJudge | None
    first: RubricVersion
    gold: Metric | None
    verify: Metric | None
    observe: Observer

    @property
    def max_new_tokens(self) -> int:
        """Longest completion of the policy in tokens."""
        return self.config.max_new_tokens or self.task.generation.max_new_tokens

    @cached_property
    def prompts_hash(self) -> str:
        """Identity of the data: a checkpoint's place in the order of the prompts, and its rewards, hold only
        for these prompts, references and clusters.
        """
        rows = map(self.prompts.row, self.prompts.train)
        content = [(row["prompt"], row.get("reference"), row.get("cluster")) for row in rows]
        return text_hash(json.dumps(content, default=str))

    def sample(self, prompt: str, completion: str, truncated: bool = False) -> Sample:
        """A prompt of this run and an answer to it, as judges take them."""
        reference = self.task.shown_reference(self.prompts.row(prompt))
        return Sample(prompt, completion, self.prompts.cluster(prompt), reference, truncated)

    def sample_of(self, rollout: Rollout) -> Sample:
        """A rollout of this run as judges take it."""
        return self.sample(rollout.prompt, rollout.completion, rollout.truncated)

    def make_gate_judge(self, journal: Path | None = None) -> BudgetedJudge:
        """The judge of what is not trained on; it keeps its verdicts in ``journal`` if one is given."""
        models = self.models
        return BudgetedJudge(
            lambda draw: models.judge("gate", draw), lambda: models.judged_by, self.task.rules, journal
        )

    def note(self, text: str) -> None:
        """Reports something a person should know."""
        self.observe("note", {"text": text})

    def warn_near_caps(self) -> None:
        """Reports caps that are nearly spent."""
        for line in self.models.client.budget.warnings():
            self.note(line)

    def fall_back(self, reason: str) -> bool:
        """Switches to the fallback judge for the rest of the run. Returns whether there was one to switch
        to.
        """
        fallback = self.models.fallback
        if fallback is None or self.models.fell_back:
            return False
        self.models.fell_back = True
        self.note(f"switched to fallback judge {fallback.label}: {reason}")
        return True

    def try_metrics(self) -> None:
        """Calls gold metric and verifier once, so that a broken one is reported before anything is paid.

        Raises:
            TaskError: One fails, or returns something other than a number from 0 to 1.
        """
        self.task.prepare_metrics()
        prompt = (self.prompts.held_out or self.prompts.train)[0]
        for metric in (self.gold, self.verify):
            if metric:
                metric("An answer.", self.prompts.row(prompt))

    def check_models(self) -> None:
        """Sends every model one call; where a judge fails it, the fallback judge takes over at once.

        Raises:
            EndpointError: One cannot be used, and no fallback judge takes its place.
        """
        if reason := run_on_main(self.models.check):
            self.models.fell_back = True  # in every process: the check ran in the main one
            self.note(f"{reason}; {self.models.judged_by} judges instead")

    def close(self, wait: bool = True) -> None:
        """Stores the answers still in flight, then closes connections and cache.

        Args:
            wait: For those answers. Not during garbage collection, which may run while any lock is held.
        """
        self.models.close(wait)


def prepare_run(
    config: Config, observe: Observer = lambda kind, row: None, prompts: Prompts | None = None
) -> RunContext:
    """Loads and checks what a run needs; nothing is sent and nothing written.

    Args:
        config: Resolved configuration.
        observe: Called with what happens.
        prompts: Used instead of the task's data; None reads those.

    Raises:
        UsageError: Configuration, task, data or rubric cannot work.
    """
    task = task_of(config)
    config = config.model_copy(update={"judge_mode": config.judge_mode or task.judge_mode})
    brief = task.brief(config.max_new_tokens or task.generation.max_new_tokens)
    models = ModelPool(config, brief, config.asks_meta, world_size())
    try:
        rubric, origin = _load_first_rubric(config, task)
        return RunContext(
            config=config,
            task=task,
            gold=task.gold_metric(),
            verify=task.verify_metric(),
            prompts=prompts or load_prompts(task.data),
            models=models,
            meta=MetaJudge(models.client, models.meta, brief) if models.meta else None,
            first=RubricVersion(0, None, 0, origin, rubric),
            observe=observe,
        )
    except UsageError:
        models.close()
        raise


def _load_first_rubric(config: Config, task: Task) -> tuple[Rubric, str]:
    """The rubric a run begins with, and where it comes from.

    Raises:
        UsageError: There is none, or it is malformed.
    """
    if config.rubric:
        return rubric_at(config.rubric)
    if config.baseline == "oracle":
        raise ConfigError("--baseline oracle: name the run whose last rubric it is to be: --rubric RUN")
    if config.baseline == "expert":
        return task.expert_rubric, f"expert of task {task.name}"
    return task.rubric, f"task {task.name}"
