"""The forms in which a meta-judge answers, and how they become checked rubrics.

Refine and merge return data, never text that is used as a prompt. What does not make a sound rubric within
the limits is refused like any other malformed answer: asked for again, repaired once, then given up. The
schemas bound lists and texts: under guided decoding a small model otherwise gives the shortest answer that
the schema lets through, which is an empty list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mpo_lite.llm.structured_output import Schema, object_schema, whole_number
from mpo_lite.prompts import repeats_template, repeats_text
from mpo_lite.rubric import CRITERION_ID, MAX_CRITERIA, MAX_LEVELS, Criterion, Rubric

MAX_WORDS = 900
"""Words of a proposed rubric: a judge reads all of them with every answer."""
MAX_SOURCES = 24
"""Rollouts kept as the provenance of one criterion, the latest ones."""
COPIED_WORDS = 12
"""Consecutive words of a critique that make a description a copy of it."""
_LEVEL_NUMBER = re.compile(r"^\s*(?:level\s*)?\d{1,2}(?:\.\d+)?\s*[:.)–-]\s+", re.IGNORECASE)
_INSTRUCTIONS = ("meta/refine", "meta/merge", "meta/revise")
"""Templates by which criteria are asked for."""


def _text(longest: int, shortest: int = 1) -> Schema:
    return {"type": "string", "minLength": shortest, "maxLength": longest}


def _list(items: Schema, most: int, least: int = 1) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


_CRITERION: dict[str, Schema] = {
    "id": {"type": "string", "pattern": CRITERION_ID},
    # Small models fill in the shortest text there may be: a digit instead of a description of the level.
    "description": _text(400, shortest=20),
    "levels": _list(_text(200, shortest=8), most=MAX_LEVELS, least=2),
    "weight": {"type": "integer", "enum": [1, 2, 3, 4, 5]},
    "kind": {"type": "string", "enum": ["merit", "veto"]},
}
CRITIQUE = object_schema({"critique": _text(2000), "sound": {"type": "boolean"}})
SCREENED = object_schema(
    {"reason": _text(300), "judged": {"type": "string", "enum": ["too_low", "well", "too_high"]}}
)
REFINED = object_schema(
    {
        # Decided first: with the lists alone, small models give the shortest answer, which is two empty ones.
        "change": _text(400, shortest=20),
        "criteria": _list(object_schema(_CRITERION), most=4, least=0),
        "drop": _list({"type": "string", "pattern": CRITERION_ID}, most=MAX_CRITERIA, least=0),
    }
)
_SOURCES = _list(_text(8), most=MAX_SOURCES, least=0)
MERGED = object_schema(
    {
        "criteria": _list(object_schema(_CRITERION | {"from": _SOURCES}), most=MAX_CRITERIA),
        "guidelines": _text(1000, shortest=0),
    }
)
GUIDED = object_schema({"guidelines": _text(1000, shortest=0)})


def _whole(value: Any) -> Any:
    number = whole_number(value)
    return value if number is None else number


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Draft(_Strict):
    id: str
    description: str
    levels: list[str]
    weight: Annotated[int, BeforeValidator(_whole)]
    kind: Literal["merit", "veto"]

    def criterion(self, provenance: Sequence[str] = ()) -> Criterion:
        """The draft as a checked criterion."""
        return Criterion(
            id=self.id,
            description=self.description,
            levels=_read_levels(self.id, self.levels),
            weight=self.weight,
            kind=self.kind,
            provenance=tuple(dict.fromkeys(provenance))[-MAX_SOURCES:],
        )


class _SourcedDraft(_Draft):
    sources: Annotated[list[str], Field(alias="from")]


class Critique(_Strict):
    """The meta-judge's opinion of one judgement.

    Attributes:
        critique: What it found.
        sound: Whether the judgement needs no change of the rubric.
    """

    critique: Annotated[str, Field(min_length=1, max_length=4000)]
    sound: bool


class _Screened(_Strict):
    reason: str
    judged: Literal["too_low", "well", "too_high"]


class _Refined(_Strict):
    change: str
    criteria: Annotated[list[_Draft], Field(max_length=MAX_CRITERIA)]
    drop: list[str]


@dataclass(frozen=True)
class Refinement:
    """The changes that one critique calls for.

    Attributes:
        criteria: New criteria, and better versions of existing ones under their id.
        drop: Ids of existing criteria to remove.
    """

    criteria: tuple[Criterion, ...]
    drop: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.criteria or self.drop)


class _Merged(_Strict):
    criteria: list[_SourcedDraft]
    guidelines: str


class _Guided(_Strict):
    guidelines: Annotated[str, Field(max_length=4000)]


def parse_critique(data: dict[str, Any]) -> Critique:
    """A critique. Raises ``ValidationError``, like all of these."""
    return Critique.model_validate(data)


def parse_screening(data: dict[str, Any]) -> bool:
    """Whether a prescreened answer was judged badly, either way."""
    return _Screened.model_validate(data).judged != "well"


def parse_refinement(data: dict[str, Any], old: Rubric, critique: str = "") -> Refinement:
    """The changes that a critique calls for, as far as they concern ``old``.

    Raises:
        ValueError: A criterion repeats the critique, which is about one answer, or what the meta-judge was
            told.
    """
    refined = _Refined.model_validate(data)
    criteria = tuple(draft.criterion() for draft in refined.criteria)
    _require_own_words(criteria)
    for criterion in criteria:
        if repeats_text(critique, criterion.description, COPIED_WORDS):
            raise ValueError(
                f"{criterion.id}: the description repeats the critique; it must say what to look for in any "
                "answer, not what was wrong with this one"
            )
    rewritten = {criterion.id for criterion in criteria}
    drop = tuple(each.id for each in old.criteria if each.id in refined.drop and each.id not in rewritten)
    return Refinement(criteria, drop)


def parse_guidelines(data: dict[str, Any]) -> str:
    """Guidelines for one cluster."""
    return _Guided.model_validate(data).guidelines


def parse_merge(data: dict[str, Any], old: Rubric, sources: Mapping[str, str]) -> Rubric:
    """The merged rubric.

    Args:
        data: The answer.
        old: The current rubric: criteria that stay keep their order and history.
        sources: Label of a proposal → id of the rollout it came from.

    Raises:
        ValueError: It is no sound rubric, longer than ``MAX_WORDS``, or repeats what the meta-judge was told.
    """
    answer = _Merged.model_validate(data)
    known = {criterion.id: criterion for criterion in old.criteria}
    order = list(known)
    criteria: list[Criterion] = []
    for draft in answer.criteria:
        asked = [sources[label] for label in draft.sources if label in sources]
        before = known[draft.id].provenance if draft.id in known else ()
        criteria.append(draft.criterion([*before, *asked]))
    kept = {criterion.description for criterion in old.criteria}
    new = [criterion for criterion in criteria if criterion.description not in kept]
    _require_own_words(new)
    criteria.sort(key=lambda each: order.index(each.id) if each.id in known else len(order))
    rubric = Rubric(criteria=tuple(criteria), guidelines=answer.guidelines, clusters=old.clusters)
    if (length := len(rubric.render().split())) > MAX_WORDS:
        raise ValueError(f"the rubric has {length} words; at most {MAX_WORDS} are read")
    return rubric


def _read_levels(name: str, levels: Sequence[str]) -> tuple[str, ...]:
    """The levels without the numbers that small models copy from the rubric they were shown.

    Raises:
        ValueError: A level says nothing, or two say the same: a judge could not choose between them.
    """
    texts = tuple(_LEVEL_NUMBER.sub("", level) for level in levels)
    for place, text in enumerate(texts):
        if not re.search(r"[^\W\d_]", text):
            raise ValueError(f"{name}: level {place} must describe in words what is seen at it")
    if len({" ".join(re.findall(r"\w+", text.lower())) for text in texts}) < len(texts):
        raise ValueError(f"{name}: two levels say the same; each must describe what is seen at it alone")
    return texts


def _require_own_words(criteria: Sequence[Criterion]) -> None:
    """Refuses criteria made of the instructions, which small models copy when they have nothing to say."""
    for criterion in criteria:
        text = criterion.description
        copied = any(repeats_template(name, text) for name in _INSTRUCTIONS)
        if copied or {"merit", "veto"} <= set(re.findall(r"\w+", text.lower())):
            raise ValueError(
                f"{criterion.id}: the description repeats these instructions; it must say what to look for "
                "in an answer"
            )


def proposal_json(criteria: Sequence[Criterion], **context: Any) -> str:
    """Criteria as a meta-judge is shown them, after the keys of ``context``."""
    data = [criterion.model_dump(mode="json", exclude={"provenance"}) for criterion in criteria]
    return json.dumps({**context, "criteria": data}, ensure_ascii=False, indent=1)
