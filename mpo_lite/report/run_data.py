"""Everything a report needs of a run, loaded once from its directory; no model is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from statistics import fmean

import yaml

from mpo_lite.config import Config
from mpo_lite.config_sources import load_config, save_config
from mpo_lite.errors import TaskError
from mpo_lite.jsonl import JsonRow
from mpo_lite.llm.ledger import read_calls
from mpo_lite.records import AlarmRow, Answer, Gold, Metrics, Step
from mpo_lite.report.figures import (
    LAST,
    ActiveAlarm,
    compute_figures,
    describe_state,
    find_active_alarms,
    strip_folders,
)
from mpo_lite.report.row_reader import read_records
from mpo_lite.run_dir import RubricVersion, RunDir
from mpo_lite.stats.interval import mean_interval
from mpo_lite.tasks.spec import task_of
from mpo_lite.types import Rollout


@dataclass(frozen=True)
class GoldChange:
    """How much gold changed from before training to the last evaluations, prompt by prompt.

    Attributes:
        mean: Mean change.
        low: Lower end of its 95% interval, bootstrapped over prompts. It says how sure the change is for
            *these* weights, not how a run with another seed would end.
        high: Upper end of it.
        n: Prompts.
    """

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class RunData:
    """A run, finished or not.

    Attributes:
        name: The run directory's name.
        config: The configuration; its rubric is the run's own copy of the first one.
        saved_config: The configuration as the run was started with it.
        purpose: What the policy is trained for.
        state: As ``describe_state`` gives it.
        stop_reason: Why the run stopped before its last batch; empty where it did not.
        is_resumed: Whether the run was stopped and resumed.
        environment: Versions and processor, as in ``env.json``.
        figures: As ``compute_figures`` gives them.
        metrics: A row per generation batch.
        gold: A row per evaluation on held-out prompts.
        lineage: A row per step of the rubric's history.
        alarms: A row per alarm that was raised.
        anchor: The initial policy's answers to the fixed prompts.
        probes: Later answers to the same prompts.
        rollouts: All answers of the training, with their verdicts.
        calls: The rows of all ledgers.
        versions: The rubric's versions; the number of a version is its index.
    """

    name: str
    config: Config
    saved_config: Config
    purpose: str
    state: str
    stop_reason: str
    is_resumed: bool
    environment: JsonRow
    figures: JsonRow
    metrics: Sequence[Metrics]
    gold: Sequence[Gold]
    lineage: Sequence[Step]
    alarms: Sequence[AlarmRow]
    anchor: Sequence[Answer]
    probes: Sequence[Answer]
    rollouts: Sequence[Rollout]
    calls: Sequence[JsonRow]
    versions: Sequence[RubricVersion]

    @cached_property
    def gold_change(self) -> GoldChange | None:
        """How much gold changed; None where it was measured less than twice."""
        return measure_gold_change(self.gold)

    @cached_property
    def active_alarms(self) -> list[ActiveAlarm]:
        """The alarms that are still raised after the last batch."""
        return find_active_alarms(self.metrics, self.lineage)

    @cached_property
    def best_levels(self) -> list[Mapping[str, int]]:
        """By rubric version: criterion → its best level."""
        return [
            {criterion.id: len(criterion.levels) - 1 for criterion in version.rubric.criteria}
            for version in self.versions
        ]

    @property
    def accepted_steps(self) -> list[Step]:
        """The steps that published a rubric version."""
        return [step for step in self.lineage if step.status == "accepted"]

    def rollouts_by_batch(self) -> Iterator[tuple[int, list[Rollout]]]:
        """Each batch with its rollouts."""
        for batch, rollouts in groupby(self.rollouts, key=lambda rollout: rollout.batch):
            yield batch, list(rollouts)


def load_run_data(run: RunDir, config: Config) -> RunData:
    """Reads a run, finished or not.

    Args:
        run: The run.
        config: Its configuration.

    Raises:
        RunError: A file of the run is damaged or missing; names it.
    """
    metrics, lineage = read_records(run, run.metrics, Metrics), read_records(run, run.lineage, Step)
    rollouts = run.read_rollouts()
    # A version whose file is gone must be reported as missing, even where it was the newest.
    named = {*(rollout.version for rollout in rollouts), *(step.parent for step in lineage)}
    newest = max(run.latest().number, *named, 0)
    return RunData(
        name=run.path.name,
        config=config,
        saved_config=load_saved_config(run),
        purpose=_find_purpose(config),
        state=describe_state(run, config, len(metrics)),
        stop_reason=run.stop_reason,
        is_resumed=(run.path / "superseded").is_dir(),
        environment=run.environment,
        figures=compute_figures(run, config),
        metrics=metrics,
        gold=read_records(run, run.gold, Gold),
        lineage=lineage,
        alarms=read_records(run, run.alarms, AlarmRow),
        anchor=read_records(run, run.anchor, Answer),
        probes=read_records(run, run.probes, Answer),
        rollouts=rollouts,
        calls=[call for path in run.ledgers().values() for call in read_calls(path)],
        versions=[run.version(number) for number in range(newest + 1)],
    )


def measure_gold_change(gold: Sequence[Gold]) -> GoldChange | None:
    """How much gold changed from the first evaluation to the last; None where there are fewer than two."""
    if len(gold) < 2:
        return None
    last = gold[max(1, len(gold) - LAST) :]
    before = {sample.prompt: sample.gold for sample in gold[0].samples}
    after: dict[str, list[float]] = {}
    for sample in (sample for evaluation in last for sample in evaluation.samples):
        after.setdefault(sample.prompt, []).append(sample.gold)
    differences = [fmean(values) - before[prompt] for prompt, values in after.items() if prompt in before]
    low, high = mean_interval(differences)
    return GoldChange(fmean(differences), low, high, len(differences))


def load_saved_config(run: RunDir) -> Config:
    """The configuration as the run was started with it: its rubric by where it came from."""
    return load_config(run.path / "config.yaml", environ={})


def select_shareable_settings(config: Config) -> JsonRow:
    """The settings without the run's folders, and with only the last part of every path."""
    settings: JsonRow = yaml.safe_load(save_config(config))
    for key in ("run_dir", "cache_dir"):
        del settings[key]
    if config.goal:
        settings["task"] = None  # a goal replaces the task, whose value means nothing then
    for key in ("policy", "task", "data", "rubric"):
        if Path(settings.get(key) or "").is_absolute():
            settings[key] = Path(settings[key]).name
    return settings


def _find_purpose(config: Config) -> str:
    """What the policy is trained for; the task's name where its folder is gone."""
    try:
        return task_of(config).purpose.strip()
    except TaskError:
        return strip_folders(config.task)
