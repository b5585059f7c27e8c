"""A calibration from a file of labelled rows to its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mpo_lite.activity import activity
from mpo_lite.calibration.examples import LEAST_PROMPTS, ExampleTrial, try_examples
from mpo_lite.calibration.judging import (
    Judged,
    Judgement,
    choose_probed,
    count_judgements,
    judge_labelled,
    judge_rows,
)
from mpo_lite.calibration.labels import Columns, LabelledData, LabelledRow, read_labelled
from mpo_lite.calibration.measure import calibrate, to_json
from mpo_lite.config import Config
from mpo_lite.errors import TaskError, cached_so_far
from mpo_lite.judge.pool import ModelPool
from mpo_lite.offline import first_rubric
from mpo_lite.rubric import Rubric
from mpo_lite.run_dir import rubric_at
from mpo_lite.tasks.spec import Task, task_of
from mpo_lite.types import Example


def run_calibration(
    config: Config, path: Path, columns: Columns, probes: int, examples: int | None = None
) -> tuple[dict[str, Any], Sequence[Example]]:
    """Calibrates the judge and rubric of a configuration on labelled rows.

    Args:
        config: Names judge, rubric and task.
        path: File of labelled rows.
        columns: Its columns.
        probes: Rows that are judged again and tried with tricks.
        examples: How many examples to pick for the judge; None: none.

    Returns:
        All figures, as ``--json`` prints them; and the examples, if they help.

    Raises:
        UsageError: The file, a setting or an endpoint cannot work.
        StopRun: A cap is reached, the judge rejects calls permanently, or too little was judged.
    """
    task = task_of(config)
    data, rubric = read_labelled(path, columns, task), first_rubric(config, task)
    if examples and len({row.prompt for row in data.rows}) < LEAST_PROMPTS:
        raise TaskError(f"{path}: picking examples needs labelled rows with at least {LEAST_PROMPTS} prompts")
    config = config.model_copy(update={"judge_mode": config.judge_mode or task.judge_mode})
    models = ModelPool(config, task.brief(), with_meta=False, waits_out=True)
    try:
        models.log_calls(Path())
        models.check()
        with cached_so_far("verdicts"):
            judged = _judge(models, config, task, rubric, data, probes)
            trial = _try_examples(models, task, rubric, judged, examples) if examples else None
        with activity("computing intervals"):
            summary = to_json(calibrate(rubric, judged))
    finally:
        models.close()
    summary |= models.spend() | {
        "file": path.name,
        "judge": models.judged_by,
        "rubric": rubric_at(config.rubric)[1] if config.rubric else f"task {task.name}",
        "examples": asdict(trial) | {"file": None} if trial else None,
    }
    return summary, trial.examples if trial and trial.helps else ()


def _judge(
    models: ModelPool, config: Config, task: Task, rubric: Rubric, data: LabelledData, probes: int
) -> Judged:
    probed = choose_probed(data, probes, config.seed)
    with activity("calibrating", count_judgements(data, len(probed), task), "answers") as work:
        return judge_labelled(models, task, rubric, data, probed, config.max_judge_failures, work.advance)


def _try_examples(models: ModelPool, task: Task, rubric: Rubric, judged: Judged, count: int) -> ExampleTrial:
    def judge_with(examples: Sequence[Example], rows: Sequence[LabelledRow]) -> list[list[Judgement]]:
        models.examples = tuple(examples)
        with activity("judging with examples"):
            return judge_rows(models, task, rubric, rows)

    return try_examples(judged, count, judge_with)
