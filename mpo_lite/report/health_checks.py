"""Health checks of a run: rules over its figures.

The thresholds say where a person should look, no more; docs/report.md shows runs on both sides of them.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import TypedDict

from mpo_lite.report.charts import measure_zero_spread
from mpo_lite.report.criteria import RECENT, measure_criteria
from mpo_lite.report.figures import describe_active_alarm, describe_failures
from mpo_lite.report.narrative import HACKED
from mpo_lite.report.run_data import RunData

FLAT_GROUPS, SATURATED, CUT, FAILED, FAR, UNSURE = 0.5, 0.95, 0.1, 0.02, 1.0, 0.25
"""Where a check fails: share of groups without differences, mean reward, share of answers cut, share of
judgements failed, KL in nats per token, mean difference between two judgements of one answer."""
FULL = 0.9
"""Share of answers at a criterion's best level from which on it no longer distinguishes answers."""


class HealthCheck(TypedDict):
    """What a check came to.

    Attributes:
        name: What should hold.
        ok: Whether it holds; None where only a person can tell.
        detail: What was measured.
    """

    name: str
    ok: bool | None
    detail: str


Check = Callable[[RunData], HealthCheck | None]
"""Checks a run with at least one batch; None where what it needs was not measured."""


def run_health_checks(data: RunData) -> list[HealthCheck]:
    """The checks that can be done, in the page's order; none before the first batch."""
    if not data.metrics:
        return []
    return [result for check in _CHECKS if (result := check(data))]


def _check_gold(data: RunData) -> HealthCheck | None:
    change = data.gold_change
    if change is None:
        return None
    ok = True if change.low > 0 else False if change.high < 0 else None
    return _result("Gold rises", ok, f"{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]")


def _check_divergence(data: RunData) -> HealthCheck | None:
    """Reward and gold since the current rubric began."""
    version = data.metrics[-1].version
    rewards = {row.batch: row.judged_reward for row in data.metrics if row.version == version}
    pairs = [(reward, row.gold) for row in data.gold if (reward := rewards.get(row.batch)) is not None]
    if len(pairs) < 2:
        return None
    reward, gold = (fmean(pair[side] for pair in pairs[-3:]) - pairs[0][side] for side in (0, 1))
    diverge = reward > 0 and gold < -HACKED
    return _result("Reward and gold move together", not diverge,
                   f"under v{version}: reward {reward:+.3f}, gold {gold:+.3f}")  # fmt: skip


def _check_alarms(data: RunData) -> HealthCheck | None:
    if "alarms" not in data.metrics[-1].model_fields_set:
        return None
    active = data.active_alarms
    # An alarm that the meta-judge has answered may be no fault: words can be frequent because the rubric
    # asks for them. Only a person can tell.
    ok = None if active and all(alarm.answer for alarm in active) else not active
    return _result("No active alarm at the end", ok, "; ".join(map(describe_active_alarm, active)) or "none")


def _check_groups(data: RunData) -> HealthCheck | None:
    recent = [share for share in list(measure_zero_spread(data).values())[-RECENT:] if share is not None]
    if not recent:
        return None
    share = fmean(recent)
    return _result("Rewards differ within groups", share < FLAT_GROUPS,
                   f"{share:.0%} of prompt groups have equal rewards and teach nothing")  # fmt: skip


def _check_saturation(data: RunData) -> HealthCheck | None:
    end = data.figures["reward"]["end"]
    if end is None:
        return None
    return _result("Reward not saturated", end < SATURATED, f"{end:.3f} of at most 1 in the last batches")


def _check_criteria(data: RunData) -> HealthCheck | None:
    criteria = measure_criteria(data)
    if not criteria:
        return None
    full = [name for name, stats in criteria.items() if stats.saturated >= FULL]
    detail = f"{len(full)} of {len(criteria)} are fully met by nearly every answer"
    detail += f": {', '.join(full)}" if full else ""
    return _result("Criteria distinguish answers", 2 * len(full) < len(criteria), detail)


def _check_noise(data: RunData) -> HealthCheck | None:
    noise = [stats.noise for stats in measure_criteria(data).values() if stats.noise is not None]
    if not noise:
        return None
    return _result("Judge is self-consistent", fmean(noise) < UNSURE,
                   f"two judgements of an answer differ by {fmean(noise):.2f} of 1")  # fmt: skip


def _check_failures(data: RunData) -> HealthCheck | None:
    judged, failed = data.figures["rows"], data.figures["judge_failures"]
    if not judged:
        return None
    detail = describe_failures(failed, judged, data.figures["failures"])
    return _result("Judgements succeed", failed / judged <= FAILED, detail)


def _check_column(column: str, limit: float, name: str, detail: str) -> Check:
    """A check that a column of the metrics stayed below a limit in recent batches."""

    def check(data: RunData) -> HealthCheck | None:
        values = (getattr(row, column) for row in data.metrics[-RECENT:])
        recent = [value for value in values if value is not None]
        return _result(name, fmean(recent) < limit, detail.format(fmean(recent))) if recent else None

    return check


_CHECKS: tuple[Check, ...] = (
    _check_gold, _check_divergence, _check_alarms, _check_groups, _check_saturation, _check_criteria,
    _check_noise, _check_failures,
    _check_column("kl", FAR, "Policy stays close to the initial policy", "KL {:.2f} nats per token"),
    _check_column("clipped", CUT, "Answers end before the token limit", "{:.0%} are truncated"),
)  # fmt: skip


def _result(name: str, ok: bool | None, detail: str) -> HealthCheck:
    return {"name": name, "ok": ok, "detail": detail}
