"""Several runs side by side: their figures, the settings in which they differ, and their curves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpo_lite.config import Config
from mpo_lite.errors import MPOError
from mpo_lite.jsonl import JsonRow
from mpo_lite.records import AlarmRow, Gold, Metrics, Step
from mpo_lite.report.charts import Chart, Track, build_chart, line, measure_first_rubric, select_column
from mpo_lite.report.figures import compute_figures, describe_state, format_alarm_name
from mpo_lite.report.row_reader import read_records
from mpo_lite.report.run_data import (
    GoldChange,
    load_saved_config,
    measure_gold_change,
    select_shareable_settings,
)
from mpo_lite.run_dir import RunDir

SHOWN = (
    ("gold", "Gold", "The one measure that is the same in all runs of a task. Its prompts are held out."),
    ("probes", "Fixed prompts, under the first rubric", "Comparable within a run; between runs only if first "
     "rubric and judge are the same."),
    ("reward", "Reward", "Under each run's current rubric: not comparable between runs."),
    ("kl", "KL to the initial policy", "How far each policy moved from the initial one, in nats per token."),
    ("tokens", "Length of answers, tokens", "Mean per batch."),
    ("usd", "USD so far", "Only where all calls are priced."),
)  # fmt: skip
"""Charts in their order: name, title and what to look for."""


@dataclass(frozen=True)
class ComparedRun:
    """What is compared of a run. Its rollouts are not read: a comparison needs none of them.

    Attributes:
        name: The run directory's name.
        config: The configuration as the run was started with it.
        task: The task, or the goal.
        state: As ``describe_state`` gives it.
        figures: As ``compute_figures`` gives them.
        change: How much gold changed.
        held_out: The prompts on which gold was measured.
        alarms: The kinds of alarms that were raised.
        tracks: Chart → the run's line in it.
    """

    name: str
    config: Config
    task: str
    state: str
    figures: JsonRow
    change: GoldChange | None
    held_out: tuple[str, ...]
    alarms: Sequence[str]
    tracks: Mapping[str, Track]


def compare_runs(paths: Sequence[Path]) -> JsonRow:
    """Reads runs for ``compare.html.j2``.

    Returns:
        ``runs``, table ``rows`` and ``settings`` (label, one value per run), ``charts``, ``cautions``, and
        ``damaged``: what is wrong with each run that is left out.

    Raises:
        MPOError: One of them is missing, or none can be read.
    """
    runs: list[ComparedRun] = []
    damaged: dict[str, MPOError] = {}
    for path in paths:
        try:
            runs.append(_load_run(path))
        except MPOError as error:
            if not path.is_dir():
                raise
            damaged[path.name] = error
    if not runs:
        raise next(iter(damaged.values()))
    left_out = [
        f"{name} cannot be read and is left out; mpo-lite report of this run alone says why."
        for name in damaged
    ]
    return {
        "runs": runs,
        "damaged": list(damaged.values()),
        "simulated": [(run.name, run.figures["simulated"]) for run in runs if run.figures["simulated"]],
        "cautions": [*left_out, *_list_cautions(runs)],
        "rows": [(label, [_format_value(value(run)) for run in runs]) for label, value in _ROWS],
        "settings": _find_differences(runs),
        "charts": {name: chart for name, _, _ in SHOWN if (chart := _build_chart(runs, name))},
        "shown": SHOWN,
    }


def _load_run(path: Path) -> ComparedRun:
    run, config = RunDir.open(path, {})
    metrics, gold = read_records(run, run.metrics, Metrics), read_records(run, run.gold, Gold)
    return ComparedRun(
        name=path.name,
        config=load_saved_config(run),
        task=config.goal or config.task,
        state=describe_state(run, config, len(metrics)),
        figures=compute_figures(run, config),
        change=measure_gold_change(gold),
        held_out=tuple(sample.prompt for sample in gold[0].samples) if gold else (),
        alarms=sorted({alarm.name for alarm in read_records(run, run.alarms, AlarmRow)}),
        tracks={
            "reward": select_column(metrics, "judged_reward"),
            **{name: select_column(metrics, name) for name in ("kl", "tokens", "usd")},
            "gold": select_column(gold, "gold"),
            "probes": measure_first_rubric(read_records(run, run.lineage, Step)),
        },
    )


def _list_cautions(runs: Sequence[ComparedRun]) -> list[str]:
    cautions: list[str] = []
    if len({run.task for run in runs}) > 1:
        cautions.append("These runs have different tasks, so their gold is not comparable.")
    elif len({run.held_out for run in runs if run.held_out}) > 1:
        cautions.append("Gold was measured on different prompts, so compare with care.")
    if len({run.figures["seed"] for run in runs}) == 1:
        cautions.append(
            "All runs have the same seed; these figures do not show how much results vary between seeds."
        )
    return cautions


def _select_gold(run: ComparedRun, which: str) -> float | None:
    return run.figures["gold"][which] if run.figures["gold"] else None


def _format_change(run: ComparedRun) -> str | None:
    change = run.change
    return f"{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]" if change else None


def _format_usd(run: ComparedRun) -> str:
    usd = run.figures["usd"]
    return "unpriced" if usd is None else f"{usd:.2f}"


_ROWS: tuple[tuple[str, Callable[[ComparedRun], Any]], ...] = (
    ("state", lambda run: run.state),
    ("batches", lambda run: run.figures["steps"]),
    ("gold before", lambda run: _select_gold(run, "start")),
    ("lowest gold", lambda run: _select_gold(run, "min")),
    ("gold after", lambda run: _select_gold(run, "end")),
    ("change, 95% interval over prompts", _format_change),
    ("recent reward", lambda run: run.figures["reward"]["end"]),
    ("rubric version", lambda run: f"v{run.figures['rubric_version']}"),
    ("alarms raised", lambda run: ", ".join(map(format_alarm_name, run.alarms)) or "none"),
    ("judge calls", lambda run: run.figures["judge_calls"]),
    ("gate calls", lambda run: run.figures["gate_calls"]),
    ("meta calls", lambda run: run.figures["meta_calls"]),
    ("failed judgements", lambda run: run.figures["judge_failures"]),
    ("USD", _format_usd),
)


def _format_value(value: Any) -> str:
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _find_differences(runs: Sequence[ComparedRun]) -> list[tuple[str, list[str]]]:
    """The settings in which not all runs agree, with one value per run."""
    settings = [select_shareable_settings(run.config) for run in runs]
    names = dict.fromkeys(name for of_run in settings for name in of_run)
    differing = [
        name for name in names if any(of_run.get(name) != settings[0].get(name) for of_run in settings)
    ]
    return [(name, [_format_setting(of_run.get(name)) for of_run in settings]) for name in differing]


def _format_setting(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value)


def _build_chart(runs: Sequence[ComparedRun], name: str) -> Chart | None:
    lines = [line(run.name, run.tracks[name], colour=place % 8, dots=name in ("gold", "probes"))
             for place, run in enumerate(runs)]  # fmt: skip
    return build_chart(lines, unit=name in ("gold", "probes", "reward"))
