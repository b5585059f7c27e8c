"""The meta-judge: analyses judgements, refines the rubric for each, merges the refinements into one.

Source: arXiv 2504.20157, section 3. Unlike its first implementation, the meta-judge sees the judge's reasons,
and refine and merge return data that is validated: what does not make a sound rubric never replaces one. A
call that fails drops its sample; without a merged rubric there is no proposal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from mpo_lite.activity import activity
from mpo_lite.errors import CallFailed
from mpo_lite.llm.call import Call, T
from mpo_lite.llm.client import Client
from mpo_lite.llm.models import Backend
from mpo_lite.llm.structured_output import Schema
from mpo_lite.meta import schemas
from mpo_lite.meta.cases.base import Block, Case
from mpo_lite.meta.objections import Objection
from mpo_lite.prompts import fence, render
from mpo_lite.rubric import MAX_CRITERIA, Criterion, Rubric, first_problem


@dataclass(frozen=True)
class Proposal:
    """The result of analysis, refinement and merging.

    Attributes:
        rubric: The proposed rubric; None where the step failed and the old one stays.
        reason: Why there is none; empty otherwise.
        failed: How many of the cases were dropped because a call on them failed.
    """

    rubric: Rubric | None
    reason: str
    failed: int


@dataclass(frozen=True)
class _Examination:
    """The result for one case.

    Attributes:
        critique: What the meta-judge finds of the judgement.
        criteria: What it would have changed for that; empty: nothing.
    """

    critique: str
    criteria: tuple[Criterion, ...]


@dataclass(frozen=True)
class _Dropped:
    """A case of which a call failed: at which stage, and what was seen."""

    stage: Literal["analysing", "refining"]
    problem: str


@dataclass(frozen=True)
class MetaJudge:
    """Rewrites rubrics; all calls of a phase run at once.

    Every method takes ``draw``, which distinguishes steps: a later step gets new answers, the same step done
    again gets those from the cache. All of them raise ``StopRun`` if a cap is reached, and
    ``EndpointError`` if the model rejects calls permanently.

    Attributes:
        client: Asks the model.
        backend: The meta-judge's model.
        audience_goal: What readers of the answers want; the task's ``purpose``.
    """

    client: Client
    backend: Backend
    audience_goal: str

    async def screen(self, rubric: Rubric, cases: Sequence[Case], draw: str) -> list[str]:
        """Prescreens: ids of the rollouts that the meta-judge finds badly judged.

        Source: arXiv 2504.20157, section 3 (its first implementation has it switched off).
        """

        async def screen(case: Case) -> bool:
            try:
                return await self._ask(
                    "prescreen",
                    draw,
                    schemas.SCREENED,
                    schemas.parse_screening,
                    rubric.facts | {"reward": case.rollout.reward},
                    material=self._material(case.blocks),
                    **self._common_fields(rubric, case.rollout.cluster),
                )
            except CallFailed:
                return False
            finally:
                work.advance()

        with activity("prescreening", total=len(cases), unit="answers") as work:
            screened = await asyncio.gather(*(screen(case) for case in cases))
        return [case.rollout.id for case, bad in zip(cases, screened, strict=True) if bad]

    async def propose(self, rubric: Rubric, cases: Sequence[Case], figures: str, draw: str) -> Proposal:
        """Makes the next rubric.

        Args:
            rubric: The current rubric, by which the rollouts were judged.
            cases: What is to be learned from, at least one.
            figures: What is measured of criteria and answers, or empty.
            draw: See above.
        """
        labels = {f"s{n}": case.rollout.id for n, case in enumerate(cases, start=1)}
        critiques: dict[str, list[str]] = {}
        proposals: dict[str, tuple[Criterion, ...]] = {}
        dropped: list[_Dropped] = []
        with activity("analysing and refining", total=len(cases), unit="samples") as work:

            async def examine(case: Case) -> _Examination | _Dropped:
                one = await self._examine(rubric, case, figures, draw)
                work.advance()
                return one

            examinations = await asyncio.gather(*map(examine, cases))
        for label, case, one in zip(labels, cases, examinations, strict=True):
            if isinstance(one, _Dropped):
                dropped.append(one)
                continue
            if case.rollout.cluster:
                critiques.setdefault(case.rollout.cluster, []).append(one.critique)
            if one.criteria:
                proposals[label] = one.criteria
        if len(dropped) == len(cases):
            return Proposal(None, _why_dropped(dropped), len(dropped))
        try:
            with activity("merging"):
                merged, guided = await asyncio.gather(
                    self._merge(rubric, proposals, labels, figures, draw),
                    asyncio.gather(
                        *(self._revise_guidelines(rubric, *each, draw) for each in critiques.items())
                    ),
                )
        except CallFailed as failure:
            return Proposal(None, f"merging failed: {failure.detail}", len(dropped))
        # Clusters of which nothing new was seen keep what they have.
        clusters = rubric.clusters | dict(zip(critiques, guided, strict=True))
        whole = Rubric(criteria=merged.criteria, guidelines=merged.guidelines, clusters=clusters)
        return Proposal(whole, "", len(dropped))

    async def revise(
        self, rubric: Rubric, refused: Rubric, objections: Sequence[Objection], draw: str
    ) -> Proposal:
        """Makes another rubric of one that the gate refused, told why."""
        try:
            with activity("revising"):
                revised = await self._ask(
                    "revise",
                    draw,
                    schemas.MERGED,
                    lambda data: schemas.parse_merge(data, refused, {}),
                    rubric.facts | {"objections": [objection.id for objection in objections]},
                    refused=self._fence("refused", schemas.proposal_json(refused.criteria)),
                    objections="\n".join(f"- {objection.text}" for objection in objections),
                    weights=_weights(rubric),
                    **_LIMITS,
                    **self._common_fields(rubric),
                )
        except CallFailed as failure:
            return Proposal(None, f"revising failed: {failure.detail}", 0)
        return Proposal(revised, "", 0)

    async def _examine(self, rubric: Rubric, case: Case, figures: str, draw: str) -> _Examination | _Dropped:
        """The critique of one case and the criteria it calls for."""
        shown = self._common_fields(rubric, case.rollout.cluster) | {"material": self._material(case.blocks)}
        try:
            critique = await self._ask(
                case.template, draw, schemas.CRITIQUE, schemas.critique, rubric.facts, **shown
            )
        except CallFailed as failure:
            return _Dropped("analysing", failure.detail)
        try:
            criteria = await self._ask(
                "refine",
                draw,
                schemas.REFINED,
                schemas.parse_refinement,
                rubric.facts,
                critique=self._fence("critique", critique),
                figures=self._figures(figures),
                weights=_weights(rubric),
                **shown,
            )
        except CallFailed as failure:
            return _Dropped("refining", failure.detail)
        return _Examination(critique, criteria)

    async def _merge(
        self,
        rubric: Rubric,
        proposals: dict[str, tuple[Criterion, ...]],
        labels: dict[str, str],
        figures: str,
        draw: str,
    ) -> Rubric:
        if not proposals:  # every critique left the rubric as it is
            return rubric
        blocks = [
            Block("", "proposal", f"label: {label}\n{schemas.proposal_json(criteria)}")
            for label, criteria in proposals.items()
        ]
        return await self._ask(
            "merge",
            draw,
            schemas.MERGED,
            lambda data: schemas.parse_merge(data, rubric, labels),
            rubric.facts,
            proposals=self._material(blocks),
            figures=self._figures(figures),
            weights=_weights(rubric),
            **_LIMITS,
            **self._common_fields(rubric),
        )

    async def _revise_guidelines(
        self, rubric: Rubric, cluster: str, critiques: Sequence[str], draw: str
    ) -> str:
        """The next guidelines of one cluster; the old ones where the call failed."""
        old = rubric.clusters.get(cluster, "")
        try:
            return await self._ask(
                "guide",
                draw,
                schemas.GUIDED,
                schemas.parse_guidelines,
                rubric.facts,
                guidelines=self._fence("guidelines", old),
                critiques=self._material([Block("", "critique", text) for text in critiques]),
                **self._common_fields(rubric),
            )
        except CallFailed:
            return old

    async def _ask(
        self,
        template: str,
        draw: str,
        schema: Schema,
        parse: Callable[[dict[str, Any]], T],
        facts: Mapping[str, Any],
        /,
        **values: str,
    ) -> T:
        def checked(data: dict[str, Any]) -> T:
            try:
                return parse(data)
            except ValidationError as error:
                raise ValueError(first_problem(error)) from error

        prompt = render(f"meta/{template}", **values)
        facts = {"purpose": self.audience_goal, "limit": MAX_CRITERIA, **facts}
        call = Call(self.backend, "meta", prompt, schema, checked, draw, _ROOM[template], facts)
        return await self.client.ask(call)

    def _common_fields(self, rubric: Rubric, cluster: str = "") -> dict[str, str]:
        return {"purpose": self.audience_goal, "rubric": rubric.render(cluster)}

    def _figures(self, figures: str) -> str:
        """Figures hold phrases that the policy wrote."""
        lead = "What was measured since the last change:"
        return f"{lead}\n{self._fence('figures', figures)}" if figures else ""

    def _material(self, blocks: Sequence[Block]) -> str:
        return "\n\n".join(
            f"{lead}\n{self._fence(tag, text)}" if lead else self._fence(tag, text)
            for lead, tag, text in blocks
        )

    def _fence(self, tag: str, text: str) -> str:
        return fence(tag, text, self.client.cache.nonce_key)


_ROOM = {
    "prescreen": 256,
    "analyse": 512,
    "compare": 512,
    "guide": 512,
    "refine": 2048,
    "merge": 4096,
    "revise": 4096,
}
"""Tokens that a reply may take: about twice what its prompt asks for."""
_LIMITS = {"limit": str(MAX_CRITERIA), "words": str(schemas.MAX_WORDS)}


def _why_dropped(dropped: Sequence[_Dropped]) -> str:
    """At which stage all cases were dropped, and the last problem seen there."""
    parts: list[str] = []
    for stage in ("analysing", "refining"):
        if problems := [one.problem for one in dropped if one.stage == stage]:
            parts.append(f"{stage} failed for {len(problems)} of {len(dropped)} samples: {problems[-1]}")
    return "; ".join(parts)


def rubric_changes(old: Rubric, new: Rubric) -> dict[str, list[str]]:
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
