"""What a reply comes to: the value that was asked for, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from mpo_lite.errors import FailureKind
from mpo_lite.llm.call import Call, T
from mpo_lite.llm.structured_output import blank_loop, parse_object
from mpo_lite.llm.transport import Reply


@dataclass(frozen=True)
class Reading(Generic[T]):
    """A reply and what it comes to.

    Attributes:
        reply: As it came.
        value: The checked value; None where there is none, or where the call has no schema.
        failure: Why there is no value; None where there is one.
        problem: The same in words, without a word of the reply.
        formed: Whether the reply is an object with the keys that were asked for, whatever they hold.
    """

    reply: Reply
    value: T | None = None
    failure: FailureKind | None = None
    problem: str = ""

    formed: bool = False

    @property
    def blank(self) -> bool:
        """Whether the reply trails off in white space: guided decoding allows it."""
        return self.reply.finish_reason == "length" and blank_loop(self.reply.text)


def read(call: Call[T], reply: Reply) -> Reading[T]:
    """Reads a reply to ``call``."""
    if reply.refused:
        return Reading(reply, failure="refusal", problem="declined to answer")
    if reply.finish_reason == "length":
        blank = blank_loop(reply.text)
        problem = "filled with white space" if blank else "cut off at the token limit"
        return Reading(reply, failure="parse" if blank else "cut", problem=problem)
    if not reply.text.strip():
        return Reading(reply, failure="parse", problem="empty")
    if not call.schema:  # a mere sign of life
        return Reading(reply)
    formed = False
    try:
        data = parse_object(reply.text)
        formed = sorted(data) == sorted(call.schema["required"])
        return Reading(reply, call.parse(data), formed=formed)
    except ValueError as error:
        return Reading(reply, failure="parse", problem=str(error), formed=formed)
