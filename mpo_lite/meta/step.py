"""The meta step: analyse each sample's judgement, refine the rubric for each, merge the refinements into one.

Source: arXiv 2504.20157, section 3. Unlike its first implementation, the meta-judge sees the judge's reasons,
and refine and merge return data that is validated: what does not make a sound rubric never replaces one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mpo_lite.errors import CallFailed
from mpo_lite.llm.call import Call, T
from mpo_lite.llm.client import Client
from mpo_lite.llm.models import Backend
from mpo_lite.llm.structured import Schema, object_schema
from mpo_lite.prompts import fence, render
from mpo_lite.rubric import MAX_CRITERIA, Criterion, Rubric, first_problem
from mpo_lite.types import Rollout

_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_CRITERION: dict[str, Schema] = {
    "id": _TEXT,
    "description": _TEXT,
    "levels": _TEXTS,
    "weight": {"type": "integer", "enum": [1, 2, 3, 4, 5]},
    "kind": {"type": "string", "enum": ["merit", "veto"]},
}
_REFINE = object_schema({"criteria": {"type": "array", "items": object_schema(_CRITERION)}})
_MERGE = object_schema(
    {
        "criteria": {"type": "array", "items": object_schema(_CRITERION | {"from": _TEXTS})},
        "guidelines": _TEXT,
    }
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Critique(_Strict):
    critique: Annotated[str, Field(min_length=1, max_length=4000)]


class _Refined(_Strict):
    criteria: Annotated[list[_Draft], Field(min_length=1, max_length=MAX_CRITERIA)]


class _Draft(_Strict):
    id: str
    description: str
    levels: list[str]
    weight: int
    kind: Literal["merit", "veto"]

    def criterion(self, provenance: Sequence[str] = ()) -> Criterion:
        """The draft as a checked criterion."""
        return Criterion(
            id=self.id,
            description=self.description,
            levels=tuple(self.levels),
            weight=self.weight,
            kind=self.kind,
            provenance=tuple(provenance),
        )


class _SourcedDraft(_Draft):
    sources: Annotated[list[str], Field(alias="from")]


class _Merged(_Strict):
    criteria: list[_SourcedDraft]
    guidelines: str


@dataclass(frozen=True)
class Proposal:
    """What a meta step came to.

    Attributes:
        rubric: The proposed rubric; None where the step failed and the old one stays.
        reason: Why there is none; empty otherwise.
        samples: Ids of the rollouts that were looked at.
        failed: How many of them were dropped because a call on them failed.
    """

    rubric: Rubric | None
    reason: str
    samples: tuple[str, ...]
    failed: int


@dataclass(frozen=True)
class MetaJudge:
    """Rewrites rubrics.

    Attributes:
        client: Asks the model.
        backend: The meta-judge's model.
        purpose: What readers of the answers want, from the task.
    """

    client: Client
    backend: Backend
    purpose: str

    async def propose(self, rubric: Rubric, samples: Sequence[Rollout], batch: int) -> Proposal:
        """Makes the next rubric from judged samples; all calls of a phase run at once.

        Args:
            rubric: The rubric in force; the samples were judged by it.
            samples: At least one judged rollout.
            batch: Generation batches done: part of the cache key, so that a later step draws afresh.

        Raises:
            StopRun: A cap is reached.
            EndpointError: The meta-judge refuses for good.
        """
        ids = tuple(sample.id for sample in samples)
        refined = await asyncio.gather(*(self._refined(rubric, sample, batch) for sample in samples))
        proposals = {f"s{n}": criteria for n, criteria in enumerate(refined, start=1) if criteria}
        failed = len(samples) - len(proposals)
        if not proposals:
            return Proposal(None, "no sample could be analysed", ids, failed)
        try:
            merged = await self._merged(
                rubric, proposals, dict(zip(_labels(samples), ids, strict=True)), batch
            )
        except CallFailed as failure:
            return Proposal(None, f"merging failed: {failure}", ids, failed)
        return Proposal(merged, "", ids, failed)

    async def _refined(self, rubric: Rubric, sample: Rollout, batch: int) -> tuple[Criterion, ...]:
        """The criteria that one sample calls for; none where a call on it failed."""
        shown = {"purpose": self.purpose, "rubric": rubric.render()} | {
            name: self._fence(name, text)
            for name, text in (("task", sample.prompt), ("completion", sample.completion))
        }
        verdict = {
            name: {"reason": assessment.reason, "level": assessment.level}
            for name, assessment in sample.verdict.assessments.items()
        }
        try:
            critique = await self._ask(
                "analyse",
                batch,
                object_schema({"critique": _TEXT}),
                lambda data: _Critique.model_validate(data).critique,
                verdict=self._fence("verdict", json.dumps(verdict, ensure_ascii=False, indent=1)),
                reward=f"{sample.verdict.reward:.2f}",
                **shown,
            )
            return await self._ask(
                "refine",
                batch,
                _REFINE,
                lambda data: tuple(draft.criterion() for draft in _Refined.model_validate(data).criteria),
                critique=self._fence("critique", critique),
                weights=_weights(rubric),
                **shown,
            )
        except CallFailed:
            return ()

    async def _merged(
        self, rubric: Rubric, proposals: dict[str, tuple[Criterion, ...]], labels: dict[str, str], batch: int
    ) -> Rubric:
        known = {criterion.id: criterion for criterion in rubric.criteria}

        def parse(data: dict[str, Any]) -> Rubric:
            merged = _Merged.model_validate(data)
            criteria: list[Criterion] = []
            for draft in merged.criteria:
                old = known.get(draft.id)
                asked = [labels[label] for label in draft.sources if label in labels]
                criteria.append(draft.criterion([*(old.provenance if old else ()), *asked]))
            return Rubric(criteria=tuple(criteria), guidelines=merged.guidelines)

        blocks = [
            self._fence("proposal", f"label: {label}\n{_proposal_json(criteria)}")
            for label, criteria in proposals.items()
        ]
        return await self._ask(
            "merge",
            batch,
            _MERGE,
            parse,
            purpose=self.purpose,
            rubric=rubric.render(),
            weights=_weights(rubric),
            limit=str(MAX_CRITERIA),
            proposals="\n\n".join(blocks),
        )

    async def _ask(
        self, phase: str, batch: int, schema: Schema, parse: Callable[[dict[str, Any]], T], **values: str
    ) -> T:
        def checked(data: dict[str, Any]) -> T:
            try:
                return parse(data)
            except ValidationError as error:
                raise ValueError(first_problem(error)) from error

        messages = render(f"meta/{phase}", **values)
        return await self.client.ask(
            Call(self.backend, "meta", messages, schema, checked, draw=f"batch-{batch}")
        )

    def _fence(self, tag: str, text: str) -> str:
        return fence(tag, text, self.client.cache.nonce_key)


def changes(old: Rubric, new: Rubric) -> dict[str, list[str]]:
    """Ids of the criteria that ``new`` added, changed and dropped against ``old``."""
    before = {criterion.id: criterion for criterion in old.criteria}
    after = {criterion.id: criterion for criterion in new.criteria}

    def content(criterion: Criterion) -> dict[str, Any]:
        return criterion.model_dump(exclude={"provenance"})

    return {
        "added": [name for name in after if name not in before],
        "changed": [
            name for name in after if name in before and content(after[name]) != content(before[name])
        ],
        "dropped": [name for name in before if name not in after],
    }


def _weights(rubric: Rubric) -> str:
    """What the judge is not shown and who rewrites the rubric must know."""
    return "\n".join(
        f"{criterion.id}: weight {criterion.weight}, {criterion.kind}" for criterion in rubric.criteria
    )


def _labels(samples: Sequence[Rollout]) -> list[str]:
    return [f"s{n}" for n, _ in enumerate(samples, start=1)]


def _proposal_json(criteria: Sequence[Criterion]) -> str:
    data = [criterion.model_dump(mode="json", exclude={"provenance"}) for criterion in criteria]
    return json.dumps({"criteria": data}, ensure_ascii=False, indent=1)


_Refined.model_rebuild()
