"""All that a report tells of a run, read from its directory; nothing is asked of a model for it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import yaml

from mpo_lite.config import Config
from mpo_lite.config_sources import load_config, save_config
from mpo_lite.errors import TaskError
from mpo_lite.jsonl import JsonRow
from mpo_lite.meta.criterion_stats import criterion_stats
from mpo_lite.report import charts
from mpo_lite.report.costs import accounts
from mpo_lite.report.figures import LAST, run_figures, run_state, short, standing_alarms
from mpo_lite.report.health_checks import RECENT, signs
from mpo_lite.report.narrative import story
from mpo_lite.report.rubric_history import history, whole
from mpo_lite.report.samples import over_time, samples
from mpo_lite.run_dir import RunDir
from mpo_lite.stats.interval import mean_interval
from mpo_lite.tasks.spec import task_of
from mpo_lite.types import Rollout


def gather(run: RunDir, config: Config) -> JsonRow:
    """Reads a run, finished or not.

    Args:
        run: The run.
        config: Its configuration.

    Returns:
        What ``run.html.j2`` shows: ``figures``, ``change`` in gold, ``story``, ``signs``, ``charts``,
        ``history``, ``criteria``, ``accounts``, ``alarms``, ``samples``, ``over_time`` and how to reproduce.

    Raises:
        RunError: A file of the run is damaged or gone; names it.
    """
    metrics, gold, lineage, alarms = map(run.rows, (run.metrics, run.gold, run.lineage, run.alarms))
    rollouts = run.journalled()
    rubrics = {number: run.version(number).rubric for number in range(run.latest().number + 1)}
    tops = {
        number: {one.id: len(one.levels) - 1 for one in rubric.criteria} for number, rubric in rubrics.items()
    }
    known: JsonRow = {
        "name": run.path.name,
        "written": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "state": run_state(run, config, len(metrics)),
        "stop": run.stop_reason,
        "config": config,
        "figures": run_figures(run, config),
        "change": gold_change(gold),
        "gold": gold,
        "metrics": metrics,
        "alarms": alarms,
        "standing": standing_alarms(metrics, lineage),
        "history": history(run, lineage),
        "in_force": _in_force(run),
        "probes": charts.first_rubric(lineage),
        "unprobed": _unprobed(config, lineage),
        "accounts": accounts(run),
        "criteria": _criteria(run, rollouts, lineage),
        "zero_spread": charts.zero_spread(rollouts),
        "purpose": _purpose(config),
        "asked": rollouts[0].prompt if rollouts else "",
        "superseded": (run.path / "superseded").is_dir(),
    }
    cited = {name for rubric in rubrics.values() for one in rubric.criteria for name in one.provenance}
    cited |= {name for row in lineage for name in row.get("samples", [])}
    return known | {
        "story": story(known),
        "signs": signs(known),
        "charts": charts.all_charts(known, rollouts, tops),
        "samples": samples(rollouts, tops, alarms, cited, run.rows(run.probes)),
        "over_time": over_time(run, gold),
        **_reproduction(run, config),
    }


def _unprobed(config: Config, lineage: Sequence[JsonRow]) -> str:
    """Why answers to fixed prompts were not scored by the first rubric, where they were not."""
    if not config.use_gate:
        return "the gate, whose calls it takes, was off"
    if not any(row["kind"] in ("meta", "rollback") for row in lineage):
        return "no meta step was held"
    return "no meta step had calls to spare for it"


def _purpose(config: Config) -> str:
    """What the policy was trained for; the task's name where its folder is gone."""
    try:
        return task_of(config).purpose.strip()
    except TaskError:
        return short(config.task)


def _in_force(run: RunDir) -> JsonRow:
    newest = run.latest()
    return {"number": newest.number, "diff": whole(newest.rubric), "guidelines": newest.rubric.guidelines}


def gold_change(gold: Sequence[JsonRow]) -> JsonRow | None:
    """How much gold changed from before training to the end, prompt by prompt.

    Returns:
        ``mean`` change and its 95% interval ``low``, ``high`` (bootstrap over prompts: it says how sure
        the change is for *these* weights, not how another seed would end), ``n`` prompts; None where gold was
        measured less than twice.
    """
    if len(gold) < 2:
        return None
    last = gold[max(1, len(gold) - LAST) :]
    before = {one["prompt"]: one["gold"] for one in gold[0]["samples"]}
    after: dict[str, list[float]] = {}
    for one in (one for row in last for one in row["samples"]):
        after.setdefault(one["prompt"], []).append(one["gold"])
    differences = [fmean(values) - before[prompt] for prompt, values in after.items() if prompt in before]
    low, high = mean_interval(differences)
    return {"mean": fmean(differences), "low": low, "high": high, "n": len(differences)}


def _criteria(run: RunDir, rollouts: Sequence[Rollout], lineage: Sequence[JsonRow]) -> JsonRow:
    """The health of the criteria in force over the last batches; noise from the last audit of each."""
    if not rollouts:
        return {}
    last = rollouts[-1]
    recent = [one for one in rollouts if one.version == last.version and one.batch > last.batch - RECENT]
    noise = {name: one["noise"] for row in lineage for name, one in row.get("health", {}).items()}
    return {
        name: {**vars(one), "noise": noise.get(name)}
        for name, one in criterion_stats(run.version(last.version).rubric, recent, {}).items()
    }


def saved_config(run: RunDir) -> Config:
    """The configuration as the run was begun with it: its rubric by where it came from."""
    return load_config(run.path / "config.yaml", environ={})


def shown_settings(config: Config) -> JsonRow:
    """The settings as they may be passed on: without the run's folders, and of paths the last part alone."""
    saved: JsonRow = yaml.safe_load(save_config(config))
    for key in ("run_dir", "cache_dir"):
        del saved[key]
    if config.goal:
        saved["task"] = None  # the goal stands in its place
    for key in ("policy", "task", "data", "rubric"):
        if Path(saved.get(key) or "").is_absolute():
            saved[key] = Path(saved[key]).name
    return saved


def _reproduction(run: RunDir, config: Config) -> JsonRow:
    """The settings that differ from what holds unsaid, and the versions."""
    default = shown_settings(Config.model_validate({"judge": config.judge}))
    settings = shown_settings(saved_config(run))
    own = {
        key: value
        for key, value in settings.items()
        if key in ("judge", "seed") or value not in (default[key], None)
    }
    known = run.environment
    return {
        "settings": yaml.safe_dump(own, sort_keys=False, allow_unicode=True),
        "packages": {"python": known["python"], "mpo-lite": known["mpo_lite"], **known["packages"]},
        "machine": known["machine"],
    }
