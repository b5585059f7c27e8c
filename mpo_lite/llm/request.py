"""One request to a model: limited, reserved, sent, accounted for, and sent again while a failure may pass."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from math import inf
from typing import Any

import aiohttp
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from mpo_lite.errors import CallFailed, EndpointError
from mpo_lite.llm import transport, wire
from mpo_lite.llm.accounting import log_row, record_of, tokens_at_most
from mpo_lite.llm.budget import Budget
from mpo_lite.llm.call import Call, T
from mpo_lite.llm.call_log import CallLog
from mpo_lite.llm.capabilities import ModelCapabilities
from mpo_lite.llm.error_mapping import ParameterRefused, Retryable
from mpo_lite.llm.ledger import Ledger
from mpo_lite.llm.limiter import Limiter
from mpo_lite.llm.models import Backend
from mpo_lite.llm.patience import Patience
from mpo_lite.llm.reading import Reading, read
from mpo_lite.llm.structured_output import OutputMode, without_bounds
from mpo_lite.sanitize import pluralize
from mpo_lite.types import Message

ATTEMPTS = 5
"""Attempts per request at failures that may pass. A refusal for too many requests is none: those end with the
call's patience.
"""
MAX_WAIT_S = 60.0
DOWN_WAIT_S = 5.0
"""Seconds between attempts, at most, at a server that is down and waited for."""
USUAL_ROOM = 1024
"""Tokens of a reply that the configured times are meant for; a merged rubric may take four times as many."""
UNSTEADY = 0.2
"""What an error of a server that is there counts where outages are waited out: 25 of them end a request, in
about a minute.
"""
LEAST_ROOM = 512
"""Tokens added for thinking that are worth asking for, where a context is too small for more."""

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
        self._capabilities: dict[str, ModelCapabilities] = {}
        self._session: aiohttp.ClientSession | None = None
        self._revisions: dict[tuple[str, str | None], asyncio.Task[str]] = {}
        self._outages: dict[str, float] = {}

    def capabilities(self, backend: Backend) -> ModelCapabilities:
        """What is known of a model's ways."""
        return self._capabilities.setdefault(backend.label, ModelCapabilities(backend.model))

    def patience(self, backend: Backend, waits_out: bool = True, room: int = USUAL_ROOM) -> Patience:
        """How long a new call to a backend waits; longer where its reply may be longer than a verdict."""
        limiter, waits_out = self._limiters[backend.label], waits_out and self._waits_out
        scale = max(1.0, room / USUAL_ROOM)
        return Patience(limiter, scale * self._verdict_s, scale * self._timeout_s, backend.model, waits_out)

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
        output_mode: OutputMode,
        max_tokens: int,
        seed: int | None = None,
        attempts: int = ATTEMPTS,
    ) -> tuple[Reading[T], OutputMode]:
        """One request, retried while its failure may pass; what the model refuses is left out for good.

        Args:
            call: What is asked, of whom.
            messages: The conversation; not the call's own where an answer is to be mended.
            patience: The call's.
            output_mode: How to ask for the object.
            max_tokens: Longest answer.
            seed: Seed to send, or None.
            attempts: How many failures end it.

        Returns:
            The reply with what it comes to, and the output mode it was asked on in the end.

        Raises:
            CallFailed: No reply; or the sample is refused, or too long.
            EndpointError: The model refuses for good.
            BudgetReached: The call does not fit under a cap.
        """
        capabilities = self.capabilities(call.backend)
        room, bounded = capabilities.room, False

        def request() -> dict[str, Any]:
            nonlocal output_mode, bounded
            output_mode, bounded = capabilities.allowed(output_mode), "bounds" not in capabilities.refused
            parameters = capabilities.parameters(
                output_mode, call.schema, max_tokens + room, call.backend.temperature, seed
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
                capabilities.fits(room)
                return reading, output_mode
            except ParameterRefused as refusal:
                bounded = bounded and without_bounds(call.schema) != call.schema
                output_mode = capabilities.refuses(refusal.parameter, output_mode, bounded)
            except CallFailed as failure:
                if failure.kind != "context" or not room:
                    raise
                room = room // 2 if room > LEAST_ROOM else 0
            except Retryable as error:
                tries = retrying.statistics["attempt_number"]
                raise CallFailed(error.kind, f"{error}, {pluralize(tries, 'time')}") from None

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
            pricing, most = transport.pricing(call.backend), tokens_at_most(call, messages, parameters)
            async with self._budget.reserve(pricing.worst(*most) if pricing else 0.0, sum(most)):
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
                except EndpointError as error:
                    outcome = error
                    if error.may_pass and patience.waits_out and limiter.heard_at > -inf:
                        outcome = patience.last = Retryable(str(error), down=True)
                        raise outcome from None
                    raise
                except Exception as error:
                    outcome = error  # turned down: nothing was worked out, and nothing is charged
                    raise
                finally:
                    record = record_of(call, outcome, time.monotonic() - started, pricing, most)
                    self._ledger.record(record)
                    if self._calls:
                        self._calls.record(log_row(call, messages, parameters, record, exchange))

    async def _connections(self) -> aiohttp.ClientSession:
        self._session = self._session or await transport.open_session()
        return self._session

    def _tell_outage(self, backend: Backend, error: Retryable) -> None:
        """Says once per outage that it is waited for."""
        heard_at = self._limiters[backend.label].heard_at
        if self._outages.get(backend.label) != heard_at:
            self._outages[backend.label] = heard_at
            _log.warning("%s; waiting for it, up to %g s", error, self._verdict_s)


def _stop(attempts: int, waits_out: bool) -> Callable[[RetryCallState], bool]:
    """Ends a request after so many failures; those that its patience ends are none of them.

    Where an outage is waited out, errors of a server that is there count less: they are most often one.
    """
    failures = 0.0

    def stop(state: RetryCallState) -> bool:
        nonlocal failures
        error = state.outcome.exception() if state.outcome else None
        waited_for = isinstance(error, Retryable) and (error.overload or (error.down and waits_out))
        is_unsteady = isinstance(error, Retryable) and error.unsteady and waits_out
        failures += 0.0 if waited_for else UNSTEADY if is_unsteady else 1.0
        return failures >= attempts

    return stop


def _wait(state: RetryCallState) -> float:
    """Seconds before the next attempt: what the server asked for, or a jittered, growing time."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, Retryable) else None
    is_out = isinstance(error, Retryable) and (error.down or error.unsteady)
    longest = DOWN_WAIT_S if is_out else MAX_WAIT_S
    backoff = wait_random_exponential(multiplier=0.25, max=longest)(state)
    return min(asked, MAX_WAIT_S) + 0.1 * backoff if asked else backoff
