"""The figures of a run, read from its directory, and the words for what its rows say."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mpo_lite.config import Config
from mpo_lite.errors import FailureKind, failures_in_words
from mpo_lite.jsonl import JsonRow
from mpo_lite.llm.ledger import Ledger
from mpo_lite.records import Gold, Metrics, Step
from mpo_lite.report.row_reader import read_records
from mpo_lite.run_dir import RunDir

LAST = 3
"""Evaluations, or batches, that an ``end`` figure is the mean of."""
QUOTED_REASONS = 2
"""Objections of the gate that a line quotes."""
_SPEND = (
    "judge_calls",
    "gate_calls",
    "meta_calls",
    "audit_calls",
    "cache_hits",
    "tokens_spent",
    "tokens_cached",
    "usd",
    "unpriced",
    "unmetered",
)


@dataclass(frozen=True)
class ActiveAlarm:
    """An alarm that is still raised after the last batch.

    Attributes:
        name: The alarm.
        since: The batch from which on it has been raised without a break.
        answer: The last meta step since then that was shown the alarm and rewrote the rubric, or found it
            right as it is; None where there was none.
    """

    name: str
    since: int
    answer: Step | None


def compute_figures(run: RunDir, config: Config, until: int | None = None) -> JsonRow:
    """The figures of a run's first batches.

    Args:
        run: The run.
        config: Its configuration.
        until: Batches that count; None for all.

    Returns:
        ``start`` is the first value, ``end`` the mean of the last three; None where there is none. Rewards of
        different rubric versions are not comparable, so those of ``reward`` are all under its ``version``,
        the last that the judge used. ``usd`` is None where a price is unknown.
    """
    metrics = [row for row in read_records(run, run.metrics, Metrics) if until is None or row.batch <= until]
    evaluations = [row for row in read_records(run, run.gold, Gold) if until is None or row.batch <= until]
    gold = [row.gold for row in evaluations]
    last = metrics[-1] if metrics else None
    return {
        "run": str(run.path),
        "seed": config.seed,
        "steps": len(metrics),
        "rubric_version": last.version if last else 0,
        "reward": _summarize_rewards(metrics),
        "gold": {**_start_and_end(gold), "min": min(gold)} if gold else None,
        **{name: getattr(last, name) if last else 0 for name in _SPEND},
        # The ledgers also hold the calls after the last batch, but do not say which batch a call was for.
        **(_read_spend(run) if until is None else {}),
        "rows": sum(row.rows for row in metrics),
        "judge_failures": sum(row.judge_failures for row in metrics),
        "failures": _sum_counts(row.failures for row in metrics),
        "simulated": config.simulated,
    }


def describe_state(run: RunDir, config: Config, batches: int) -> str:
    """``training`` or ``serving`` now, ``done``, ``stopped`` before its last batch, or ``not begun``."""
    done = "done" if batches >= config.steps else "stopped" if batches else "not begun"
    if not run.locked():
        return done
    return "serving" if run.begun_by == "serve" else "training"


def describe_changes(added: Sequence[str], changed: Sequence[str], dropped: Sequence[str]) -> str:
    """What an accepted step changed, by the ids of criteria."""
    changes = {"added": added, "changed": changed, "dropped": dropped}
    parts = [f"{kind} {', '.join(names)}" for kind, names in changes.items() if names]
    return "; ".join(parts) or "weights or guidelines changed"


def describe_reason(reason: str, objections: Iterable[Sequence[str]]) -> str:
    """Why a step ended as it did.

    Args:
        reason: As it is in the lineage: it may end with all objections to one of the rubrics.
        objections: The gate's objections to each rubric that the step looked at.

    Returns:
        The reason with only the first of many objections.
    """
    for texts in objections:
        quoted, more = "; ".join(texts), len(texts) - QUOTED_REASONS
        if more > 0 and reason.endswith(quoted):
            first = "; ".join(texts[:QUOTED_REASONS])
            return f"{reason.removesuffix(quoted)}{first}; and {more} more, see lineage.jsonl"
    return reason


def describe_step(step: Step) -> str:
    """What an accepted step changed, or why another one left the rubric as it was."""
    if step.status == "accepted":
        return describe_changes(step.added, step.changed, step.dropped)
    return describe_step_reason(step)


def describe_step_reason(step: Step) -> str:
    """Why a step of the lineage ended as it did; see ``describe_reason``."""
    sources = (step.recheck, *step.refused)
    return describe_reason(
        step.reason, [[objection.text for objection in source.objections] for source in sources]
    )


def find_active_alarms(metrics: Sequence[Metrics], lineage: Sequence[Step]) -> list[ActiveAlarm]:
    """The alarms that are still raised after the last batch."""
    active: list[ActiveAlarm] = []
    for name in metrics[-1].alarms if metrics else []:
        last_silent = max((row.batch for row in metrics if name not in row.alarms), default=0)
        since = min(row.batch for row in metrics if row.batch > last_silent)
        answers = [step for step in lineage if step.began >= since and _answers(step, name)]
        active.append(ActiveAlarm(name, since, answers[-1] if answers else None))
    return active


def _answers(step: Step, alarm: str) -> bool:
    shown = step.kind == "meta" and alarm in step.alarms
    return shown and step.status in ("accepted", "unchanged")


def describe_active_alarm(alarm: ActiveAlarm) -> str:
    """Since when an alarm has been raised, and what the meta-judge did about it."""
    active, answer = f"{format_alarm_name(alarm.name)} since batch {alarm.since}", alarm.answer
    if answer is None:
        return f"{active}, not answered by any meta step"
    outcome = f"{'wrote' if answer.status == 'accepted' else 'kept'} v{answer.version}"
    return f"{active}, shown to the meta-judge after batch {answer.began}, which {outcome}"


def describe_failures(failed: int, answers: int, kinds: Mapping[FailureKind, int]) -> str:
    """How many answers a judge failed on, and why, e.g. ``9 of 24 not judged: 7 timed out, 2 cut off``."""
    words = failures_in_words(kinds)
    return f"{failed:,} of {answers:,} not judged" + (f": {words}" if words else "")


def strip_folders(name: str) -> str:
    """A model or task by the last part of its path: a report is passed on, and names no folder."""
    return name.rstrip("/").split("/")[-1]


def format_alarm_name(name: str) -> str:
    """An alarm's name as people read it."""
    return name.replace("_", " ")


def shorten_detail(detail: str, most: int = 1) -> str:
    """The first parts of an alarm's detail, which lists many phrases."""
    parts = detail.split("; ")
    return "; ".join(parts[:most]) + ("; …" if len(parts) > most else "")


def _read_spend(run: RunDir) -> JsonRow:
    ledger = Ledger()
    for path in run.ledgers().values():
        ledger.count(path)
    return ledger.spend()


def _sum_counts(counts: Iterable[dict[FailureKind, int]]) -> dict[FailureKind, int]:
    sums: Counter[FailureKind] = Counter()
    for batch_counts in counts:
        sums.update(batch_counts)
    return dict(sums)


def _summarize_rewards(metrics: Sequence[Metrics]) -> JsonRow:
    rewards = [(row.version, row.judged_reward) for row in metrics if row.judged_reward is not None]
    version = rewards[-1][0] if rewards else None
    return {"version": version, **_start_and_end([reward for number, reward in rewards if number == version])}


def _start_and_end(values: list[float]) -> dict[str, float | None]:
    if not values:
        return {"start": None, "end": None}
    return {"start": values[0], "end": statistics.fmean(values[-LAST:])}
