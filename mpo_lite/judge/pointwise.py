"""Pointwise judging: one structured call per completion, for all criteria."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

from mpo_lite.errors import CallFailed
from mpo_lite.judge.base import (
    CallCost,
    Sample,
    T,
    answer_block,
    example_text,
    gather_with_deadline,
    parse_verdict,
    reply_token_limit,
    shorten_sample,
    task_blocks,
    verdict_schema,
    verdict_skeleton,
)
from mpo_lite.llm.call import Call
from mpo_lite.llm.client import Client
from mpo_lite.llm.ledger import Purpose
from mpo_lite.llm.models import Backend
from mpo_lite.prompts import Block, fence, fence_blocks, render
from mpo_lite.rubric import Rubric
from mpo_lite.types import Assessment, Brief, Verdict

CUTS = 3
"""How often a sample that does not fit the judge's context is shortened before it counts as failed."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PointwiseJudge:
    """A judge that sees one completion at a time.

    Attributes:
        client: Asks the model.
        backend: The judge's model.
        brief: What it is told of the task.
        batch_s: Seconds without any verdict after which the rest counts as not judged; None waits.
        draw: Distinguishes replicates of one judge.
        purpose: Category under which the ledger counts its calls.
    """

    client: Client
    backend: Backend
    brief: Brief
    batch_s: float | None = None
    draw: str = ""
    purpose: Purpose = "judge"

    @property
    def cost(self) -> CallCost:
        """See ``Judge.cost``."""
        return CallCost()

    async def verdicts(self, samples: Sequence[Sample], rubric: Rubric) -> list[Verdict]:
        """See ``Judge.verdicts``."""
        works = [self.judge_one(sample, rubric) for sample in samples]
        return await self.gather_with_deadline(works, self.timed_out(rubric), "answers")

    async def gather_with_deadline(self, works: Sequence[Awaitable[T]], late: T, unit: str) -> list[T]:
        """Runs this judge's calls for as long as verdicts come in; see ``base.gather_with_deadline``."""
        return await gather_with_deadline(works, late, unit, self.batch_s, lambda: self.client.checked_at)

    def to_verdict(self, assessments: dict[str, Assessment], rubric: Rubric) -> Verdict:
        """The verdict for assessments of all criteria."""
        return Verdict(rubric.reward(assessments), rubric.set_hash, assessments, judge=self.backend.label)

    def failed(self, failure: CallFailed, rubric: Rubric) -> Verdict:
        """A verdict without a reward, which records why."""
        kind, detail = failure.kind, failure.detail
        return Verdict(None, rubric.set_hash, failure=kind, detail=detail, judge=self.backend.label)

    def timed_out(self, rubric: Rubric) -> Verdict:
        """The verdict for an answer that was not judged before the batch timed out."""
        return self.failed(CallFailed("timeout", "not judged before the batch timed out"), rubric)

    async def judge_one(self, sample: Sample, rubric: Rubric, plan: str = "") -> Verdict:
        """Judges one sample, by a plan if there is one; shortens it if it does not fit the context."""
        failed: CallFailed | None = None
        for _ in range(1 + CUTS):
            try:
                return self.to_verdict(await self.client.ask(self.build_call(sample, rubric, plan)), rubric)
            except CallFailed as failure:
                _log.debug("not judged: %s", failure)
                failed = failure
            # Shortening helps only a sample that is too long.
            if failed.kind != "context":
                break
            sample = shorten_sample(sample)
        assert failed
        return self.failed(failed, rubric)

    def build_call(self, sample: Sample, rubric: Rubric, plan: str = "") -> Call[dict[str, Assessment]]:
        """The call that judges one sample."""
        key = self.client.cache.nonce_key

        def parse(data: dict[str, Any]) -> dict[str, Assessment]:
            return parse_verdict(data, rubric, self.backend.model)

        blocks = task_blocks(self.brief.instructions, sample.prompt, sample.reference)
        if plan:  # written by a model that read the prompt, so it is fenced like any other text
            blocks.append(Block("Your plan for judging answers to this task:", "plan", plan))
        # Unchanging parts come first, because providers cache prompts by prefix.
        prompt = render(
            "judge/planned" if plan else "judge/pointwise",
            persona=self.brief.persona,
            rubric=fence("rubric", rubric.render(sample.cluster), key),
            examples=example_text(self.brief.examples, key),
            skeleton=verdict_skeleton(rubric),
            material=fence_blocks([*blocks, answer_block(sample, "The answer")], key),
        )
        room = reply_token_limit(len(rubric.criteria))
        schema = verdict_schema(rubric)
        return Call(self.backend, self.purpose, prompt, schema, parse, self.draw, room, rubric.facts)
