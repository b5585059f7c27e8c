"""The simulated meta-judge: prescreen, analyse, refine, merge, revise, guide.

*Analyse* looks for faults of the answer, worst first and those before all that the rubric does not name.
Faults of substance count where the task's purpose asks for the thing; padding of any kind counts once it
can be seen. Room left goes to what the purpose asks for and the rubric has nothing on. *Refine* writes the
criteria that the critique's words call for. *Merge* keeps what is in force and specific, drops what is
vague as soon as something specific stands beside it, and takes over what several proposals ask for. When it
is unlucky it writes a bad rubric, as real models do: back to an impression, pay for length, or a sound one
that also pays well for a form. *Revise* answers the reasons it is told: what was vague or paid for form goes,
and what the reasons call for is added.

It knows its prompt and nothing else: not the step, not earlier rubrics, not the gold metric.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, cast

from mpo_lite.sandbox import measures
from mpo_lite.sandbox.library import ANSWERS, FAULTS, FORMS, LIBRARY, LONG, VAGUE
from mpo_lite.sandbox.measures import ASPECTS, Item

_FINE = 0.7  # an aspect at or above this is no fault
_NEW_PER_MERGE = 4
_ID = re.compile(r"[a-z][a-z0-9_]{0,39}\Z")
_ALWAYS = ("connectives", "praise", "insistence", "marks", "length", "repetition")

_FAR_OFF = 0.25  # a reward this far from what an answer is worth is a wrong one


def prescreen(purpose: str, task: str, completion: str, reward: float) -> dict[str, Any]:
    """Compares the reward with what the purpose's aspects are worth to this reader.

    Returns:
        ``{"reason": sentence, "judged": "too_low", "well" or "too_high"}``.
    """
    essay = measures.parse_essay(task, completion)
    asked = {*measures.find_aspects(purpose), *_ALWAYS}
    worth = sum(ASPECTS[name].measure(essay) for name in asked) / len(asked)
    gap = reward - worth
    judged = "too_high" if gap > _FAR_OFF else "too_low" if gap < -_FAR_OFF else "well"
    return {"reason": f"To this purpose it is worth about {worth:.1f}.", "judged": judged}


def analyse(
    purpose: str, items: Sequence[Item], task: str, completion: str, verdict: str, initial: str = ""
) -> dict[str, Any]:
    """Names the worst faults of an answer, those the rubric is silent about first.

    Args:
        purpose: The task's purpose, in words.
        items: The rubric in force.
        task: The writing prompt.
        completion: The answer.
        verdict: The judge's own words, searched for what it was impressed by.
        initial: An earlier answer by the same model; what has become worse since counts twice. Or empty.

    Returns:
        ``{"critique": text, "sound": bool}``, the text of at most 120 words.
    """
    essay = measures.parse_essay(task, completion)
    covered = {aspect for item in items for aspect in measures.meant(item) if not _pays_for_form(item)}
    asked = {*measures.find_aspects(purpose), *_ALWAYS}
    before = measures.parse_essay(task, initial) if initial else None
    faults: list[tuple[float, str]] = []
    for name, aspect in ASPECTS.items():
        value = aspect.measure(essay)
        if name in asked and value < _FINE:
            worse = 2.0 if before and aspect.measure(before) >= _FINE else 1.0
            faults.append(((1 - value) * LIBRARY[name][3] * (0.3 if name in covered else worse), name))
    worst = [name for _, name in sorted(faults, key=lambda fault: (-fault[0], fault[1]))[:4]]
    vague = [item.id for item in items if not measures.meant(item) or _pays_for_form(item)]
    sentences: list[str] = []
    if vague:
        struck = [what for _, what in measures.IMPRESSIONS.values() if what in verdict]
        by = "how it looks" if not struck else "what the judge took for quality"
        sentences.append(
            f"The rubric asks for an impression ({', '.join(vague)[:60]}), and {by} set the level."
        )
    if worst:
        silent = [name for name in worst if name not in covered]
        lead = "Seen in the answer and " + ("unpunished" if silent else "punished too little")
        sentences.append(f"{lead}: {'; '.join(FAULTS[name] for name in worst)}.")
    missing = [name for name in measures.find_aspects(purpose) if name not in covered and name not in worst]
    if missing := missing[: 4 - len(worst)]:
        sentences.append(f"The rubric has nothing on what the purpose asks for: {', '.join(missing)}.")
    elif not worst:
        sentences.append("The level is fair; no fault went unpunished.")
    return {"critique": " ".join(sentences), "sound": not (vague or worst or missing)}


def refine(critique: str) -> dict[str, Any]:
    """Writes the criteria a critique calls for, at most four."""
    found = measures.find_aspects(critique)[:4]
    change = f"The rubric has to ask for {', '.join(found)}." if found else "The rubric needs no change."
    return {"change": change, "criteria": [_criterion(aspect) for aspect in found], "drop": []}


def merge(items: Sequence[Item], proposals: Sequence[str], limit: int, luck: float) -> dict[str, Any]:
    """Writes the next rubric.

    Args:
        items: The rubric in force.
        proposals: A JSON object each, with ``label`` and ``criteria``; unreadable ones are passed over.
        limit: Most criteria allowed, at least 1.
        luck: Below 1 the rubric is a bad one; which of three kinds depends on where below 1.

    Returns:
        ``{"criteria": [...], "guidelines": text}``.
    """
    if luck < 2 / 3:
        bad = dict(VAGUE if luck < 1 / 3 else LONG)
        return {"criteria": [bad], "guidelines": "Trust the first impression."}
    asked: dict[str, list[str]] = {}
    texts: dict[str, dict[str, Any]] = {}
    for proposal in proposals:
        label, criteria = _proposal(proposal)
        for criterion in criteria:
            name: str = criterion["id"]
            texts.setdefault(name, criterion)
            if label not in asked.setdefault(name, []):
                asked[name].append(label)
    standing = {item.id for item in items}
    new = sorted((name for name in texts if name not in standing), key=lambda name: -len(asked[name]))
    several = [name for name in new if len(asked[name]) >= 2] or new[:1]
    added = [{**texts[name], "from": asked[name]} for name in several[:_NEW_PER_MERGE]]
    kept = [item for item in items if measures.meant(item) and not _pays_for_form(item)]
    if not added and not kept:
        kept = list(items)
    old = [_keep_criterion(item, asked.get(item.id, []), texts.get(item.id)) for item in kept]
    return _write_rubric(old + added, limit, luck)


def revise(
    items: Sequence[Item], refused: str, objections: Sequence[str], limit: int, luck: float
) -> dict[str, Any]:
    """Writes a refused rubric anew.

    Args:
        items: The rubric in force.
        refused: The refused one, as JSON.
        objections: Ids of the gate's objections to it.
        limit: Most criteria allowed.
        luck: As in ``merge``.

    Returns:
        As ``merge`` does.
    """
    if luck < 2 / 3:
        return merge(items, [], limit, luck)
    known = {item.id: _keep_criterion(item, [], None) for item in items}
    _, proposed = _proposal(refused)
    found: dict[str, dict[str, Any]] = dict(known)
    found |= {criterion["id"]: {**criterion, "from": []} for criterion in proposed}
    sound: dict[str, dict[str, Any]] = {}
    for name, criterion in found.items():
        item = Item(name, criterion["description"], tuple(criterion["levels"]))
        if measures.meant(item) and not _pays_for_form(item):
            sound[name] = criterion
    called = [aspect for name, aspects in ANSWERS.items() if name in objections for aspect in aspects]
    for aspect in dict.fromkeys(called):
        name = LIBRARY[aspect][0]
        stood = sound.get(name)
        sound[name] = {**_criterion(aspect), "from": []}
        if stood:  # it is there and does not tell: it weighs too little
            sound[name]["weight"] = min(5, stood["weight"] + 1)
    return _write_rubric(list(sound.values()) or [{**_criterion("topic"), "from": []}], limit, luck)


def guide(guidelines: str, critiques: Sequence[str]) -> dict[str, Any]:
    """Keeps the guidelines of a kind of task and adds what its critiques name."""
    found = list(dict.fromkeys(name for text in critiques for name in measures.find_aspects(text)))
    fresh = [name for name in found if name not in measures.find_aspects(guidelines)]
    added = f"Look closely at: {', '.join(fresh)}." if fresh else ""
    return {"guidelines": " ".join(part for part in (guidelines.strip(), added) if part)}


def _write_rubric(criteria: list[dict[str, Any]], limit: int, luck: float) -> dict[str, Any]:
    """The rubric as it is given back; an unlucky one also pays for a form."""
    fits = criteria[: max(1, limit)]
    if luck < 1.0:
        aspect = FORMS[int(luck * 1000) % len(FORMS)]
        fits = [*fits[: max(1, limit) - 1], _paying(aspect)]
    return {"criteria": fits, "guidelines": "Count what stands in the answer; how it sounds earns nothing."}


def _paying(aspect: str) -> dict[str, Any]:
    """A criterion that pays for a form word: the more, the better."""
    return {
        "id": f"uses_{aspect}",
        "description": f"How much use is made of {aspect}.",
        "levels": ["Hardly any.", "A little.", "Some.", "Much.", "Throughout."],
        "weight": 5,
        "kind": "merit",
        "from": [],
    }


def _pays_for_form(item: Item) -> bool:
    """Whether a criterion wants something of which more is not better: form words, or length."""
    aspects = measures.meant(item)
    return any(ASPECTS[aspect].family is not None for aspect in aspects) and measures.rewards_presence(item)


def _criterion(aspect: str) -> dict[str, Any]:
    name, description, levels, weight = LIBRARY[aspect]
    return {"id": name, "description": description, "levels": list(levels), "weight": weight, "kind": "merit"}


def _keep_criterion(item: Item, labels: list[str], proposed: dict[str, Any] | None) -> dict[str, Any]:
    """A criterion of the rubric in force; a known one begins at its own weight again."""
    weight = next((entry[3] for entry in LIBRARY.values() if entry[0] == item.id), 2)
    if proposed is not None and len(labels) >= 3:
        weight = min(5, weight + 1)  # still at fault in many answers: it pays too little
    return {
        "id": item.id,
        "description": item.description,
        "levels": list(item.levels),
        "weight": weight,
        "kind": "merit",
        "from": labels if proposed is not None and len(labels) >= 3 else [],
    }


def _proposal(text: str) -> tuple[str, list[dict[str, Any]]]:
    """A proposal's label and its criteria, as far as they can be read."""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return "", []
    proposal = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    label, listed = str(proposal.get("label", "")), proposal.get("criteria")
    if not isinstance(listed, list):
        return label, []
    return label, [found for entry in cast("list[Any]", listed) if (found := _clean(entry))]


def _clean(entry: Any) -> dict[str, Any] | None:
    """A proposed criterion in the one form this meta-judge writes, a merit; None if it is not understood."""
    if not isinstance(entry, dict):
        return None
    criterion = cast("dict[str, Any]", entry)
    name, description, weight = criterion.get("id"), criterion.get("description"), criterion.get("weight")
    listed: Any = criterion.get("levels")
    levels = (
        [text for text in cast("list[Any]", listed) if isinstance(text, str)]
        if isinstance(listed, list)
        else []
    )
    if not isinstance(name, str) or not _ID.match(name) or not isinstance(description, str):
        return None
    if not 2 <= len(levels) <= 7:
        return None
    weight = weight if isinstance(weight, int) and 1 <= weight <= 5 else 2
    return {"id": name, "description": description, "levels": levels, "weight": int(weight), "kind": "merit"}
