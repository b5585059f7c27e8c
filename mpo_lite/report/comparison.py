"""Several runs side by side: their figures, what their settings do not share, and their curves."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mpo_lite.config import Config
from mpo_lite.errors import MPOError
from mpo_lite.jsonl import JsonRow
from mpo_lite.report.charts import Track, chart, column, first_rubric, line
from mpo_lite.report.figures import run_figures, run_state, spaced
from mpo_lite.report.run_data import gold_change, saved_config, shown_settings
from mpo_lite.run_dir import RunDir

SHOWN = (
    ("gold", "Gold", "The one measure that is the same in all runs of one task. Its prompts are held out."),
    ("probes", "Fixed answers by the first rubric", "Comparable within a run; between runs only where first "
     "rubric and judge are the same."),
    ("reward", "Reward", "By whatever rubric each run had in force: not comparable between runs."),
    ("kl", "KL to the initial policy", "How far each policy moved for what it reached, in nats per token."),
    ("tokens", "Length of answers, tokens", "Mean per batch."),
    ("usd", "USD so far", "Where all calls are priced."),
)  # fmt: skip
"""Charts in their order: name, title and what to look for."""


def compared(paths: Sequence[Path]) -> JsonRow:
    """Reads runs for ``compare.html.j2``.

    Returns:
        ``runs``, table ``rows`` and ``settings`` (label, one value per run), ``charts``, ``cautions``, and
        ``damaged``: what is wrong with each run that is left out.

    Raises:
        MPOError: One of them is not there, or none of them is whole.
    """
    known: list[JsonRow] = []
    configs: list[Config] = []
    damaged: dict[str, MPOError] = {}
    for path in paths:
        try:
            run, config = RunDir.open(path, {})
            known.append(_known(run, config))
            configs.append(saved_config(run))
        except MPOError as error:
            if not path.is_dir():
                raise
            damaged[path.name] = error
    if not known:
        raise next(iter(damaged.values()))
    left_out = [f"{name} is damaged and left out: mpo-lite report says of it alone why." for name in damaged]
    return {
        "runs": known,
        "damaged": list(damaged.values()),
        "written": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "simulated": [
            (run["name"], run["figures"]["simulated"]) for run in known if run["figures"]["simulated"]
        ],
        "cautions": [*left_out, *_cautions(known)],
        "rows": [(label, [_said(tell(one)) for one in known]) for label, tell in _ROWS],
        "settings": _differing(configs),
        "charts": {name: made for name, _, _ in SHOWN if (made := _chart(known, name))},
        "shown": SHOWN,
    }


def _known(run: RunDir, config: Config) -> JsonRow:
    metrics, gold = run.rows(run.metrics), run.rows(run.gold)
    tracks: dict[str, Track] = {
        **{name: column(metrics, name) for name in ("reward", "kl", "tokens", "usd")},
        "gold": column(gold, "gold"),
        "probes": first_rubric(run.rows(run.lineage)),
    }
    return {
        "name": run.path.name,
        "state": run_state(run, config, len(metrics)),
        "figures": run_figures(run, config),
        "change": gold_change(gold),
        "asked": [one["prompt"] for one in gold[0]["samples"]] if gold else [],
        "task": config.goal or config.task,
        "alarms": sorted({row["name"] for row in run.rows(run.alarms)}),
        "tracks": tracks,
    }


def _cautions(known: Sequence[JsonRow]) -> list[str]:
    said: list[str] = []
    if len({one["task"] for one in known}) > 1:
        said.append("These runs have different tasks: their gold is not one measure.")
    elif len({tuple(one["asked"]) for one in known if one["asked"]}) > 1:
        said.append("Gold was measured on different prompts: compare with care.")
    if len({one["figures"]["seed"] for one in known}) == 1:
        said.append(
            "Every run has the same seed; how far another seed ends elsewhere is not in these figures."
        )
    return said


def _gold(one: JsonRow, which: str) -> float | None:
    return one["figures"]["gold"][which] if one["figures"]["gold"] else None


def _change(one: JsonRow) -> str | None:
    change = one["change"]
    return f"{change['mean']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]" if change else None


_ROWS: tuple[tuple[str, Callable[[JsonRow], Any]], ...] = (
    ("state", lambda one: one["state"]),
    ("batches", lambda one: one["figures"]["steps"]),
    ("gold before", lambda one: _gold(one, "start")),
    ("gold at its lowest", lambda one: _gold(one, "min")),
    ("gold after", lambda one: _gold(one, "end")),
    ("change, 95% interval over prompts", _change),
    ("reward over the last batches", lambda one: one["figures"]["reward"]["end"]),
    ("rubric version", lambda one: f"v{one['figures']['rubric_version']}"),
    ("kinds of alarms", lambda one: ", ".join(spaced(name) for name in one["alarms"]) or "none"),
    ("judge calls", lambda one: one["figures"]["judge_calls"]),
    ("gate calls", lambda one: one["figures"]["gate_calls"]),
    ("meta calls", lambda one: one["figures"]["meta_calls"]),
    ("judgements failed", lambda one: one["figures"]["judge_failures"]),
    ("USD", lambda one: "unpriced" if one["figures"]["usd"] is None else f"{one['figures']['usd']:.2f}"),
)


def _said(value: Any) -> str:
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _differing(configs: Sequence[Config]) -> list[tuple[str, list[str]]]:
    shown = [shown_settings(config) for config in configs]
    names = dict.fromkeys(name for one in shown for name in one)
    differing = [name for name in names if any(one.get(name) != shown[0].get(name) for one in shown)]
    return [(name, [_setting(one.get(name)) for one in shown]) for name in differing]


def _setting(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value)


def _chart(known: Sequence[JsonRow], name: str) -> JsonRow | None:
    lines = [line(one["name"], one["tracks"][name], colour=place % 8, dots=name in ("gold", "probes"))
             for place, one in enumerate(known)]  # fmt: skip
    return chart(lines, unit=name in ("gold", "probes", "reward"))
