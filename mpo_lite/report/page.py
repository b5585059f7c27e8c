"""The report as one HTML file: it asks no server for anything and runs no script but its own.

What models and people wrote stands in it as text alone: the template escapes it, the data are read by the
script as JSON, and the page's own policy (CSP, W3C) names its one style and two scripts by their hashes, so
that the browser would run nothing else even if some got through.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mpo_lite.errors import ConfigError, MPOError, failures_in_words, storage_problem
from mpo_lite.jsonl import JsonRow, write_atomically
from mpo_lite.report.charts import HEALTH
from mpo_lite.report.comparison import compared
from mpo_lite.report.figures import short, spaced
from mpo_lite.report.health_checks import FULL
from mpo_lite.report.narrative import headline
from mpo_lite.report.run_data import gather
from mpo_lite.run_dir import RunDir
from mpo_lite.sanitize import escape_controls, pluralize
from mpo_lite.wording import simulated_note


def write_report(run: RunDir, path: Path | None = None) -> Path:
    """Writes the report of a run, finished or under way.

    Args:
        run: The run.
        path: Where to; None for ``report.html`` in the run directory.

    Returns:
        The file.

    Raises:
        ConfigError: There is no run, or the report cannot be written.
        RunError: A file of the run is damaged or gone; names it.
    """
    _, config = RunDir.open(run.path, {})
    known = gather(run, config)
    word, mood = headline(known)
    data = {name: known[name] for name in ("charts", "samples", "over_time")}
    html = _render("run.html.j2", data, headline=word, mood=mood, health=HEALTH, full=FULL, **known)
    return _write(path or run.report, html)


def write_comparison(paths: Sequence[Path], path: Path) -> tuple[Path, list[MPOError]]:
    """Writes one page that compares runs; damaged ones are left out, and the page says so.

    Args:
        paths: Run directories, two or more.
        path: Where to.

    Returns:
        The file, and what is wrong with each run that was left out.

    Raises:
        ConfigError: The page cannot be written.
        MPOError: One of the runs is not there, or all of them are damaged.
    """
    known = compared(paths)
    html = _render("compare.html.j2", {"charts": known["charts"]}, **known)
    return _write(path, html), known["damaged"]


def _render(template: str, data: JsonRow, **known: Any) -> str:
    style = _asset("uPlot.min.css") + _asset("report.css")
    library, script = _asset("uPlot.iife.min.js"), _asset("report.js")
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; img-src data:; "
        f"script-src {_hash(library)} {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    return _environment().get_template(template).render(
        policy=Markup(policy), style=Markup(style), library=Markup(library), script=Markup(script),
        data=Markup(_inert(data)), written_by=metadata.version("mpo-lite"), **known,
    )  # fmt: skip


def _inert(data: JsonRow) -> str:
    """JSON that no HTML parser takes for the end of its script element, nor for the begin of another."""
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
        finalize=_seen,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = environment.filters
    filters |= {"number": _number, "usd": _usd, "share": _share, "spaced": spaced, "short": short}
    filters |= {"failures": failures_in_words, "counted": pluralize, "simulated_note": simulated_note}
    return environment


def _seen(value: Any) -> Any:
    """Texts with what cannot be seen, or not be written, made visible."""
    return escape_controls(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _number(value: float | None, places: int = 3) -> str:
    return "–" if value is None else f"{value:,.{places}f}"


def _usd(value: float | None) -> str:
    return (
        "unpriced" if value is None else f"${value:,.2f}" if value >= 0.01 or not value else f"${value:.4f}"
    )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _write(path: Path, html: str) -> Path:
    try:
        write_atomically(path, html)
    except OSError as error:
        said = storage_problem(error, path) or f"cannot be written ({error})"
        raise ConfigError(f"report: {said}, or name another file by --out") from error
    return path
