"""The simulated models behind the sandbox server: who answers which prompt, and the simulated judge.

Pure functions of the prompt, a seed and a rate: no state, no clock, no knowledge of the run. Which template a
prompt was made from, its rubric and its other facts come with the request as data, so that prompts may be
reworded; task, answer and other texts are read from their fences; nothing else is known.

The judge measures what a specific criterion names. A vague one it answers by impression, and by which
impression is its weakness: one or two of five families, drawn by the seed. It errs by a level now and then,
and its strictness drifts a little with the wording of the rubric. All chance is a hash of what it was
shown.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from mpo_lite.prompts import extract_fenced
from mpo_lite.sandbox import measures, simulate_meta
from mpo_lite.sandbox.measures import ASPECTS, IMPRESSIONS, Essay, Item
from mpo_lite.types import Message

ERROR_RATE = 0.08
"""Chance that one assessment is a level off."""
DRIFT = 0.08
"""Largest change of strictness that a wording of the rubric brings, on the scale of 0 to 1."""
FIRST_LIKED, TIE_WITHIN = 0.03, 0.01
"""In matches: how much better the answer shown first seems, and how near two are that tie."""
_LIMIT = 8
"""Most criteria of a rubric where the request names no limit."""
_IMPRESSION = 0.85  # what form weighs in a vague criterion; the rest is substance


def chance(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:6], "big") / 2**48


def reply(
    messages: Sequence[Message], facts: Mapping[str, Any], seed: int = 0, bad_rate: float = 0.0
) -> dict[str, Any]:
    """Answers one chat request as the judge or meta-judge would.

    Args:
        messages: As sent to a provider: a system message of ours, then user messages.
        facts: What the prompt says, as data: its ``template`` and whatever its caller gave; see
            ``mpo_lite.llm.call.Call.facts``.
        seed: Picks the judge's weaknesses and all its chance.
        bad_rate: In [0, 1]; how often a merged rubric is a bad one.

    Returns:
        The JSON object that the prompt asks for.

    Raises:
        ValueError: The prompt is none of mpo-lite's, or shows no rubric where one is needed.
    """
    user = "\n".join(message["content"] for message in messages if message["role"] != "system")
    if len(messages) == 1 and messages[0]["role"] == "user":
        # Any chat model answers a mere greeting: that is how a client sees it is there.
        return {"ready": True}
    role = str(facts.get("template", ""))
    if not role.startswith(("judge/", "meta/")):
        raise ValueError(
            "the sandbox answers only prompts of mpo-lite, whose template it is told where it is called "
            "openai/sandbox-…; name it so"
        )
    if role == "judge/repair":
        return _repair(user)
    if role == "judge/match":
        return match(_only(user, "task"), extract_fenced("completion", user), seed)
    items = measures.parse_items(facts.get("rubric"))
    if not items:
        raise ValueError("the request holds no rubric with criteria and levels")
    if role == "judge/plan":
        looks = "; ".join(f"{item.id}: look for {item.description.lower()}" for item in items)
        return {"solution": "An essay about the topic.", "plan": looks[:2000]}
    if role in ("judge/pointwise", "judge/planned"):
        return judge(items, _only(user, "task"), _only(user, "completion"), seed)
    if role == "judge/groupwise":
        answers = enumerate(extract_fenced("completion", user), start=1)
        return {f"answer_{number}": judge(items, _only(user, "task"), text, seed) for number, text in answers}
    return _meta(role, items, facts, user, lambda *parts: _luck(seed, bad_rate, *parts))


def _meta(
    role: str,
    items: Sequence[Item],
    facts: Mapping[str, Any],
    user: str,
    luck: Callable[..., float],
) -> dict[str, Any]:
    """Answers as the meta-judge."""
    purpose, limit = str(facts.get("purpose", "")), int(facts.get("limit", _LIMIT))
    task, completion, verdict = _only(user, "task"), _only(user, "completion"), _only(user, "verdict")
    if role in ("meta/analyse", "meta/compare", "meta/contrast"):
        return simulate_meta.analyse(purpose, items, task, completion, verdict, _only(user, "initial"))
    if role == "meta/prescreen":
        return simulate_meta.prescreen(purpose, task, completion, float(facts["reward"]))
    if role == "meta/refine":
        return simulate_meta.refine(_only(user, "critique"))
    if role == "meta/guide":
        return simulate_meta.guide(_only(user, "guidelines"), extract_fenced("critique", user))
    shown = [item.render() for item in items]
    # Not of the whole prompt: its fences differ from cache directory to cache directory.
    if role == "meta/revise":
        refused = _only(user, "refused")
        objections: Any = facts.get("objections")
        if not isinstance(objections, list):
            raise ValueError("'objections' must be a list of ids")
        named = cast("list[str]", objections)
        return simulate_meta.revise(items, refused, named, limit, luck(*shown, refused, *named))
    proposals = extract_fenced("proposal", user)
    return simulate_meta.merge(items, proposals, limit, luck(*shown, *proposals))


def _luck(seed: int, bad_rate: float, *parts: object) -> float:
    """Below 1, in ``bad_rate`` of the cases, the meta-judge writes a bad rubric."""
    return chance(seed, "bad", *parts) / bad_rate if bad_rate > 0 else 1.0


def weaknesses(seed: int) -> tuple[str, ...]:
    """What this judge falls for when a criterion is vague: one or two families, drawn by the seed alone."""
    families = sorted(IMPRESSIONS)
    first = int(chance(seed, "weakness", 1) * len(families))
    if chance(seed, "weakness", "count") < 0.5:
        return (families[first],)
    other = 1 + int(chance(seed, "weakness", 2) * (len(families) - 1))
    return families[first], families[(first + other) % len(families)]


def judge(items: Sequence[Item], task: str, completion: str, seed: int) -> dict[str, Any]:
    """Assesses one answer by every criterion, in order.

    Returns:
        Criterion id → ``{"reason": sentence, "level": rank}``.
    """
    essay = measures.parse_essay(task, completion)
    wording = "\n".join(item.render() for item in items)
    strictness = DRIFT * (2 * chance(seed, "drift", wording) - 1)
    found: dict[str, Any] = {}
    for item in items:
        value, reason = _assess(item, essay, seed)
        top = len(item.levels) - 1
        level = int((value - strictness * min(1.0, 4 * value * (1 - value))) * top + 0.5)
        slip = chance(seed, "slip", wording, task, completion, item.id)
        if slip < ERROR_RATE:
            level += 1 if slip < ERROR_RATE / 2 else -1
        found[item.id] = {"reason": reason, "level": min(top, max(0, level))}
    return found


def match(task: str, completions: Sequence[str], seed: int) -> dict[str, Any]:
    """Compares two answers by impression, with a liking for the one shown first; near ones are a tie."""
    whole = Item("quality", "How good it is.", ("bad", "good"))
    first, second = (_assess(whole, measures.parse_essay(task, text), seed)[0] for text in completions)
    lead = first + FIRST_LIKED - second
    winner = "tie" if abs(lead) < TIE_WITHIN else "first" if lead > 0 else "second"
    return {"reason": f"The {winner} one makes the better impression.", "winner": winner}


def _assess(item: Item, essay: Essay, seed: int) -> tuple[float, str]:
    """Quality in [0, 1] and the sentence that says what was seen."""
    aspects = measures.meant(item)
    if aspects:
        values = [(measures.quality(item, aspect, essay), aspect) for aspect in aspects]
        value, aspect = min(values)
        return value, f"On {aspect} the answer is {_grade(value)}{_evidence(aspect, essay)}."
    weak = weaknesses(seed)
    struck = [(measures.impression(essay, weakness), weakness) for weakness in weak]
    form = sum(strength for strength, _ in struck) / len(struck)
    substance = sum(ASPECTS[name].measure(essay) for name in ("claim", "reasons", "closing")) / 3
    value = _IMPRESSION * form + (1 - _IMPRESSION) * substance
    seen = " and ".join(IMPRESSIONS[weakness][1] for weakness in weak)
    return value, f"The answer shows {seen} to a degree that is {_grade(form)}."


def _grade(value: float) -> str:
    return ("poor", "weak", "fair", "sound", "strong")[min(4, int(value * 5))]


def _evidence(aspect: str, essay: Essay) -> str:
    family = ASPECTS[aspect].family
    if aspect == "length":
        return f" ({essay.spoken} words)"
    if family is not None:
        seen = sum(word in IMPRESSIONS[family][0] for word in essay.words)
        return f" ({seen} such words among {len(essay.words)})"
    return ""


def _only(user: str, tag: str) -> str:
    texts = extract_fenced(tag, user)
    return texts[0] if texts else ""


def _repair(user: str) -> dict[str, Any]:
    """Keeps what can be read of a broken reply: the widest span of braces that is an object.

    Returns:
        That object; ``{"unusable": True}`` without one.
    """
    _, _, shown = user.rpartition("JSON Schema:")
    text = "\n".join(extract_fenced("reply", user)) or shown
    ends = [place for place, mark in enumerate(text) if mark == "}"][-20:]
    for start in [place for place, mark in enumerate(text) if mark == "{"][:20]:
        for end in reversed(ends):
            if end < start:
                break
            try:
                value = json.loads(text[start : end + 1])
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                return value  # pyright: ignore[reportUnknownVariableType]
    return {"unusable": True}
