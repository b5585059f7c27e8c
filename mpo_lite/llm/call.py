"""One question to a model, as the layers above put it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mpo_lite.llm.cache import cache_key
from mpo_lite.llm.ledger import Purpose
from mpo_lite.llm.models import Backend
from mpo_lite.llm.structured_output import Schema
from mpo_lite.prompts import Prompt
from mpo_lite.types import Message

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One question to a model.

    Attributes:
        backend: Whom to ask.
        purpose: What for; the ledger counts by it.
        prompt: What is said.
        schema: JSON Schema of the answer.
        parse: Checks the answer's object and makes the value; ValueError for one that is not as asked. Calls
            that are equal otherwise must have equal ones: they share an answer.
        room: Longest reply in tokens, unless the backend has a limit of its own.
        draw: Distinguishes calls with equal text that shall get answers of their own: a batch index, a
            replicate.
        objections: Ids of the gate's objections that the prompt tells of.
    """

    backend: Backend
    purpose: Purpose
    prompt: Prompt
    schema: Schema
    parse: Callable[[dict[str, Any]], T]
    draw: str = ""
    room: int = 1024
    objections: tuple[str, ...] = ()

    @property
    def messages(self) -> list[Message]:
        """The conversation."""
        return self.prompt.messages

    @property
    def marks(self) -> dict[str, Any]:
        """What a simulated model is told about the prompt, so that it need not guess by its wording."""
        return {"template": self.prompt.template, "objections": list(self.objections)}

    @property
    def max_tokens(self) -> int:
        """Longest reply in tokens."""
        return self.backend.max_tokens or self.room

    def key(self, revision: str = "") -> str:
        """Identity in the cache: everything that could change the answer.

        Args:
            revision: What the server says it serves under the model's name; empty where it says nothing else.
        """
        return cache_key(
            backend=f"{self.backend.label}{revision and f' = {revision}'}",
            messages=self.messages,
            temperature=self.backend.temperature,
            max_tokens=self.max_tokens,
            schema=self.schema,
            draw=self.draw,
        )
