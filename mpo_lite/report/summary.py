"""The figures of a run, read from its directory, and the names in it for people."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping

from mpo_lite.config import Config
from mpo_lite.errors import FailureKind, failures_in_words
from mpo_lite.files import JsonRow
from mpo_lite.llm.ledger import Ledger
from mpo_lite.llm.models import SANDBOX
from mpo_lite.runs import Run

LAST = 3
"""Evaluations, or batches, that an ``end`` figure is the mean of."""
_SPEND = (
    "judge_calls",
    "gate_calls",
    "meta_calls",
    "cache_hits",
    "tokens_spent",
    "tokens_cached",
    "usd",
    "unpriced",
    "unmetered",
)


def run_figures(run: Run, config: Config, until: int | None = None) -> JsonRow:
    """The figures of a run's first batches.

    Args:
        run: The run.
        config: Its configuration.
        until: Batches that count; None for all.

    Returns:
        ``start`` is the first value, ``end`` the mean of the last three; None where there is none. Rewards of
        different rubric versions are not comparable. ``usd`` is None where a price is unknown.
    """
    metrics, evaluations = (
        [row for row in run.rows(file) if until is None or row["batch"] <= until]
        for file in (run.metrics, run.gold)
    )
    rewards = [row["reward"] for row in metrics if row["reward"] is not None]
    gold = [row["gold"] for row in evaluations]
    last = metrics[-1] if metrics else {}
    return {
        "run": str(run.path),
        "seed": config.seed,
        "steps": len(metrics),
        "rubric_version": last.get("version", 0),
        "reward": _span(rewards),
        "gold": {**_span(gold), "min": min(gold)} if gold else None,
        **{name: last.get(name, 0) for name in _SPEND},
        **(_accounted(run) if until is None else {}),
        "rows": sum(row.get("rows", 0) for row in metrics),
        "judge_failures": sum(row["judge_failures"] for row in metrics),
        "failures": _sums(row.get("failures", {}) for row in metrics),
        "simulated_judge": SANDBOX in config.model_names,
    }


def run_state(run: Run, config: Config, batches: int) -> str:
    """``training`` now, ``done``, ``stopped`` before its end, or ``not begun``."""
    done = "done" if batches >= config.steps else "stopped" if batches else "not begun"
    return "training" if run.locked() else done


def changes_in_words(row: JsonRow) -> str:
    """What an accepted row of the lineage changed, by criteria."""
    parts = [f"{kind} {', '.join(row[kind])}" for kind in ("added", "changed", "dropped") if row[kind]]
    return "; ".join(parts) or "weights or guidelines changed"


def not_judged(failed: int, answers: int, kinds: Mapping[FailureKind, int]) -> str:
    """How many answers a judge failed on, and why, e.g. ``9 of 24 not judged: 7 timed out, 2 cut off``."""
    words = failures_in_words(kinds)
    return f"{failed:,} of {answers:,} not judged" + (f": {words}" if words else "")


def short(name: str) -> str:
    """A model or task by the last part of its path: a report is passed on, and names no folder."""
    return name.rstrip("/").split("/")[-1]


def spaced(name: str) -> str:
    """An alarm's name for people."""
    return name.replace("_", " ")


def _accounted(run: Run) -> JsonRow:
    """What the run's ledgers account for: calls after its last batch, too."""
    ledger = Ledger()
    for path in run.ledgers().values():
        ledger.count(path)
    return ledger.spend()


def _sums(counts: Iterable[dict[FailureKind, int]]) -> dict[FailureKind, int]:
    sums: Counter[FailureKind] = Counter()
    for each in counts:
        sums.update(each)
    return dict(sums)


def _span(values: list[float]) -> dict[str, float | None]:
    if not values:
        return {"start": None, "end": None}
    return {"start": values[0], "end": statistics.fmean(values[-LAST:])}
