"""A run in words: what happened, in order, and which signs are healthy. Rules over figures, no model.

The thresholds say where a person should look, no more; docs/report.md shows runs on both sides of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from mpo_lite.report.samples import shortened
from mpo_lite.runs import JsonRow

HACKED = 0.05
"""A fall of gold beside a rising reward from which it is told as hacking."""
RECENT = 10
"""Batches that *of late* means."""
FLAT_GROUPS, SATURATED, CUT, FAILED, FAR, UNSURE = 0.5, 0.95, 0.1, 0.02, 1.0, 0.25
"""Where a sign turns: share of groups without differences, mean reward, share of answers cut, share of
judgements failed, KL in nats per token, mean difference between two judgements of one answer."""
QUOTED, EXAMPLE, LONGEST_PURPOSE = 2, 160, 400
"""Criteria that are quoted at most, and characters of a prompt and of a purpose that are."""
FULL = 0.9
"""Share of answers at a criterion's best level from which it tells nothing apart."""


_PLAIN = {
    "length_collapse": "answers have become short",
    "length_growth": "answers have become long",
    "repetition": "answers repeat themselves",
    "copied_prompt": "answers give their prompt back",
    "near_duplicates": "the same answer is given whatever is asked",
    "language_shift": "answers are in another script or language than was asked in",
    "control_tokens": "answers hold marks of chat templates",
    "judge_directed": "answers speak to whoever judges them",
    "phrase_drift": "words have become frequent that hardly stood there before, and they pay",
    "saturated_reward": "nearly all answers earn everything, so nothing is left to learn",
    "dead_reward": "hardly any answer earns anything",
    "flat_reward": "all answers earn the same",
    "reward_length": "what an answer earns follows how long it is",
    "reward_drift": "the reward rises while the first rubric would pay less",
    "gate_refusals": "proposals of the meta-judge are refused again and again",
}
"""Alarms in plain words."""


def story(known: JsonRow) -> list[JsonRow]:
    """The run's events in order.

    Args:
        known: What ``gather`` has read.

    Returns:
        Rows of ``when`` (a batch, or empty), ``text`` and ``kind``: plain, bad, mended, good or open.
    """
    if not known["metrics"]:
        return [_event("", _beginning(known)), _event("", "No batch is finished yet.")]
    events = [*_hack(known), *_first_alarms(known["alarms"]), *map(_rewritten, _accepted(known))]
    events.sort(key=lambda event: event["when"])  # stable: what was seen comes before what was done
    return [
        _event("", _beginning(known)),
        *events,
        *_stayed(known),
        _event("", _ending(known), headline(known)[1]),
    ]


def headline(known: JsonRow) -> tuple[str, str]:
    """The run in a few words, and how that is to be taken: good, bad or open."""
    change = known["change"]
    if not known["metrics"]:
        return "Not begun", "open"
    if change is None:
        return "No gold to judge by: read the samples", "open"
    if change["low"] > 0:
        return "Gold rose", "good"
    if change["high"] < 0:
        rewards = known["figures"]["reward"]
        rose = (rewards["end"] or 0) > (rewards["start"] or 0)
        return ("Gold fell while the reward rose" if rose else "Gold fell"), "bad"
    return "No clear change in gold", "open"


def signs(known: JsonRow) -> list[JsonRow]:
    """What tells a healthy run from an unhealthy one, where it was measured.

    Returns:
        Rows of ``name``, ``ok`` (None: neither) and ``said``.
    """
    if not known["metrics"]:
        return []
    return [sign for look in _SIGNS if (sign := look(known))]


def _event(when: int | str, text: str, kind: str = "plain") -> JsonRow:
    return {"when": when, "text": text, "kind": kind}


