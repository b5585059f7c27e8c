"""One request to a model: limited, reserved, sent, accounted for, and sent again while a failure may pass."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import aiohttp
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from mpo_lite.errors import CallFailed
from mpo_lite.llm import transport, wire
from mpo_lite.llm.budget import Budget
from mpo_lite.llm.call import Call, T
from mpo_lite.llm.call_log import CallLog
from mpo_lite.llm.capabilities import Habits
from mpo_lite.llm.error_mapping import ParameterRefused, Retryable, own_words, without_keys
from mpo_lite.llm.ledger import CallRecord, Ledger
from mpo_lite.llm.limiter import Limiter
from mpo_lite.llm.models import Backend
from mpo_lite.llm.patience import Patience
from mpo_lite.llm.reading import Reading, read
from mpo_lite.llm.structured_output import Rung, without_bounds
from mpo_lite.llm.transport import Reply
from mpo_lite.types import Message

ATTEMPTS = 5
"""Attempts per request at failures that may pass. A refusal for too many requests is none: those end with the
call's patience.
"""
MAX_WAIT_S = 60.0
DOWN_WAIT_S = 5.0
"""Seconds between attempts, at most, at a server that is down and waited for."""
LEAST_ROOM = 512
"""Tokens added for thinking that are worth asking for, where a context is too small for more."""
MARKUP_TOKENS = 512
"""What chat templates and a provider's own words on tools may add to a prompt."""
REPLY_CHARS = 200
"""Characters of an unusable reply that the ledger keeps."""

_log = logging.getLogger(__name__)


