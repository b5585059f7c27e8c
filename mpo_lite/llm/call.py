"""One request to a model, as the layers above state it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
    """One request to a model.

    Attributes:
        backend: The model to ask.
        purpose: Category under which the ledger counts it.
        prompt: The messages and their template.
        schema: JSON Schema of the answer.
        parse: Checks the answer's object and builds the value; raises ValueError for an invalid one. Calls
            that are equal otherwise must have equal parsers: they share an answer.
        room: Maximum reply length in tokens, unless the backend has its own limit.
        draw: Distinguishes calls with equal text that must get separate answers: a batch index, a replicate.
        facts: What the prompt says, as data: a simulated model reads it here, whatever the prompt's wording.
    """

    backend: Backend
    purpose: Purpose
    prompt: Prompt
    schema: Schema
    parse: Callable[[dict[str, Any]], T]
    draw: str = ""
    room: int = 1024
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def messages(self) -> list[Message]:
        """The conversation."""
        return self.prompt.messages

    @property
    def all_facts(self) -> dict[str, Any]:
        """The facts, with the name of the prompt's template."""
        return {"template": self.prompt.template, **self.facts}

    @property
    def max_tokens(self) -> int:
        """Maximum reply length in tokens."""
        return self.backend.max_tokens or self.room

    def key(self, revision: str = "") -> str:
        """Identity in the cache: everything that could change the answer.

        Args:
            revision: What the server says it serves under the model's name; empty if it says nothing more.
        """
        # Seed and output mode are left out: they are ways of asking for the same answer.
        return cache_key(
            backend=f"{self.backend.label}{revision and f' = {revision}'}",
            messages=self.messages,
            temperature=self.backend.temperature,
            max_tokens=self.max_tokens,
            schema=self.schema,
            draw=self.draw,
        )
