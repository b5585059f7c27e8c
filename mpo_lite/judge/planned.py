"""Planned judging: first a plan for judging answers to a prompt, then each answer by that plan.

Source: arXiv 2504.20157, mathematical reasoning: the judge solves the problem once, and notes what an answer
must contain, before it looks at any answer. The plan depends only on prompt and rubric: one call, shared by
all answers to the prompt, so that they are judged by the same standard.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mpo_lite.errors import CallFailed
from mpo_lite.judge.base import CallCost, Sample, task_blocks
from mpo_lite.judge.pointwise import PointwiseJudge
from mpo_lite.llm.call import Call
from mpo_lite.llm.structured_output import object_schema
from mpo_lite.prompts import fence, fence_blocks, render
from mpo_lite.rubric import Rubric
from mpo_lite.types import Verdict

MAX_PART = 6000
"""Characters that are kept of a plan's solution, and of what it says about judging."""
PLAN_TOKENS = 2048
"""Maximum tokens of a plan: about twice the 800 words that are asked for."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedJudge:
    """A judge that solves each prompt and plans its judging, per rubric, before it judges.

    If the plan failed, the answer is not judged: without it, the standard would differ from its group's.

    Attributes:
        single: Makes the plans and judges by them.
    """

    single: PointwiseJudge

    @property
    def cost(self) -> CallCost:
        """See ``Judge.cost``."""
        return CallCost(plans=True)

    async def verdicts(self, samples: Sequence[Sample], rubric: Rubric) -> list[Verdict]:
        """See ``Judge.verdicts``."""
        works = [self._judge_by_plan(sample, rubric) for sample in samples]
        return await self.single.gather_with_deadline(works, self.single.timed_out(rubric), "answers")

    async def plans(self, samples: Sequence[Sample], rubric: Rubric) -> dict[str, str]:
        """Prompt → its plan, of those whose plan succeeds."""

        async def plan(sample: Sample) -> str | None:
            try:
                return await self.single.client.ask(self.build_plan_call(sample, rubric))
            except CallFailed:
                return None

        made = await asyncio.gather(*map(plan, samples))
        return {sample.prompt: text for sample, text in zip(samples, made, strict=True) if text is not None}

    async def _judge_by_plan(self, sample: Sample, rubric: Rubric) -> Verdict:
        try:
            # The calls of one prompt are equal, so the client sends one of them and shares its answer.
            plan = await self.single.client.ask(self.build_plan_call(sample, rubric))
        except CallFailed as failure:
            _log.debug("no plan: %s", failure)
            return self.single.failed(failure, rubric)
        return await self.single.judge_one(sample, rubric, plan)

    def build_plan_call(self, sample: Sample, rubric: Rubric) -> Call[str]:
        """The call that asks for a plan; it does not show the answer."""
        single = self.single

        def parse(data: dict[str, Any]) -> str:
            parts = [data.get("solution"), data.get("plan")]
            texts = [part.strip()[:MAX_PART] for part in parts if isinstance(part, str)]
            if len(data) != len(texts) or len(texts) != 2 or not texts[1]:
                # sent to the judge: see parse_verdict
                raise ValueError("must hold exactly solution and plan, two texts, and the plan not be empty")
            solution, plan = texts
            return f"Solution:\n{solution}\n\nPlan:\n{plan}" if solution else plan

        key = single.client.cache.nonce_key
        task = task_blocks(single.brief.instructions, sample.prompt, sample.reference)
        prompt = render(
            "judge/plan",
            persona=single.brief.persona,
            rubric=fence("rubric", rubric.render(sample.cluster), key),
            material=fence_blocks(task, key),
        )
        text = {"type": "string", "maxLength": MAX_PART}
        schema = object_schema({"solution": text, "plan": text})
        return Call(
            single.backend, single.purpose, prompt, schema, parse, single.draw, PLAN_TOKENS, rubric.facts
        )