class Sender:
    """Sends requests for a client.

    Args:
        ledger: Where attempts are counted.
        budget: Caps on spend, calls and tokens.
        concurrency: Attempts in flight per backend, at most.
        timeout_s: Seconds per attempt; after one that timed out, twice as long.
        verdict_s: Seconds without any answer of a backend after which calls to it are given up.
        waits_out: Whether a server that is down is waited for as long.
        log: Where whole requests and replies are kept; None where they are not.
    """

    def __init__(
        self,
        ledger: Ledger,
        budget: Budget,
        concurrency: int,
        timeout_s: float,
        verdict_s: float,
        waits_out: bool,
        log: CallLog | None,
    ) -> None:
        self._calls = log
        self._ledger, self._budget, self._waits_out = ledger, budget, waits_out
        self._timeout_s, self._verdict_s = timeout_s, verdict_s
        self._limiters: defaultdict[str, Limiter] = defaultdict(lambda: Limiter(concurrency, timeout_s))
        self._habits: dict[str, Habits] = {}
        self._session: aiohttp.ClientSession | None = None
        self._revisions: dict[tuple[str, str | None], asyncio.Task[str]] = {}
        self._outages: dict[str, float] = {}

    def habits(self, backend: Backend) -> Habits:
        """What is known of a model's ways."""
        return self._habits.setdefault(backend.label, Habits(backend.model))

    def patience(self, backend: Backend, waits_out: bool = True) -> Patience:
        """How long a new call to a backend waits."""
        limiter, waits_out = self._limiters[backend.label], waits_out and self._waits_out
        return Patience(limiter, self._verdict_s, self._timeout_s, backend.model, waits_out)

    async def revision(self, backend: Backend) -> str:
        """See ``transport.revision``; asked for once."""
        place = (backend.model, backend.api_base)
        if place not in self._revisions:
            self._revisions[place] = asyncio.create_task(
                transport.revision(backend, await self._connections())
            )
        return await asyncio.shield(self._revisions[place])

    async def send(
        self,
        call: Call[T],
        messages: list[Message],
        patience: Patience,
        *,
        rung: Rung,
        max_tokens: int,
        seed: int | None = None,
        attempts: int = ATTEMPTS,
    ) -> tuple[Reading[T], Rung]:
        """One request, retried while its failure may pass; what the model refuses is left out for good.

        Args:
            call: What is asked, of whom.
            messages: The conversation; not the call's own where an answer is to be mended.
            patience: The call's.
            rung: How to ask for the object.
            max_tokens: Longest answer.
            seed: Seed to send, or None.
            attempts: How many failures end it.

        Returns:
            The reply with what it comes to, and the rung it was asked on in the end.

        Raises:
            CallFailed: No reply; or the sample is refused, or too long.
            EndpointError: The model refuses for good.
            BudgetReached: The call does not fit under a cap.
        """
        habits = self.habits(call.backend)
        room, bounded = habits.room, False

        def request() -> dict[str, Any]:
            nonlocal rung, bounded
            rung, bounded = habits.allowed(rung), "bounds" not in habits.refused
            parameters = habits.parameters(
                rung, call.schema, max_tokens + room, call.backend.temperature, seed
            )
            if call.backend.is_simulated:
                parameters["extra_body"] = {"mpo_lite": call.marks}
            return parameters

        while True:
            retrying = AsyncRetrying(
                retry=retry_if_exception_type(Retryable),
                stop=_stop(attempts, patience.waits_out),
                wait=_wait,
                reraise=True,
            )
            try:
                reading: Reading[T] = await retrying(self._attempt, call, messages, request, patience)
                habits.fits(room)
                return reading, rung
            except ParameterRefused as refusal:
                bounded = bounded and without_bounds(call.schema) != call.schema
                rung = habits.refuses(refusal.parameter, rung, bounded)
            except CallFailed as failure:
                if failure.kind != "context" or not room:
                    raise
                room = room // 2 if room > LEAST_ROOM else 0
            except Retryable as error:
                raise CallFailed(error.kind, f"{error}, {attempts} times") from None

    async def close(self) -> None:
        """Closes the connections."""
        for asked in self._revisions.values():
            asked.cancel()
        if self._session:
            await self._session.close()
            self._session = None

    async def _attempt(
        self,
        call: Call[Any],
        messages: list[Message],
        request: Callable[[], dict[str, Any]],
        patience: Patience,
    ) -> Reading[Any]:
        limiter = self._limiters[call.backend.label]
        session = await self._connections()
        async with limiter.slot(urgent=patience.begun) as place:
            # Made only now: while this call waited, others may have shown what the model refuses.
            parameters = request()
            tariff, most = transport.tariff(call.backend), _most(call, messages, parameters)
            async with self._budget.reserve(tariff.worst(*most) if tariff else 0.0, sum(most)):
                started, patience.begun, exchange = time.monotonic(), True, wire.watch()
                outcome: Reading[Any] | BaseException = asyncio.CancelledError()
                try:
                    reply = await transport.attempt(
                        call.backend, messages, parameters, session, patience.attempt_s, exchange
                    )
                    limiter.succeeded(place)
                    outcome = read(call, reply)
                    return outcome
                except Retryable as error:
                    outcome = patience.last = error
                    if error.down and patience.waits_out:
                        self._tell_outage(call.backend, error)
                    if error.overload:
                        limiter.overloaded(place, min(error.retry_after or 0.0, MAX_WAIT_S))
                    elif error.kind == "timeout":
                        limiter.timed_out(place)
                        patience.allow_longer()
                        patience.begun = False  # it waits its turn again: most likely it is a long one
                    raise
                except Exception as error:
                    outcome = error  # turned down: nothing was worked out, and nothing is charged
                    raise
                finally:
                    record = _record(call, outcome, time.monotonic() - started, tariff, most)
                    self._ledger.record(record)
                    if self._calls:
                        self._calls.record(_log_row(call, messages, parameters, record, exchange))

    async def _connections(self) -> aiohttp.ClientSession:
        self._session = self._session or await transport.open_session()
        return self._session

    def _tell_outage(self, backend: Backend, error: Retryable) -> None:
        """Says once per outage that it is waited for."""
        heard_at = self._limiters[backend.label].heard_at
        if self._outages.get(backend.label) != heard_at:
            self._outages[backend.label] = heard_at
            _log.warning("%s; waiting for it, up to %g s", error, self._verdict_s)


def _most(call: Call[Any], messages: list[Message], parameters: dict[str, Any]) -> tuple[int, int]:
    """Tokens that a call can take at most, sent and received.

    UTF-8 bytes bound the tokens of any byte-level tokenizer from above; a schema, too, is shown to the model.
    """
    sent = sum(len(message["content"].encode("utf-8", "replace")) for message in messages)
    shown = len(json.dumps(call.schema)) if call.schema else 0
    received = parameters.get("max_tokens") or parameters["max_completion_tokens"]
    return sent + shown + MARKUP_TOKENS, received


