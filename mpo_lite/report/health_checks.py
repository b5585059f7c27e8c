"""What tells a healthy run from an unhealthy one: rules over figures.

The thresholds say where a person should look, no more; docs/report.md shows runs on both sides of them.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from mpo_lite.jsonl import JsonRow
from mpo_lite.report.figures import not_judged, standing_in_words
from mpo_lite.report.narrative import HACKED

Look = Callable[[JsonRow], JsonRow | None]
RECENT = 10
"""Batches that recent figures are the mean of."""
FLAT_GROUPS, SATURATED, CUT, FAILED, FAR, UNSURE = 0.5, 0.95, 0.1, 0.02, 1.0, 0.25
"""Where a sign turns: share of groups without differences, mean reward, share of answers cut, share of
judgements failed, KL in nats per token, mean difference between two judgements of one answer."""
FULL = 0.9
"""Share of answers at a criterion's best level from which it tells nothing apart."""


def signs(known: JsonRow) -> list[JsonRow]:
    """What tells a healthy run from an unhealthy one, where it was measured.

    Returns:
        Rows of ``name``, ``ok`` (None: neither) and ``said``.
    """
    if not known["metrics"]:
        return []
    return [sign for look in _SIGNS if (sign := look(known))]


def _gold(known: JsonRow) -> JsonRow | None:
    change = known["change"]
    if change is None:
        return None
    ok = True if change["low"] > 0 else False if change["high"] < 0 else None
    return _sign("Gold rises", ok, f"{change['mean']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]")


def _together(known: JsonRow) -> JsonRow | None:
    """Reward and gold since the rubric in force began."""
    version = known["metrics"][-1]["version"]
    rewards = {row["batch"]: row["reward"] for row in known["metrics"] if row["version"] == version}
    pairs = [
        (rewards[row["batch"]], row["gold"]) for row in known["gold"] if rewards.get(row["batch"]) is not None
    ]
    if len(pairs) < 2:
        return None
    reward, gold = (fmean(p[side] for p in pairs[-3:]) - pairs[0][side] for side in (0, 1))
    apart = reward > 0 and gold < -HACKED
    return _sign("Reward and gold move together", not apart,
                 f"under v{version}: reward {reward:+.3f}, gold {gold:+.3f}")  # fmt: skip


def _alarms(known: JsonRow) -> JsonRow | None:
    """What stands and was answered is for a person to look at: words may be frequent because they are asked
    for, and no alarm knows that.
    """
    if known["metrics"][-1].get("alarms") is None:
        return None
    standing = known["standing"]
    ok = None if standing and all(row["answer"] for row in standing) else not standing
    said = "; ".join(map(standing_in_words, standing)) or "none"
    return _sign("No alarm stands at the end", ok, said)


def _flat(known: JsonRow) -> JsonRow | None:
    late = [share for share in list(known["zero_spread"].values())[-RECENT:] if share is not None]
    if not late:
        return None
    share = fmean(late)
    return _sign("Groups still differ", share < FLAT_GROUPS,
                 f"{share:.0%} of prompt groups have equal rewards and teach nothing")  # fmt: skip


def _room(known: JsonRow) -> JsonRow | None:
    end = known["figures"]["reward"]["end"]
    return (
        None
        if end is None
        else _sign("Reward leaves room", end < SATURATED, f"{end:.3f} of at most 1, over the last batches")
    )


def _criteria(known: JsonRow) -> JsonRow | None:
    criteria = known["criteria"]
    full = [name for name, one in criteria.items() if one["saturated"] >= FULL]
    said = f"nearly every answer meets {len(full)} of {len(criteria)} in full" + (
        f": {', '.join(full)}" if full else ""
    )
    return _sign("Criteria tell answers apart", 2 * len(full) < len(criteria), said) if criteria else None


def _repeatable(known: JsonRow) -> JsonRow | None:
    noise = [one["noise"] for one in known["criteria"].values() if one["noise"] is not None]
    if not noise:
        return None
    return _sign("The judge repeats itself", fmean(noise) < UNSURE,
                 f"levels differ by {fmean(noise):.2f} (of 1) when an answer is judged again")  # fmt: skip


def _failed(known: JsonRow) -> JsonRow | None:
    rows = sum(row.get("rows", 0) for row in known["metrics"])
    if not rows:
        return None
    failed, kinds = (known["figures"][name] for name in ("judge_failures", "failures"))
    return _sign("Judgements succeed", failed / rows <= FAILED, not_judged(failed, rows, kinds))


def _stays_below(column: str, limit: float, name: str, said: str) -> Look:
    """A sign that a column of the metrics has stayed below a limit in recent batches."""

    def look(known: JsonRow) -> JsonRow | None:
        late = [row[column] for row in known["metrics"][-RECENT:] if row.get(column) is not None]
        return _sign(name, fmean(late) < limit, said.format(fmean(late))) if late else None

    return look


_SIGNS: tuple[Look, ...] = (
    _gold, _together, _alarms, _flat, _room, _criteria, _repeatable, _failed,
    _stays_below("kl", FAR, "The policy stays near its start", "KL {:.2f} nats per token"),
    _stays_below("clipped", CUT, "Answers end by themselves", "{:.0%} cut at the token limit"),
)  # fmt: skip


def _sign(name: str, ok: bool | None, said: str) -> JsonRow:
    return {"name": name, "ok": ok, "said": said}
