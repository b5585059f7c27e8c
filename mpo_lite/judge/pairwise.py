"""Pairwise judging: a judge says which of two answers to a prompt is better. For comparisons, not for
training.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mpo_lite.errors import CallFailed, FailureKind
from mpo_lite.judge.base import REASON, gather_with_deadline, reply_token_limit, task_blocks
from mpo_lite.llm.call import Call
from mpo_lite.llm.client import Client
from mpo_lite.llm.ledger import Purpose
from mpo_lite.llm.models import Backend
from mpo_lite.llm.structured_output import object_schema
from mpo_lite.prompts import Block, fence_blocks, render
from mpo_lite.types import Brief

Winner = Literal["first", "second", "tie"]
_WINNERS: tuple[Winner, ...] = ("first", "second", "tie")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt, in the order they are shown."""

    prompt: str
    first: str
    second: str


@dataclass(frozen=True)
class MatchResult:
    """The result of a match: its winner, or why it was not judged, with details."""

    winner: Winner | None
    failure: FailureKind | None = None
    detail: str = ""


@dataclass(frozen=True)
class PairwiseJudge:
    """A judge of pairs.

    Attributes:
        client: Asks the model.
        backend: The judge's model.
        brief: What it is told of the task; it judges by the purpose alone.
        purpose: Category under which the ledger counts its calls.
    """

    client: Client
    backend: Backend
    brief: Brief
    purpose: Purpose = "judge"

    async def judge_pairs(self, pairs: Sequence[Pair]) -> list[MatchResult]:
        """Judges all pairs at once.

        Returns:
            One result per pair, in order.

        Raises:
            StopRun: A cap is reached, or the judge cannot be used any more.
        """
        late = MatchResult(None, "timeout", "not judged before the batch timed out")
        # No deadline: no training waits for these, and each call has its own timeouts.
        return await gather_with_deadline([self._judge_pair(pair) for pair in pairs], late, "pairs")

    async def _judge_pair(self, pair: Pair) -> MatchResult:
        try:
            return MatchResult(await self.client.ask(self.build_call(pair)))
        except CallFailed as failure:
            _log.debug("not judged: %s", failure)
            return MatchResult(None, failure.kind, failure.detail)

    def build_call(self, pair: Pair) -> Call[Winner]:
        """The call that judges a pair."""
        key = self.client.cache.nonce_key

        def parse(data: dict[str, Any]) -> Winner:
            if set(data) != {"reason", "winner"} or data["winner"] not in _WINNERS:
                raise ValueError(
                    "must hold exactly reason and winner, and the winner be first, second or tie"
                )
            return data["winner"]

        task = task_blocks(self.brief.instructions, pair.prompt)
        answers = [
            Block("The first answer:", "completion", pair.first),
            Block("The second answer:", "completion", pair.second),
        ]
        prompt = render(
            "judge/match",
            persona=self.brief.persona,
            purpose=self.brief.purpose,
            material=fence_blocks([*task, *answers], key),
        )
        schema = object_schema({"reason": REASON, "winner": {"type": "string", "enum": list(_WINNERS)}})
        return Call(self.backend, self.purpose, prompt, schema, parse, room=reply_token_limit(1))
