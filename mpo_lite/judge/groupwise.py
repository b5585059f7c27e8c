"""Groupwise judging: one structured call for all completions of a prompt, so that they are compared."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mpo_lite.errors import CallFailed
from mpo_lite.judge.base import (
    CallCost,
    Sample,
    answer_block,
    example_text,
    group_by_prompt,
    parse_verdict,
    reply_token_limit,
    task_blocks,
    verdict_schema,
    verdict_skeleton,
)
from mpo_lite.judge.pointwise import PointwiseJudge
from mpo_lite.llm.call import Call
from mpo_lite.llm.structured_output import object_schema
from mpo_lite.prompts import fence, fence_blocks, render
from mpo_lite.rubric import Rubric
from mpo_lite.types import Assessment, Verdict, text_hash

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroupwiseJudge:
    """A judge that sees the completions of a prompt side by side.

    They are shown in a random order derived from their own text, so that no place in a batch is favoured. If
    a group cannot be judged in one call, because it does not fit or the reply stays malformed, its answers
    are judged one by one.

    Attributes:
        single: Judges one by one; its model, persona and timeout apply to groups too.
        group_size: Maximum completions per call.
    """

    single: PointwiseJudge
    group_size: int

    @property
    def cost(self) -> CallCost:
        """See ``Judge.cost``."""
        return CallCost(group_size=self.group_size)

    async def verdicts(self, samples: Sequence[Sample], rubric: Rubric) -> list[Verdict]:
        """See ``Judge.verdicts``."""
        groups = group_by_prompt(samples, self.group_size)
        # A late group yields one timed-out verdict per answer.
        works = [self._judge_group(group, rubric) for group in groups]
        judged = await self.single.gather_with_deadline(works, list[Verdict](), "groups of answers")
        return [
            verdict
            for group, verdicts in zip(groups, judged, strict=True)
            for verdict in verdicts or [self.single.timed_out(rubric)] * len(group)
        ]

    async def _judge_group(self, group: list[Sample], rubric: Rubric) -> list[Verdict]:
        # Nothing to compare it with; judged alone, it shares its cache entry with pointwise runs.
        if len(group) == 1:
            return await self.single.verdicts(group, rubric)
        order = list(range(len(group)))
        # Seeded by the text: the same group gets the same order, and so the same cache key.
        random.Random(text_hash("\x1f".join(sample.completion for sample in group))).shuffle(order)
        try:
            group_assessments = await self.single.client.ask(
                self.build_call([group[place] for place in order], rubric)
            )
        except CallFailed as failure:
            _log.debug("a group was not judged: %s", failure)
            # One by one only helps if the group was the problem, not if the server is down.
            if failure.kind not in ("transport", "timeout"):
                return await self.single.verdicts(group, rubric)
            return [self.single.failed(failure, rubric)] * len(group)
        verdicts = {
            place: self.single.to_verdict(assessments, rubric)
            for place, assessments in zip(order, group_assessments, strict=True)
        }
        return [verdicts[place] for place in range(len(group))]

    def build_call(self, shown: Sequence[Sample], rubric: Rubric) -> Call[list[dict[str, Assessment]]]:
        """The call that judges all answers to one prompt, in the order shown."""
        single, key = self.single, self.single.client.cache.nonce_key
        names = [f"answer_{number}" for number, _ in enumerate(shown, start=1)]

        def parse(data: dict[str, Any]) -> list[dict[str, Assessment]]:
            if sorted(data) != sorted(names) or not all(isinstance(data[name], dict) for name in names):
                raise ValueError(f"the keys must be exactly: {', '.join(names)}, each an object")
            return [parse_verdict(data[name], rubric, single.backend.model) for name in names]

        # One prompt, so one cluster and one reference.
        prompt, reference, cluster = shown[0].prompt, shown[0].reference, shown[0].cluster
        task = task_blocks(single.brief.instructions, prompt, reference)
        answers = [answer_block(sample, name) for name, sample in zip(names, shown, strict=True)]
        filled = render(
            "judge/groupwise",
            persona=single.brief.persona,
            rubric=fence("rubric", rubric.render(cluster), key),
            examples=example_text(single.brief.examples, key),
            skeleton=f'{{"{names[0]}": {verdict_skeleton(rubric)}, …}}',
            names=", ".join(names),
            material=fence_blocks([*task, *answers], key),
        )
        schema = object_schema(dict.fromkeys(names, verdict_schema(rubric)))
        room = reply_token_limit(len(rubric.criteria) * len(shown))
        return Call(single.backend, single.purpose, filled, schema, parse, single.draw, room, rubric.facts)
