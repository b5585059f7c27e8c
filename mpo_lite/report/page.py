"""The report as one HTML file, which loads nothing and runs no script but its own.

Texts of models and people are untrusted: the template escapes them, the script reads its data as JSON, and
the page's content security policy (CSP, W3C) allows only its one style and two scripts, by their hashes, so
that the browser runs nothing else even if the escaping fails.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Sequence
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mpo_lite.config import Config
from mpo_lite.errors import ConfigError, MPOError, failures_in_words, storage_problem
from mpo_lite.jsonl import JsonRow, write_atomically
from mpo_lite.report.charts import HEALTH, build_charts, measure_first_rubric
from mpo_lite.report.comparison import compare_runs
from mpo_lite.report.costs import build_cost_table
from mpo_lite.report.criteria import measure_criteria
from mpo_lite.report.figures import format_alarm_name, strip_folders
from mpo_lite.report.health_checks import FULL, run_health_checks
from mpo_lite.report.narrative import write_headline, write_narrative
from mpo_lite.report.rubric_history import build_history, list_criteria
from mpo_lite.report.run_data import RunData, load_run_data, select_shareable_settings
from mpo_lite.report.samples import choose_samples, follow_prompts
from mpo_lite.run_dir import RunDir
from mpo_lite.sanitize import escape_controls, pluralize
from mpo_lite.wording import simulated_note


def write_report(run: RunDir, path: Path | None = None) -> Path:
    """Writes the report of a run, finished or in progress.

    Args:
        run: The run.
        path: Where to write; None for ``report.html`` in the run directory.

    Returns:
        The file.

    Raises:
        ConfigError: There is no run, or the report cannot be written.
        RunError: A file of the run is damaged or missing; names it.
    """
    _, config = RunDir.open(run.path, {})
    page = build_run_page(load_run_data(run, config))
    script_data = {name: page[name] for name in ("charts", "samples", "over_time")}
    return write_page(path or run.report, render_page("run.html.j2", script_data, page))


def write_comparison(paths: Sequence[Path], path: Path) -> tuple[Path, list[MPOError]]:
    """Writes one page that compares runs. Damaged runs are left out, which the page says.

    Args:
        paths: Run directories, two or more.
        path: Where to write.

    Returns:
        The file, and what is wrong with each run that was left out.

    Raises:
        ConfigError: The page cannot be written.
        MPOError: One of the runs is missing, or all of them are damaged.
    """
    page = compare_runs(paths)
    html = render_page("compare.html.j2", {"charts": page["charts"]}, page)
    return write_page(path, html), page["damaged"]


def build_run_page(data: RunData) -> JsonRow:
    """What ``run.html.j2`` shows, by the names it has there."""
    headline, mood = write_headline(data)
    newest = data.versions[-1]
    return {
        "name": data.name,
        "state": data.state,
        "config": data.config,
        "figures": data.figures,
        "change": data.gold_change,
        "headline": headline,
        "mood": mood,
        "narrative": write_narrative(data),
        "checks": run_health_checks(data),
        "charts": build_charts(data),
        "health": HEALTH,
        "has_probes": bool(measure_first_rubric(data.lineage)),
        "unmeasured": _explain_unmeasured(data),
        "history": build_history(data),
        "current": {
            "number": newest.number,
            "diff": list_criteria(newest.rubric),
            "guidelines": newest.rubric.guidelines,
        },
        "criteria": measure_criteria(data),
        "full": FULL,
        "alarms": data.alarms,
        "costs": build_cost_table(data),
        "samples": choose_samples(data),
        "over_time": follow_prompts(data),
        "settings": _list_changed_settings(data),
        "packages": _list_packages(data),
        "machine": data.environment["machine"],
        "resumed": data.is_resumed,
    }


def _explain_unmeasured(data: RunData) -> str:
    """Why the first rubric did not score answers to fixed prompts again, where it did not."""
    if not data.config.use_gate:
        return "it uses the gate's budget, and the gate was off"
    if not any(step.kind in ("meta", "rollback") for step in data.lineage):
        return "there was no meta step"
    return "no meta step had enough budget for it"


def _list_changed_settings(data: RunData) -> str:
    """The settings that differ from their defaults, as YAML; judge and seed in any case."""
    default = select_shareable_settings(Config.model_validate({"judge": data.config.judge}))
    changed = {
        key: value
        for key, value in select_shareable_settings(data.saved_config).items()
        if key in ("judge", "seed") or value not in (default[key], None)
    }
    return yaml.safe_dump(changed, sort_keys=False, allow_unicode=True)


def _list_packages(data: RunData) -> dict[str, str]:
    environment = data.environment
    return {"python": environment["python"], "mpo-lite": environment["mpo_lite"], **environment["packages"]}


def render_page(template: str, script_data: JsonRow, page: JsonRow) -> str:
    """A page as HTML.

    Args:
        template: Its template among the assets.
        script_data: What ``report.js`` reads; ``charts`` at least.
        page: What the template shows, by the names it has there.
    """
    style = _asset("uPlot.min.css") + _asset("report.css")
    library, script = _asset("uPlot.iife.min.js"), _asset("report.js")
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; img-src data:; "
        f"script-src {_hash(library)} {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    return _environment().get_template(template).render(
        policy=Markup(policy), style=Markup(style), library=Markup(library), script=Markup(script),
        data=Markup(_escape_json(script_data)), written_by=metadata.version("mpo-lite"),
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), **page,
    )  # fmt: skip


def _escape_json(data: JsonRow) -> str:
    """JSON in which no HTML parser finds the end of its script element, or a new element."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return (resources.files("mpo_lite.report") / "assets" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mpo_lite.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_escape_unseen,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = environment.filters
    filters |= {"number": _format_number, "usd": _format_usd, "share": _format_share, "counted": pluralize}
    filters |= {"alarm_name": format_alarm_name, "without_folders": strip_folders}
    filters |= {"failures": failures_in_words, "simulated_note": simulated_note}
    return environment


def _escape_unseen(value: Any) -> Any:
    """Texts with invisible and unwritable characters made visible."""
    return escape_controls(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _format_number(value: float | None, places: int = 3) -> str:
    return "–" if value is None else f"{value:,.{places}f}"


def _format_usd(value: float | None) -> str:
    return (
        "unpriced" if value is None else f"${value:,.2f}" if value >= 0.01 or not value else f"${value:.4f}"
    )


def _format_share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def write_page(path: Path, html: str) -> Path:
    """Writes a page, and returns its path. Raises ``ConfigError`` if it cannot be written."""
    try:
        write_atomically(path, html)
    except OSError as error:
        problem = storage_problem(error, path) or f"cannot be written ({error})"
        raise ConfigError(f"report: {problem}, or choose another file with --out") from error
    return path
