"""Pointwise judging: one structured call per completion for all criteria."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mpo_lite.errors import CallFailed
from mpo_lite.judge.base import Sample, parse_verdict, verdict_schema
from mpo_lite.llm.client import Call, Client
from mpo_lite.llm.models import Backend
from mpo_lite.prompts import fence, render
from mpo_lite.rubric import Rubric, set_hash
from mpo_lite.types import Assessment, Verdict

TOKENS_PER_CRITERION = 96
"""Room for one reason and level; a long rubric raises the reply's limit accordingly."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PointwiseJudge:
    """A judge that sees one completion at a time.

    Attributes:
        client: Asks the model.
        backend: The judge's model.
        persona: Who the judge is to be, from the task.
    """

    client: Client
    backend: Backend
    persona: str

    async def verdicts(self, samples: Sequence[Sample], rubric: Rubric) -> list[Verdict]:
        """See ``Judge.verdicts``."""
        # Gathered without return_exceptions: what is no CallFailed must stop the run, not one sample.
        return list(await asyncio.gather(*(self._verdict(sample, rubric) for sample in samples)))

    async def _verdict(self, sample: Sample, rubric: Rubric) -> Verdict:
        identity = set_hash({"": rubric})
        try:
            assessments = await self.client.ask(self._call(sample, rubric))
        except CallFailed as failure:
            _log.debug("not judged: %s", failure)
            return Verdict(None, identity, failure=failure.kind)
        return Verdict(rubric.reward(assessments), identity, assessments)

    def _call(self, sample: Sample, rubric: Rubric) -> Call[dict[str, Assessment]]:
        key = self.client.cache.nonce_key

        def parse(data: dict[str, Any]) -> dict[str, Assessment]:
            return parse_verdict(data, rubric)

        # What stays equal comes first: providers cache prompts by prefix.
        messages = render(
            "judge/pointwise",
            persona=self.persona,
            rubric=rubric.render(),
            ids=", ".join(criterion.id for criterion in rubric.criteria),
            task=fence("task", sample.prompt, key),
            completion=fence("completion", sample.completion, key),
        )
        room = max(self.backend.max_tokens, TOKENS_PER_CRITERION * len(rubric.criteria))
        return Call(replace(self.backend, max_tokens=room), "judge", messages, verdict_schema(rubric), parse)