def _record(
    call: Call[Any],
    outcome: Reading[Any] | BaseException,
    seconds: float,
    tariff: transport.Tariff | None,
    most: tuple[int, int],
) -> CallRecord:
    """What an attempt cost. Without usage, and where the model may have worked in vain, the worst case: what
    may have been charged must not slip past a cap.
    """
    reading = outcome if isinstance(outcome, Reading) else None
    reply = reading.reply if reading else None
    retry = outcome if isinstance(outcome, Retryable) else None
    lost = isinstance(outcome, asyncio.CancelledError) or (retry is not None and retry.billed)
    sent, received = most if reply or lost else (0, 0)
    metered = reply is not None and _is_plausible(reply, most)
    if reply and metered:
        sent, received = reply.input_tokens or 0, reply.output_tokens or 0
    usd = None if sent else 0.0
    if tariff:
        usd = tariff.cost(reply) if reply and metered else tariff.worst(sent, received)
    return CallRecord(
        time=time.time(),
        purpose=call.purpose,
        model=call.backend.model,
        outcome=_outcome(outcome),
        reason=reading.problem if reading else str(outcome) or "given up before it was answered",
        reply=_beginning(call, reading) if reading and reading.failure else "",
        seconds=round(seconds, 4),
        input_tokens=sent,
        cached_tokens=reply.cached_tokens if reply and metered else 0,
        output_tokens=received,
        metered=metered or not sent,
        usd=usd,
    )


def _is_plausible(reply: Reply, most: tuple[int, int]) -> bool:
    """Whether a server's count of tokens can be: none of it negative, none beyond what the call can take."""
    sent, received = reply.input_tokens, reply.output_tokens
    if sent is None or received is None:
        return False
    within = 0 < sent <= most[0] and 0 <= received <= most[1]
    return (
        within
        and min(reply.cached_tokens, reply.written_tokens) >= 0
        and (reply.cached_tokens + reply.written_tokens <= sent)
    )


def _beginning(call: Call[Any], reading: Reading[Any]) -> str:
    """How a reply that is of no use begins, without what it repeats of the prompt."""
    text = own_words(reading.reply.text[: 10 * REPLY_CHARS], call.backend, call.messages)
    return " ".join(text.split())[:REPLY_CHARS]


def _log_row(
    call: Call[Any],
    messages: list[Message],
    parameters: dict[str, Any],
    record: CallRecord,
    exchange: wire.Exchange,
) -> dict[str, Any]:
    """An attempt in full."""
    return {
        "request": {"messages": messages, **parameters},
        "time": record.time,
        "purpose": record.purpose,
        "model": record.model,
        "address": call.backend.api_base,
        "status": exchange.status,
        "reply": without_keys(exchange.body, call.backend),
        "outcome": record.outcome,
        "reason": record.reason,
        "seconds": record.seconds,
    }


def _outcome(outcome: Reading[Any] | BaseException) -> str:
    """In a word, for the ledger."""
    if isinstance(outcome, Reading):
        return "unusable" if outcome.failure else "ok"
    return "overload" if isinstance(outcome, Retryable) and outcome.overload else "failed"


def _stop(attempts: int, waits_out: bool) -> Callable[[RetryCallState], bool]:
    """Ends a request after so many failures; those that its patience ends are none of them."""
    failures = 0

    def stop(state: RetryCallState) -> bool:
        nonlocal failures
        error = state.outcome.exception() if state.outcome else None
        waited_for = isinstance(error, Retryable) and (error.overload or (error.down and waits_out))
        failures += not waited_for
        return failures >= attempts

    return stop


def _wait(state: RetryCallState) -> float:
    """Seconds before the next attempt: what the server asked for, or a jittered, growing time."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, Retryable) else None
    longest = DOWN_WAIT_S if isinstance(error, Retryable) and error.down else MAX_WAIT_S
    backoff = wait_random_exponential(multiplier=0.25, max=longest)(state)
    return min(asked, MAX_WAIT_S) + 0.1 * backoff if asked else backoff
