"""Planned judging: first a plan for judging answers to a prompt, then each answer by that plan.

Source: arXiv 2504.20157, mathematical reasoning: the judge solves the problem once, and notes what an answer
must contain, before it looks at any answer. The plan depends only on prompt and rubric: one call, shared by
all answers to the prompt, so that they are judged by the same standard.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mpo_lite.errors import CallFailed
from mpo_lite.judge.base import CallCost, Sample
from mpo_lite.judge.pointwise import PointwiseJudge
from mpo_lite.llm.call import Call
from mpo_lite.llm.structured_output import object_schema
from mpo_lite.prompts import fence, render
from mpo_lite.rubric import Rubric
from mpo_lite.types import Verdict

MAX_PLAN = 4000
PLAN_TOKENS = 1024
"""Maximum tokens of a plan."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedJudge:
    """A judge that makes a plan per prompt and rubric before it judges.

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
            plan = data.get("plan")
            if set(data) != {"plan"} or not isinstance(plan, str) or not plan.strip():
                # sent to the judge: see parse_verdict
                raise ValueError("must hold exactly the key plan, a text")
            return plan.strip()[:MAX_PLAN]

        prompt = render(
            "judge/plan",
            persona=single.persona,
            rubric=rubric.render(sample.cluster),
            task=fence("task", sample.prompt, single.client.cache.nonce_key),
        )
        schema = object_schema({"plan": {"type": "string", "maxLength": MAX_PLAN}})
        return Call(
            single.backend, single.purpose, prompt, schema, parse, single.draw, PLAN_TOKENS, rubric.facts
        )