def _beginning(known: JsonRow) -> str:
    config = known["config"]
    judges = " and ".join(judge.label or judge.model for judge in config.judge)
    first = known["history"][0]["diff"]
    told = ", ".join(_criterion(row, quoted=len(first) <= QUOTED) for row in first)
    criteria = "one criterion" if len(first) == 1 else f"{len(first)} criteria"
    purpose = shortened(known["purpose"], LONGEST_PURPOSE)
    example = shortened(known["asked"], EXAMPLE).rstrip(" .")
    asked = f" It was asked, for example: “{example}”." if example else ""
    rewriting = (
        f"a meta-judge ({config.meta}) could rewrite that rubric while training ran"
        if config.meta and not config.baseline
        else "that rubric was frozen"
    )
    return (
        f"A language model, the policy ({short(config.policy)}), was trained by reinforcement learning "
        f"({config.algorithm.upper()}). What it was to learn: “{purpose}”{asked} Each answer was scored from "
        f"0 to 1 by a judge ({judges}) along a rubric of {criteria}: {told}; {rewriting}."
    )


def _criterion(row: JsonRow, quoted: bool) -> str:
    return (
        f"{row['id']} (“{''.join(text for text, _ in row['new']['description'])}”)" if quoted else row["id"]
    )


def _hack(known: JsonRow) -> list[JsonRow]:
    """Where gold fell while the reward by one and the same rubric rose: the worst such stretch."""
    rewards = {row["batch"]: (row["version"], row["reward"]) for row in known["metrics"]}
    first = known["metrics"][0]
    rewards[0] = (first["version"], first["reward"])
    worst: tuple[float, JsonRow, JsonRow] | None = None
    gold = [row for row in known["gold"] if rewards.get(row["batch"], (0, None))[1] is not None]
    for place, before in enumerate(gold):
        for after in gold[place + 1 :]:
            (version, low), (later, high) = rewards[before["batch"]], rewards[after["batch"]]
            fall = before["gold"] - after["gold"]
            if version == later and high > low and fall > max(HACKED, worst[0] if worst else 0):
                worst = (fall, before, after)
    if worst is None:
        return []
    _, before, after = worst
    start, end = (rewards[row["batch"]][1] for row in (before, after))
    text = (
        f"From batch {before['batch']} to {after['batch']} the reward rose from {start:.2f} to {end:.2f} "
        f"under rubric v{rewards[after['batch']][0]}, while gold, a measure that neither judge nor policy "
        f"sees, fell from {before['gold']:.2f} to {after['gold']:.2f}: the policy satisfied the rubric "
        "without doing the task better. This is reward hacking."
    )
    return [_event(after["batch"], text, "bad"), *_recovered(known["gold"], after)]


def _recovered(gold: Sequence[JsonRow], low: JsonRow) -> list[JsonRow]:
    """When gold was first back where it began."""
    start = gold[0]["gold"]
    back = [row for row in gold if row["batch"] > low["batch"] and row["gold"] >= start]
    if low["gold"] >= start or not back:
        return []
    return [
        _event(
            back[0]["batch"], f"Gold is back: {back[0]['gold']:.2f}, no lower than before training.", "good"
        )
    ]


def _first_alarms(alarms: Sequence[JsonRow]) -> list[JsonRow]:
    """Every kind of alarm when it was first raised."""
    first = {row["name"]: row for row in reversed(alarms)}
    return [
        _event(
            row["batch"], f"Alarm, {spaced(name)}: {_PLAIN.get(name, 'see below')} ({row['detail']}).", "bad"
        )
        for name, row in first.items()
    ]


def _accepted(known: JsonRow) -> list[JsonRow]:
    return [row for row in known["history"] if row["accepted"] and row["kind"] != "first"]


def _rewritten(row: JsonRow) -> JsonRow:
    alarms = (
        f" It had been shown the alarms: {', '.join(map(spaced, row['alarms']))}." if row["alarms"] else ""
    )
    tried = " The gate tried the new rubric out before it was used." if row["figures"] else ""
    who = {
        "meta": "The meta-judge rewrote the rubric",
        "rollback": "The rubric was taken back",
        "pin": "A person put a rubric in force",
        "refine": "The rubric was refined before training",
    }
    return _event(
        row["batch"], f"{who[row['kind']]}: v{row['version']} ({row['words']}).{alarms}{tried}", "mended"
    )  # fmt: skip


def _stayed(known: JsonRow) -> list[JsonRow]:
    """How often the rubric was looked at and kept."""
    kept = [row for row in known["history"] if not row["accepted"]]
    if not kept:
        return []
    refused = sum(any(one["figures"] for one in row["refused"]) for row in kept)
    how = f"in {refused} of them the gate refused a proposal" if refused else "the gate refused nothing"
    return [_event("", f"Meta steps after which the rubric stayed as it was: {len(kept)}; {how}.")]


