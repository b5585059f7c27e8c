"""The figures of a run, read from its directory, and the names in it for people."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from mpo_lite.config import Config
from mpo_lite.errors import FailureKind, failures_in_words
from mpo_lite.jsonl import JsonRow
from mpo_lite.llm.ledger import Ledger
from mpo_lite.run_dir import RunDir

LAST = 3
"""Evaluations, or batches, that an ``end`` figure is the mean of."""
QUOTED_REASONS = 2
"""Objections of the gate that a line quotes."""
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


def run_figures(run: RunDir, config: Config, until: int | None = None) -> JsonRow:
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
        "simulated": config.simulated,
    }


def run_state(run: RunDir, config: Config, batches: int) -> str:
    """``training`` now, ``done``, ``stopped`` before its end, or ``not begun``."""
    done = "done" if batches >= config.steps else "stopped" if batches else "not begun"
    return "training" if run.locked() else done


def changes_in_words(row: JsonRow) -> str:
    """What an accepted row of the lineage changed, by criteria."""
    parts = [f"{kind} {', '.join(row[kind])}" for kind in ("added", "changed", "dropped") if row[kind]]
    return "; ".join(parts) or "weights or guidelines changed"


def reason_in_words(row: JsonRow) -> str:
    """Why a step of the lineage ended as it did; of the gate's objections the first two."""
    reason: str = row["reason"]
    found = [row.get("recheck", {}), *row.get("refused", [])]
    for objections in [[each["text"] for each in one.get("objections", [])] for one in found]:
        whole, more = "; ".join(objections), len(objections) - QUOTED_REASONS
        if more > 0 and reason.endswith(whole):
            quoted = "; ".join(objections[:QUOTED_REASONS])
            return f"{reason.removesuffix(whole)}{quoted}; and {more} more, all in lineage.jsonl"
    return reason


def standing_alarms(metrics: Sequence[JsonRow], lineage: Sequence[JsonRow]) -> list[JsonRow]:
    """The alarms that stand after the last batch.

    Returns:
        Rows of ``name``, ``since`` (the batch from which it has stood) and ``answer``: the last step of the
        meta-judge that was shown it since, and that rewrote the rubric or found it right as it is; or None.
    """
    told: list[JsonRow] = []
    names: list[str] = (metrics[-1].get("alarms") or []) if metrics else []
    for name in names:
        silent = [row["batch"] for row in metrics if name not in (row.get("alarms") or [])]
        since = min(row["batch"] for row in metrics if row["batch"] > max(silent, default=0))
        answers = [row for row in lineage if row["began"] >= since and _answers(row, name)]
        told.append({"name": name, "since": since, "answer": answers[-1] if answers else None})
    return told


def _answers(row: JsonRow, alarm: str) -> bool:
    shown = row["kind"] == "meta" and alarm in row["alarms"]
    return shown and row["status"] in ("accepted", "unchanged")


def standing_in_words(row: JsonRow) -> str:
    """A row of ``standing_alarms`` for people."""
    stands, answer = f"{spaced(row['name'])} since batch {row['since']}", row["answer"]
    if answer is None:
        return f"{stands}, which no meta step has answered"
    outcome = f"{'wrote' if answer['status'] == 'accepted' else 'kept'} v{answer['version']}"
    return f"{stands}, shown to the meta-judge after batch {answer['began']}, which {outcome}"


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


def _accounted(run: RunDir) -> JsonRow:
    """What the run's ledgers account for: calls after its last batch, too."""
    ledger = Ledger()
    for path in run.ledgers().values():
        ledger.count(path)
    return ledger.spend()


def first_part(detail: str, most: int = 1) -> str:
    """An alarm's detail, of which what was seen of many phrases is told of the first alone."""
    parts = detail.split("; ")
    return "; ".join(parts[:most]) + ("; …" if len(parts) > most else "")


def _sums(counts: Iterable[dict[FailureKind, int]]) -> dict[FailureKind, int]:
    sums: Counter[FailureKind] = Counter()
    for each in counts:
        sums.update(each)
    return dict(sums)


def _span(values: list[float]) -> dict[str, float | None]:
    if not values:
        return {"start": None, "end": None}
    return {"start": values[0], "end": statistics.fmean(values[-LAST:])}
