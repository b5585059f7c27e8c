"""What an attempt cost, for the caps, the ledger and the call log."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from mpo_lite.llm import transport, wire
from mpo_lite.llm.call import Call
from mpo_lite.llm.error_mapping import Retryable, provider_message, redact_keys
from mpo_lite.llm.ledger import CallRecord
from mpo_lite.llm.reading import Reading
from mpo_lite.llm.transport import Reply
from mpo_lite.types import Message

MARKUP_TOKENS = 512
"""Allowance for what chat templates and a provider's own text about tools add to a prompt."""
LONGEST_TOKEN = 200
"""Average bytes per token above which a reported token count is implausible."""
REPLY_CHARS = 200
"""Characters of an unusable reply that the ledger keeps."""


def bound_tokens(call: Call[Any], messages: list[Message], parameters: dict[str, Any]) -> tuple[int, int]:
    """Upper bounds on the tokens a call can use: input and output."""
    # A byte-level tokenizer never makes more tokens than there are UTF-8 bytes; no tokenizer has to be
    # loaded. Providers show the schema to the model, so it counts as input.
    sent = sum(len(message["content"].encode("utf-8", "replace")) for message in messages)
    schema_bytes = len(json.dumps(call.schema)) if call.schema else 0
    received = parameters.get("max_tokens") or parameters["max_completion_tokens"]
    return sent + schema_bytes + MARKUP_TOKENS, received


def build_record(
    call: Call[Any],
    outcome: Reading[Any] | BaseException,
    seconds: float,
    pricing: transport.Pricing | None,
    bounds: tuple[int, int],
) -> CallRecord:
    """What an attempt cost.

    Without reported usage, or if the model may have worked for a lost reply, this is the worst case: what may
    have been charged must not slip past a cap.
    """
    reading = outcome if isinstance(outcome, Reading) else None
    reply = reading.reply if reading else None
    retry = outcome if isinstance(outcome, Retryable) else None
    # A cancelled attempt may have reached the model, and is charged then.
    lost = isinstance(outcome, asyncio.CancelledError) or (retry is not None and retry.billed)
    sent, received = bounds if reply or lost else (0, 0)
    metered = reply is not None and _is_plausible(reply, call, bounds)
    if reply and metered:
        sent, received = reply.input_tokens or 0, reply.output_tokens or 0
    usd = None if sent else 0.0
    if pricing:
        usd = pricing.cost(reply) if reply and metered else pricing.worst(sent, received)
    return CallRecord(
        time=time.time(),
        purpose=call.purpose,
        model=call.backend.model,
        outcome=_outcome_word(outcome),
        reason=reading.problem if reading else str(outcome) or "cancelled before it was answered",
        reply=_excerpt(call, reading) if reading and reading.failure else "",
        seconds=round(seconds, 4),
        input_tokens=sent,
        cached_tokens=reply.cached_tokens if reply and metered else 0,
        output_tokens=received,
        metered=metered or not sent,
        usd=usd,
    )


def _is_plausible(reply: Reply, call: Call[Any], bounds: tuple[int, int]) -> bool:
    """Whether a server's token counts are possible: not negative, not above what the call can use, and not
    far below the size of the texts.
    """
    sent, received = reply.input_tokens, reply.output_tokens
    if sent is None or received is None:
        return False
    # Some servers report 1 token, or the count of another request: the caps must not rely on that.
    least = [
        sum(len(message["content"].encode("utf-8", "replace")) for message in call.messages),
        len(reply.text.encode("utf-8", "replace")),
    ]
    within = (
        least[0] / LONGEST_TOKEN <= sent <= bounds[0] and least[1] / LONGEST_TOKEN <= received <= bounds[1]
    )
    return (
        within
        and sent > 0
        and min(reply.cached_tokens, reply.written_tokens) >= 0
        and (reply.cached_tokens + reply.written_tokens <= sent)
    )


def _excerpt(call: Call[Any], reading: Reading[Any]) -> str:
    """The beginning of an unusable reply, without what it repeats of the prompt."""
    text = provider_message(reading.reply.text[: 10 * REPLY_CHARS], call.backend, call.messages)
    return " ".join(text.split())[:REPLY_CHARS]


def build_log_row(
    call: Call[Any],
    messages: list[Message],
    parameters: dict[str, Any],
    record: CallRecord,
    exchange: wire.Exchange,
) -> dict[str, Any]:
    """The row of the call log for one attempt."""
    return {
        "request": {"messages": messages, **parameters},
        "time": record.time,
        "purpose": record.purpose,
        "model": record.model,
        "address": call.backend.api_base,
        "status": exchange.status,
        "reply": redact_keys(exchange.body, call.backend),
        "outcome": record.outcome,
        "reason": record.reason,
        "seconds": record.seconds,
    }


def _outcome_word(outcome: Reading[Any] | BaseException) -> str:
    """The ledger's word for how an attempt ended."""
    if isinstance(outcome, Reading):
        return "unusable" if outcome.failure else "ok"
    return "overload" if isinstance(outcome, Retryable) and outcome.overload else "failed"