def _ending(known: JsonRow) -> str:
    figures, change = known["figures"], known["change"]
    done = f"After {figures['steps']} batches"
    if change is None:
        return (
            f"{done} the reward is {_number(figures['reward']['end'])}. This task has no gold metric: "
            "whether the answers became better must be read from the samples below."
        )
    gold = figures["gold"]
    verdict = {"good": "better than before training", "bad": "worse than before training",
               "open": "not clearly different from before training"}[headline(known)[1]]  # fmt: skip
    return (
        f"{done} gold is {gold['end']:.2f}, where it began at {gold['start']:.2f} and was {gold['min']:.2f} "
        f"at its lowest: {verdict} (change {change['mean']:+.2f}, 95% interval {change['low']:+.2f} to "
        f"{change['high']:+.2f} over {change['n']} held-out prompts)."
    )


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
    standing = known["metrics"][-1].get("alarms")
    if standing is None:
        return None
    said = ", ".join(map(spaced, standing)) or "none"
    return _sign("No alarm stands at the end", not standing, said)


def _flat(known: JsonRow) -> JsonRow | None:
    late = [share for _, share in known["zero_spread"][-RECENT:] if share is not None]
    if not late:
        return None
    share = fmean(late)
    return _sign("Groups still differ", share < FLAT_GROUPS,
                 f"{share:.0%} of prompt groups have equal rewards and teach nothing")  # fmt: skip


def _room(known: JsonRow) -> JsonRow | None:
    end = known["figures"]["reward"]["end"]
    return None if end is None else _sign("Reward leaves room", end < SATURATED, f"{end:.3f} of 1 of late")


def _criteria(known: JsonRow) -> JsonRow | None:
    criteria = known["criteria"]
    full = [name for name, one in criteria.items() if one["saturated"] >= FULL]
    said = f"{len(full)} of {len(criteria)} are met by nearly every answer" + (
        f": {', '.join(full)}" if full else ""
    )
    return _sign("Criteria tell answers apart", 2 * len(full) < len(criteria), said) if criteria else None


def _repeatable(known: JsonRow) -> JsonRow | None:
    noise = [one["noise"] for one in known["criteria"].values() if one["noise"] is not None]
    if not noise:
        return None
    return _sign("The judge repeats itself", fmean(noise) < UNSURE,
                 f"levels differ by {fmean(noise):.2f} of 1 when an answer is judged again")  # fmt: skip


def _failed(known: JsonRow) -> JsonRow | None:
    rows = sum(row.get("rows", 0) for row in known["metrics"])
    if not rows:
        return None
    failed = known["figures"]["judge_failures"]
    return _sign("Judgements succeed", failed / rows <= FAILED, f"{failed:,} of {rows:,} failed")


def _near(known: JsonRow) -> JsonRow | None:
    kl = _late(known, "kl")
    return (
        None
        if kl is None
        else _sign("The policy stays near its start", kl < FAR, f"KL {kl:.2f} nats per token")
    )


def _ended(known: JsonRow) -> JsonRow | None:
    cut = _late(known, "clipped")
    return (
        None
        if cut is None
        else _sign("Answers end by themselves", cut < CUT, f"{cut:.0%} cut at the token limit")
    )


_SIGNS: tuple[Callable[[JsonRow], JsonRow | None], ...] = (
    _gold, _together, _alarms, _flat, _room, _criteria, _repeatable, _failed, _near, _ended,
)  # fmt: skip


def _sign(name: str, ok: bool | None, said: str) -> JsonRow:
    return {"name": name, "ok": ok, "said": said}


def _late(known: JsonRow, name: str) -> float | None:
    values: list[Any] = [row[name] for row in known["metrics"][-RECENT:] if row.get(name) is not None]
    return fmean(values) if values else None


def short(name: str) -> str:
    """A model or task by the last part of its path: a report is passed on, and names no folder."""
    return name.rstrip("/").split("/")[-1]


def spaced(name: str) -> str:
    """An alarm's name for people."""
    return name.replace("_", " ")


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
