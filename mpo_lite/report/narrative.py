"""A run in words: what happened, in order. Written by rules over its figures; no model is asked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean, stdev
from typing import Literal, TypedDict

from mpo_lite.records import AlarmRow, Gold, Step
from mpo_lite.report.figures import (
    describe_active_alarm,
    describe_step,
    format_alarm_name,
    shorten_detail,
    strip_folders,
)
from mpo_lite.report.run_data import RunData
from mpo_lite.report.samples import show_text
from mpo_lite.rubric import Criterion
from mpo_lite.sanitize import pluralize

HACKED = 0.05
"""A rise of the reward with a fall of gold is called hacking if both are larger than this."""
GOLD = "Gold, which neither judge nor policy sees,"
QUOTED, EXAMPLE, LONGEST_PURPOSE = 2, 160, 400
"""Criteria that are quoted at most, and characters that are quoted of a prompt and of a purpose."""
_PLAIN = {
    "length_collapse": "answers have become short",
    "length_growth": "answers have become long",
    "repetition": "answers repeat themselves",
    "copied_prompt": "answers copy their prompt",
    "near_duplicates": "different prompts get the same answer",
    "language_shift": "answers are in another script or language than their prompt",
    "control_tokens": "answers contain tokens of chat templates",
    "judge_directed": "answers address the judge",
    "phrase_drift": "some phrases are far more frequent than at first, and are rewarded",
    "saturated_reward": "nearly all answers get the maximum reward, so nothing is left to learn",
    "dead_reward": "hardly any answer is rewarded",
    "flat_reward": "all answers get the same reward",
    "reward_length": "the reward follows the length of the answer",
    "reward_drift": "the reward rises while the score under the first rubric falls",
    "gate_refusals": "the gate keeps rejecting the meta-judge's proposals",
}
"""Alarms in plain words."""
_STEPS = {
    "meta": "The meta-judge rewrote the rubric",
    "rollback": "The rubric was rolled back",
    "pin": "A person pinned a rubric",
    "refine": "The rubric was refined before training",
}
"""Kinds of steps that publish a version, in plain words."""


Kind = Literal["plain", "bad", "fixed", "good", "open"]


class Event(TypedDict):
    """Something that happened in a run.

    Attributes:
        when: The batch after which it did; empty for what is true of the whole run.
        text: A sentence or a few.
        kind: How the page shows it.
    """

    when: int | Literal[""]
    text: str
    kind: Kind


Mood = Literal["good", "bad", "open"]


def write_narrative(data: RunData) -> list[Event]:
    """The run's events, in order."""
    if not data.metrics:
        return [_event("", _describe_setup(data)), _event("", "No batch has finished yet.")]
    events = [
        *_find_falls(data),
        *_find_first_alarms(data.alarms),
        *map(_describe_rewrite, data.accepted_steps),
    ]
    # The sort is stable, so what was seen at a batch stays before what was done about it.
    events.sort(key=lambda event: event["when"] or 0)
    return [
        _event("", _describe_setup(data)),
        *events,
        *_describe_kept_rubrics(data),
        *_describe_active_alarms(data),
        _event("", _describe_outcome(data), write_headline(data)[1]),
    ]


def write_headline(data: RunData) -> tuple[str, Mood]:
    """The run in a few words, and whether that is good, bad or open."""
    change = data.gold_change
    if not data.metrics:
        return "Not started", "open"
    if change is None:
        return "No gold metric: read the samples", "open"
    if change.low > 0:
        return "Gold rose", "good"
    if change.high < 0:
        rewards = data.figures["reward"]
        rose = (rewards["end"] or 0) > (rewards["start"] or 0)
        return ("Gold fell while the reward rose" if rose else "Gold fell"), "bad"
    return "No clear change in gold", "open"


def _event(when: int | Literal[""], text: str, kind: Kind = "plain") -> Event:
    return {"when": when, "text": text, "kind": kind}


def _describe_setup(data: RunData) -> str:
    config = data.config
    judges = " and ".join(judge.label or judge.model for judge in config.judge)
    first = data.versions[0].rubric.criteria
    named = ", ".join(_name_criterion(criterion, quoted=len(first) <= QUOTED) for criterion in first)
    criteria = pluralize(len(first), "criterion", "criteria")
    purpose = show_text(data.purpose, LONGEST_PURPOSE)
    example = show_text(data.rollouts[0].prompt if data.rollouts else "", EXAMPLE).rstrip(" .")
    asked = f" An example of its prompts: “{example}”." if example else ""
    rewriting = (
        f"a meta-judge ({config.meta.model}) could rewrite this rubric during training"
        if config.meta and not config.baseline
        else "this rubric was frozen"
    )
    policy = strip_folders(config.policy)
    return (
        f"A language model, the policy ({policy}), was trained by reinforcement learning "
        f"({config.algorithm.upper()}). Its task: “{purpose}”{asked} Each answer was scored from 0 to 1 by a "
        f"judge ({judges}) by a rubric of {criteria}: {named}; {rewriting}."
    )


def _name_criterion(criterion: Criterion, quoted: bool) -> str:
    return f"{criterion.id} (“{criterion.description}”)" if quoted else criterion.id


