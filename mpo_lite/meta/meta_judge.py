"""The meta-judge: analyses judgements, refines the rubric for each, merges the refinements into one.

Source: arXiv 2504.20157, section 3. Unlike its first implementation, the meta-judge sees the judge's reasons,
and refine and merge return data that is validated: what does not make a sound rubric never replaces one. A
call that fails drops its sample; without a merged rubric there is no proposal.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mpo_lite.activity import activity
from mpo_lite.errors import CallFailed
from mpo_lite.meta import schemas
from mpo_lite.meta.cases.base import Case, verdict_json
from mpo_lite.meta.meta_model import MetaModel, Question, figures_block, history_block
from mpo_lite.meta.objections import Objection
from mpo_lite.prompts import Block
from mpo_lite.rubric import MAX_CRITERIA, Rubric

GUIDING_CASES = 3
"""Cases of a cluster that are shown where its guidelines are rewritten."""
EXAMPLES, EXAMPLE_CHARS = 2, 2000
"""Answers, and characters of each, that show what a refused rubric paid for."""
_LIMIT, _WORDS = str(MAX_CRITERIA), str(schemas.MAX_WORDS)


@dataclass(frozen=True)
class Proposal:
    """The result of analysis, refinement and merging.

    Attributes:
        rubric: The proposed rubric; None where the step failed and the old one stays.
        reason: Why there is none; empty otherwise.
        failed: How many of the cases were dropped because a call on them failed.
        variants: Where several merges were asked for, what each came to with one refinement left out.
    """

    rubric: Rubric | None
    reason: str
    failed: int
    variants: tuple[Rubric, ...] = ()


@dataclass(frozen=True)
class _Examination:
    """The result for one case.

    Attributes:
        case: What was examined.
        critique: What the meta-judge finds of the judgement.
        refinement: The changes that it calls for; empty where the judgement is sound.
    """

    case: Case
    critique: str
    refinement: schemas.Refinement


@dataclass(frozen=True)
class _Dropped:
    """A case of which a call failed: at which stage, and what was seen."""

    stage: Literal["analysing", "refining"]
    problem: str


@dataclass(frozen=True)
class MetaJudge(MetaModel):
    """Rewrites rubrics; all calls of a phase run at once.

    All methods raise ``StopRun`` if a cap is reached, and ``EndpointError`` if the model rejects calls
    permanently.
    """

    async def screen(self, question: Question, cases: Sequence[Case]) -> list[str]:
        """Prescreens: ids of the rollouts that the meta-judge finds badly judged.

        Source: arXiv 2504.20157, section 3 (its first implementation has it switched off).
        """

        async def screen(case: Case) -> bool:
            cluster, facts = case.rollout.cluster, {"reward": case.rollout.reward}
            parse = schemas.parse_screening
            try:
                return await self.ask(
                    "prescreen", schemas.SCREENED, parse, question, case.blocks, cluster=cluster, facts=facts
                )
            except CallFailed:
                return False
            finally:
                work.advance()

        with activity("prescreening", total=len(cases), unit="answers") as work:
            screened = await asyncio.gather(*(screen(case) for case in cases))
        return [case.rollout.id for case, bad in zip(cases, screened, strict=True) if bad]

    async def propose(self, question: Question, cases: Sequence[Case], variants: int = 0) -> Proposal:
        """Makes the next rubric.

        Args:
            question: The current rubric, by which the rollouts were judged, and what else is known.
            cases: What is to be learned from, at least one.
            variants: How many merges to ask for in addition, each without another one of the refinements.
        """
        results: list[_Examination | _Dropped] = []
        with activity("analysing and refining", total=len(cases), unit="samples") as work:

            async def examine(case: Case) -> _Examination | _Dropped:
                result = await self._examine(question, case)
                work.advance()
                return result

            results += await asyncio.gather(*map(examine, cases))
        examinations = {
            f"s{number}": result
            for number, result in enumerate(results, start=1)
            if isinstance(result, _Examination)
        }
        dropped = [result for result in results if isinstance(result, _Dropped)]
        if not examinations:
            return Proposal(None, _why_dropped(dropped), len(dropped))
        try:
            with activity("merging"):
                (merged, *others), clusters = await asyncio.gather(
                    self._merge_all(question, examinations, variants),
                    self._revise_guidelines(question, list(examinations.values())),
                )
        except CallFailed as failure:
            return Proposal(None, f"merging failed: {failure.detail}", len(dropped))
        whole = Rubric(criteria=merged.criteria, guidelines=merged.guidelines, clusters=clusters)
        return Proposal(whole, "", len(dropped), tuple(others))

    async def revise(self, question: Question, refused: Rubric, objections: Sequence[Objection]) -> Proposal:
        """Makes another rubric of one that the gate refused, given the reasons."""
        listed = "\n".join(f"- {objection.complaint}" for objection in objections)
        blocks = [
            Block("Your proposal:", "refused", schemas.proposal_json(refused.criteria)),
            Block("Why it was rejected:", "objections", listed),
            *_example_blocks(objections),
            *history_block(question),
        ]
        facts = {"objections": [objection.id for objection in objections]}
        try:
            with activity("revising"):
                revised = await self.ask(
                    "revise",
                    schemas.MERGED,
                    lambda data: schemas.parse_merge(data, refused, {}),
                    question,
                    blocks,
                    facts=facts,
                    limit=_LIMIT,
                    words=_WORDS,
                )
        except CallFailed as failure:
            return Proposal(None, f"revising failed: {failure.detail}", 0)
        return Proposal(revised, "", 0)

    async def _examine(self, question: Question, case: Case) -> _Examination | _Dropped:
        """The critique of one case, and the changes it calls for."""
        rubric, cluster = question.rubric, case.rollout.cluster
        blocks = [*case.blocks, *figures_block(question)]
        try:
            critique = await self.ask(
                case.template, schemas.CRITIQUE, schemas.parse_critique, question, blocks, cluster=cluster
            )
        except CallFailed as failure:
            return _Dropped("analysing", failure.detail)
        if critique.sound:
            return _Examination(case, critique.critique, schemas.Refinement(()))
        blocks.append(Block("Your critique of the judgement:", "critique", critique.critique))
        try:
            refinement = await self.ask(
                "refine",
                schemas.REFINED,
                lambda data: schemas.parse_refinement(data, rubric, critique.critique),
                question,
                blocks,
                cluster=cluster,
            )
        except CallFailed as failure:
            return _Dropped("refining", failure.detail)
        return _Examination(case, critique.critique, refinement)

    async def _merge_all(
        self, question: Question, examinations: Mapping[str, _Examination], variants: int
    ) -> list[Rubric]:
        """The merge of all refinements, then those that leave one of them out."""
        refined = [label for label, examination in examinations.items() if examination.refinement]
        drawn = random.Random(question.draw)
        # Of a single refinement nothing would be left.
        left_out = drawn.sample(refined, min(variants, len(refined))) if len(refined) > 1 else []
        subsets = [
            {label: examination for label, examination in examinations.items() if label != missing}
            for missing in left_out
        ]
        return await asyncio.gather(*(self._merge(question, each) for each in (examinations, *subsets)))

    async def _merge(self, question: Question, examinations: Mapping[str, _Examination]) -> Rubric:
        """One rubric of all refinements; the current one where nothing calls for another."""
        refined = {label: each for label, each in examinations.items() if each.refinement}
        if not refined and not question.demands_change:
            return question.rubric
        blocks = [
            Block("", "proposal", _proposal_text(label, examination))
            for label, examination in refined.items()
        ]
        sources = {label: examination.case.rollout.id for label, examination in refined.items()}
        return await self.ask(
            "merge",
            schemas.MERGED,
            lambda data: schemas.parse_merge(data, question.rubric, sources),
            question,
            [*figures_block(question), *history_block(question), *blocks],
            limit=_LIMIT,
            words=_WORDS,
        )

    async def _revise_guidelines(
        self, question: Question, examinations: Sequence[_Examination]
    ) -> dict[str, str]:
        """The next guidelines of all clusters; those of which nothing new was seen keep what they have."""
        by_cluster: dict[str, list[_Examination]] = {}
        for examination in examinations:
            if cluster := examination.case.rollout.cluster:
                by_cluster.setdefault(cluster, []).append(examination)
        written = await asyncio.gather(
            *(self._guide(question, cluster, seen) for cluster, seen in by_cluster.items())
        )
        return question.rubric.clusters | dict(zip(by_cluster, written, strict=True))

    async def _guide(self, question: Question, cluster: str, seen: Sequence[_Examination]) -> str:
        """The next guidelines of one cluster; the old ones where the call failed."""
        old = question.rubric.clusters.get(cluster, "")
        blocks = [Block("The kind of task:", "kind", cluster)]
        if old:
            blocks.append(Block("Its guidelines so far:", "guidelines", old))
        for number, examination in enumerate(seen, start=1):
            if number <= GUIDING_CASES:
                blocks += examination.case.blocks
            blocks.append(Block("Your critique:", "critique", examination.critique))
        try:
            return await self.ask("guide", schemas.GUIDED, schemas.parse_guidelines, question, blocks)
        except CallFailed:
            return old


def _example_blocks(objections: Sequence[Objection]) -> list[Block]:
    """The answers that a refused rubric paid for, with the judge's reasons."""
    blocks: list[Block] = []
    for objection in objections:
        if objection.example and len(blocks) < 3 * EXAMPLES:
            sample, verdict = objection.example
            text = sample.completion[:EXAMPLE_CHARS]
            blocks += [
                Block(f"An example ({objection.complaint}). The task:", "task", sample.prompt),
                Block("The answer that earned too much:", "completion", text),
                Block("The judge's assessment by your proposal:", "verdict", verdict_json(verdict)),
            ]
    return blocks


def _proposal_text(label: str, examination: _Examination) -> str:
    refinement = examination.refinement
    context = {"label": label, "critique": examination.critique, "drop": list(refinement.drop)}
    return schemas.proposal_json(refinement.criteria, **context)


def _why_dropped(dropped: Sequence[_Dropped]) -> str:
    """At which stage all cases were dropped, and the last problem seen there."""
    parts: list[str] = []
    for stage in ("analysing", "refining"):
        if problems := [case.problem for case in dropped if case.stage == stage]:
            parts.append(f"{stage} failed for {len(problems)} of {len(dropped)} samples: {problems[-1]}")
    return "; ".join(parts)
