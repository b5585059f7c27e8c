"""The one way in which the meta-judge's model is asked: a prompt template, a schema, a parser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from mpo_lite.llm.call import Call, T
from mpo_lite.llm.client import Client
from mpo_lite.llm.models import Backend
from mpo_lite.llm.structured_output import Schema
from mpo_lite.prompts import Block, fence, fence_blocks, render
from mpo_lite.rubric import MAX_CRITERIA, Rubric, first_problem
from mpo_lite.types import Brief

REPLY_TOKENS = {
    "prescreen": 256,
    "analyse": 512,
    "compare": 512,
    "contrast": 512,
    "guide": 512,
    "refine": 2048,
    "merge": 4096,
    "revise": 4096,
}
"""Template → maximum tokens of the reply: about twice what the prompt asks for."""
NO_INSTRUCTIONS = "The task alone, without further instructions."


@dataclass(frozen=True)
class Question:
    """What a step asks the meta-judge about.

    Attributes:
        rubric: The current rubric.
        draw: Distinguishes steps: a later step gets new answers, the same step done again gets those from the
            cache.
        figures: What was measured of criteria and answers since the last change, or empty.
        history: Earlier versions, refused proposals and what became of them, or empty.
        demands_change: Whether the figures call for another rubric, whatever the single judgements show.
    """

    rubric: Rubric
    draw: str
    figures: str = ""
    history: str = ""
    demands_change: bool = False


@dataclass(frozen=True)
class MetaModel:
    """A model with what it is told of the task.

    Attributes:
        client: Asks the model.
        backend: The meta-judge's model.
        brief: Purpose of the task, and what the policy is asked.
    """

    client: Client
    backend: Backend
    brief: Brief

    async def ask(
        self,
        template: str,
        schema: Schema,
        parse: Callable[[dict[str, Any]], T],
        question: Question,
        blocks: Sequence[Block] = (),
        *,
        cluster: str = "",
        facts: Mapping[str, Any] | None = None,
        **values: str,
    ) -> T:
        """Asks one question.

        Args:
            template: Name below ``prompts/meta/``.
            schema: Of the answer.
            parse: Checks the answer and builds the value; raises ValueError for an invalid one.
            question: What the step is about; its rubric is always shown.
            blocks: What else is shown, in order.
            cluster: Whose guidelines are shown with the rubric.
            facts: See ``Call.facts``.
            values: Further slots of the template.

        Raises:
            CallFailed: There is no usable answer.
            StopRun: A cap is reached.
            EndpointError: The model rejects calls permanently.
        """

        def checked(data: dict[str, Any]) -> T:
            try:
                return parse(data)
            except ValidationError as error:
                raise ValueError(first_problem(error)) from error

        rubric, key = question.rubric, self.client.cache.nonce_key
        prompt = render(
            f"meta/{template}",
            purpose=self.brief.purpose,
            instructions=fence("instructions", self.brief.instructions or NO_INSTRUCTIONS, key),
            rubric=fence("rubric", rubric.render(cluster, with_weights=True), key),
            material=fence_blocks(blocks, key),
            **values,
        )
        known = {"purpose": self.brief.purpose, "limit": MAX_CRITERIA, **rubric.facts, **(facts or {})}
        room = REPLY_TOKENS[template]
        return await self.client.ask(
            Call(self.backend, "meta", prompt, schema, checked, question.draw, room, known)
        )


def figures_block(question: Question) -> list[Block]:
    """The figures, if there are any; they hold phrases that the policy wrote."""
    lead = "What was measured since the last change of the rubric:"
    return [Block(lead, "figures", question.figures)] if question.figures else []


def history_block(question: Question) -> list[Block]:
    """What became of earlier rubrics and proposals, if there are any."""
    lead = "What became of earlier versions of the rubric and of earlier proposals:"
    return [Block(lead, "history", question.history)] if question.history else []