def _find_falls(data: RunData) -> list[Event]:
    """Where gold fell: by hacking, where that shows; to its lowest; and when it was back."""
    gold = data.gold
    hack = _find_hack(data)
    events = [_describe_hack(data, *hack)] if hack else []
    lowest = min(gold, key=lambda row: row.gold, default=None)
    if lowest is None or not _is_clear_fall(gold[0], lowest):
        return events
    if not hack or hack[1].gold - lowest.gold > HACKED:
        text = f"{GOLD} is at its lowest: {lowest.gold:.2f}, down from {gold[0].gold:.2f} before training."
        events.append(_event(lowest.batch, text, "bad"))
    back = [row for row in gold if row.batch > lowest.batch and row.gold >= gold[0].gold]
    if back:
        text = f"Gold has recovered: {back[0].gold:.2f}, no lower than before training."
        events.append(_event(back[0].batch, text, "good"))
    return events


def _find_hack(data: RunData) -> tuple[Gold, Gold] | None:
    """The two evaluations between which gold fell the most while the reward by one and the same rubric
    rose.
    """
    rewards = _find_rewards(data)
    worst: tuple[Gold, Gold] | None = None
    largest = HACKED
    for before, after in combinations((row for row in data.gold if row.batch in rewards), 2):
        (version, low), (later, high) = rewards[before.batch], rewards[after.batch]
        fall = before.gold - after.gold
        if version == later and high - low > HACKED and fall > largest and _is_clear_fall(before, after):
            worst, largest = (before, after), fall
    return worst


def _describe_hack(data: RunData, before: Gold, after: Gold) -> Event:
    rewards = _find_rewards(data)
    (version, start), (_, end) = rewards[before.batch], rewards[after.batch]
    since = f"From batch {before.batch}" if before.batch else "From the start"
    text = (
        f"{since} to batch {after.batch} the reward rose from {start:.2f} to {end:.2f} under rubric "
        f"v{version}. {GOLD} fell from {before.gold:.2f} to {after.gold:.2f}: the policy satisfied the "
        "rubric without doing the task better, as measured by gold. This is reward hacking."
    )
    return _event(after.batch, text, "bad")


def _find_rewards(data: RunData) -> dict[int, tuple[int, float]]:
    """Batch → rubric version and reward, where there is one."""
    rewards = {
        row.batch: (row.version, row.judged_reward) for row in data.metrics if row.judged_reward is not None
    }
    # The first batch was generated before the policy moved, so its reward is also that before training.
    first = rewards.get(data.metrics[0].batch)
    return {0: first, **rewards} if first else rewards


def _is_clear_fall(before: Gold, after: Gold) -> bool:
    """Whether gold fell by more than chance explains, prompt by prompt."""
    falls = [old.gold - new.gold for old, new in zip(before.samples, after.samples, strict=False)]
    # Three standard errors instead of two: the worst of many evaluations is picked.
    return len(falls) > 1 and fmean(falls) > 3 * stdev(falls) / len(falls) ** 0.5


def _find_first_alarms(alarms: Sequence[AlarmRow]) -> list[Event]:
    """Every kind of alarm when it was first raised."""
    first = {alarm.name: alarm for alarm in reversed(alarms)}
    events: list[Event] = []
    for name, alarm in first.items():
        meaning = _PLAIN.get(name, "see below")
        text = f"Alarm, {format_alarm_name(name)}: {meaning} ({shorten_detail(alarm.detail)})."
        events.append(_event(alarm.batch, text, "bad"))
    return events


def _describe_rewrite(step: Step) -> Event:
    shown = ", ".join(map(format_alarm_name, step.alarms))
    alarms = f" It was shown these alarms: {shown}." if shown else ""
    checked = " The gate tested the new rubric before it was used." if step.gate else ""
    text = f"{_STEPS[step.kind]}: v{step.version} ({describe_step(step)}).{alarms}{checked}"
    return _event(step.batch, text, "fixed")


def _describe_kept_rubrics(data: RunData) -> list[Event]:
    """How many meta steps left the rubric as it was."""
    kept = [step for step in data.lineage if step.status != "accepted"]
    if not kept:
        return []
    refused = sum(any(proposal.status == "refused" for proposal in step.refused) for step in kept)
    how = f"in {refused} of them the gate rejected a proposal" if refused else "the gate rejected nothing"
    return [_event("", f"Meta steps that left the rubric unchanged: {len(kept)}; {how}.")]


def _describe_active_alarms(data: RunData) -> list[Event]:
    """The alarms that are still raised at the end."""
    active = data.active_alarms
    if not active:
        return []
    named = "; ".join(map(describe_active_alarm, active))
    text = (
        f"Alarms that are still active: {named}. Read the answers they name: only those show whether this "
        "is a shortcut, or what the rubric asks for."
    )
    return [_event("", text, "plain" if all(alarm.answer for alarm in active) else "bad")]


def _describe_outcome(data: RunData) -> str:
    figures, change = data.figures, data.gold_change
    stopped = f"The run stopped before its last batch: {data.stop_reason}. " if data.stop_reason else ""
    done = f"{stopped}After {pluralize(figures['steps'], 'batch', 'batches')}"
    if change is None:
        reward = figures["reward"]["end"]
        return (
            f"{done} the reward is {'unknown' if reward is None else f'{reward:.2f}'}. This task has no gold "
            "metric: read the samples below to see whether the answers became better."
        )
    gold = figures["gold"]
    verdict = {"good": "better than before training", "bad": "worse than before training",
               "open": "not clearly different from before training"}[write_headline(data)[1]]  # fmt: skip
    return (
        f"{done} gold is {gold['end']:.2f}; it was {gold['start']:.2f} before training and {gold['min']:.2f} "
        f"at its lowest: {verdict} (change {change.mean:+.2f}, 95% interval {change.low:+.2f} to "
        f"{change.high:+.2f} over {pluralize(change.n, 'held-out prompt')})."
    )
