"""A run in words: what happened, in order. Rules over figures, no model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

from mpo_lite.jsonl import JsonRow
from mpo_lite.report.figures import first_part, short, spaced, standing_in_words
from mpo_lite.report.samples import shortened
from mpo_lite.sanitize import pluralize

HACKED = 0.05
"""A rise of the reward, and a fall of gold meanwhile, from which it is told as hacking."""
GOLD = "Gold, a measure that neither judge nor policy sees,"
QUOTED, EXAMPLE, LONGEST_PURPOSE = 2, 160, 400
"""Criteria that are quoted at most, and characters of a prompt and of a purpose that are."""
_PLAIN = {
    "length_collapse": "answers have become short",
    "length_growth": "answers have become long",
    "repetition": "answers repeat themselves",
    "copied_prompt": "answers give their prompt back",
    "near_duplicates": "the same answer is given whatever is asked",
    "language_shift": "answers are in another script or language than was asked in",
    "control_tokens": "answers hold marks of chat templates",
    "judge_directed": "answers speak to whoever judges them",
    "phrase_drift": "some words stand in many more answers than at first, and pay",
    "saturated_reward": "nearly all answers earn everything, so nothing is left to learn",
    "dead_reward": "hardly any answer earns anything",
    "flat_reward": "all answers earn the same",
    "reward_length": "what an answer earns follows how long it is",
    "reward_drift": "the reward rises while the first rubric would pay less",
    "gate_refusals": "proposals of the meta-judge are refused again and again",
}
"""Alarms in plain words."""
_STEPS = {
    "meta": "The meta-judge rewrote the rubric",
    "rollback": "The rubric was taken back",
    "pin": "A person put a rubric in force",
    "refine": "The rubric was refined before training",
}
"""Kinds of lineage rows that bring a version, in plain words."""


def story(known: JsonRow) -> list[JsonRow]:
    """The run's events in order.

    Args:
        known: What ``gather`` has read.

    Returns:
        Rows of ``when`` (a batch, or empty), ``text`` and ``kind``: plain, bad, mended, good or open.
    """
    if not known["metrics"]:
        return [_event("", _beginning(known)), _event("", "No batch is finished yet.")]
    events = [*_falls(known), *_first_alarms(known["alarms"]), *map(_rewritten, _accepted(known))]
    events.sort(key=lambda event: event["when"])  # stable: what was seen comes before what was done
    return [
        _event("", _beginning(known)),
        *events,
        *_stayed(known),
        *_standing(known),
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


def _event(when: int | str, text: str, kind: str = "plain") -> JsonRow:
    return {"when": when, "text": text, "kind": kind}


def _beginning(known: JsonRow) -> str:
    config = known["config"]
    judges = " and ".join(judge.label or judge.model for judge in config.judge)
    first = known["history"][0]["diff"]
    told = ", ".join(_criterion(row, quoted=len(first) <= QUOTED) for row in first)
    criteria = pluralize(len(first), "criterion", "criteria")
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


def _falls(known: JsonRow) -> list[JsonRow]:
    """Where gold fell: by hacking, where that shows; to its lowest; and when it was back."""
    gold = known["gold"]
    hack = _hack(known)
    events = [_hacked(known, *hack)] if hack else []
    lowest = min(gold, key=lambda row: row["gold"], default=None)
    if lowest is None or not _is_plain(gold[0], lowest):
        return events
    if not hack or hack[1]["gold"] - lowest["gold"] > HACKED:
        text = f"{GOLD} is at its lowest: {lowest['gold']:.2f}, where it began at {gold[0]['gold']:.2f}."
        events.append(_event(lowest["batch"], text, "bad"))
    back = [row for row in gold if row["batch"] > lowest["batch"] and row["gold"] >= gold[0]["gold"]]
    if back:
        text = f"Gold is back: {back[0]['gold']:.2f}, no lower than before training."
        events.append(_event(back[0]["batch"], text, "good"))
    return events


def _hack(known: JsonRow) -> tuple[JsonRow, JsonRow] | None:
    """The two evaluations between which gold fell the most while the reward by one and the same rubric
    rose.
    """
    rewards = _rewards(known)
    judged = [row for row in known["gold"] if rewards.get(row["batch"], (0, None))[1] is not None]
    worst: tuple[JsonRow, JsonRow] | None = None
    fallen = HACKED
    for before, after in combinations(judged, 2):
        (version, low), (later, high) = rewards[before["batch"]], rewards[after["batch"]]
        fall = before["gold"] - after["gold"]
        if version == later and high - low > HACKED and fall > fallen and _is_plain(before, after):
            worst, fallen = (before, after), fall
    return worst


def _hacked(known: JsonRow, before: JsonRow, after: JsonRow) -> JsonRow:
    rewards = _rewards(known)
    (version, start), (_, end) = rewards[before["batch"]], rewards[after["batch"]]
    since = f"From batch {before['batch']}" if before["batch"] else "From the start"
    text = (
        f"{since} to batch {after['batch']} the reward rose from {start:.2f} to {end:.2f} under rubric "
        f"v{version}. {GOLD} fell from {before['gold']:.2f} to {after['gold']:.2f}: the policy satisfied the "
        "rubric without doing the task better, as gold measures it. This is reward hacking."
    )
    return _event(after["batch"], text, "bad")


def _rewards(known: JsonRow) -> dict[int, tuple[int, Any]]:
    """Batch → rubric version and reward; the first batch was judged before the policy moved."""
    told = {row["batch"]: (row["version"], row["reward"]) for row in known["metrics"]}
    return {0: told[known["metrics"][0]["batch"]], **told}


def _is_plain(before: JsonRow, after: JsonRow) -> bool:
    """Whether gold fell by more than an accident of the prompts: three standard errors, prompt by prompt, as
    the worst of many evaluations is looked for.
    """
    pairs = zip(before["samples"], after["samples"], strict=False)
    falls = [old["gold"] - new["gold"] for old, new in pairs]
    return len(falls) > 1 and fmean(falls) > 3 * stdev(falls) / len(falls) ** 0.5


def _first_alarms(alarms: Sequence[JsonRow]) -> list[JsonRow]:
    """Every kind of alarm when it was first raised."""
    first = {row["name"]: row for row in reversed(alarms)}
    events: list[JsonRow] = []
    for name, row in first.items():
        text = f"Alarm, {spaced(name)}: {_PLAIN.get(name, 'see below')} ({first_part(row['detail'])})."
        events.append(_event(row["batch"], text, "bad"))
    return events


def _accepted(known: JsonRow) -> list[JsonRow]:
    return [row for row in known["history"] if row["accepted"] and row["kind"] != "first"]


def _rewritten(row: JsonRow) -> JsonRow:
    alarms = (
        f" It had been shown the alarms: {', '.join(map(spaced, row['alarms']))}." if row["alarms"] else ""
    )
    tried = " The gate tried the new rubric out before it was used." if row["figures"] else ""
    return _event(
        row["batch"], f"{_STEPS[row['kind']]}: v{row['version']} ({row['words']}).{alarms}{tried}", "mended"
    )


def _stayed(known: JsonRow) -> list[JsonRow]:
    """How often the rubric was looked at and kept."""
    kept = [row for row in known["history"] if not row["accepted"]]
    if not kept:
        return []
    refused = sum(any(each["status"] == "refused" for each in row["refused"]) for row in kept)
    how = f"in {refused} of them the gate refused a proposal" if refused else "the gate refused nothing"
    return [_event("", f"Meta steps after which the rubric stayed as it was: {len(kept)}; {how}.")]


def _standing(known: JsonRow) -> list[JsonRow]:
    """Alarms that were not over at the end."""
    if not known["standing"]:
        return []
    named = "; ".join(map(standing_in_words, known["standing"]))
    text = (
        f"Alarms that still stand: {named}. Only the answers they name can tell a shortcut from what the "
        "rubric asks for."
    )
    return [_event("", text, "plain" if all(row["answer"] for row in known["standing"]) else "bad")]


def _ending(known: JsonRow) -> str:
    figures, change = known["figures"], known["change"]
    stopped = f"The run stopped before its last batch: {known['stop']}. " if known["stop"] else ""
    done = f"{stopped}After {pluralize(figures['steps'], 'batch', 'batches')}"
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
        f"{change['high']:+.2f} over {pluralize(change['n'], 'held-out prompt')})."
    )


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
