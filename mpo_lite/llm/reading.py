"""What a reply yields: the requested value, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from mpo_lite.errors import FailureKind
from mpo_lite.llm.call import Call, T
from mpo_lite.llm.structured_output import is_whitespace_loop, parse_object
from mpo_lite.llm.transport import Reply


@dataclass(frozen=True)
class Reading(Generic[T]):
    """A reply and what it yields.

    Attributes:
        reply: The reply as received.
        value: The checked value; None if there is none, or if the call has no schema.
        failure: Why there is no value; None if there is one.
        problem: The same in words, without quoting the reply.
        has_right_keys: Whether the reply is an object with the keys that were asked for, whatever they hold.
    """

    reply: Reply
    value: T | None = None
    failure: FailureKind | None = None
    problem: str = ""
    has_right_keys: bool = False

    @property
    def is_blank(self) -> bool:
        """Whether the reply ends in endless white space, which guided decoding allows."""
        return self.reply.finish_reason == "length" and is_whitespace_loop(self.reply.text)


def read_reply(call: Call[T], reply: Reply) -> Reading[T]:
    """Reads a reply to ``call``."""
    if reply.refused:
        return Reading(reply, failure="refusal", problem="declined to answer")
    if reply.finish_reason == "length":
        is_blank = is_whitespace_loop(reply.text)
        problem = "filled with white space" if is_blank else "cut off at the token limit"
        return Reading(reply, failure="parse" if is_blank else "cut", problem=problem)
    if not reply.text.strip():
        return Reading(reply, failure="parse", problem="empty")
    if not call.schema:  # an availability check: any reply will do
        return Reading(reply)
    has_right_keys = False
    try:
        data = parse_object(reply.text)
        has_right_keys = sorted(data) == sorted(call.schema["required"])
        return Reading(reply, call.parse(data), has_right_keys=has_right_keys)
    except ValueError as error:
        return Reading(reply, failure="parse", problem=str(error), has_right_keys=has_right_keys)
