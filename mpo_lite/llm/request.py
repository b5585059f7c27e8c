"""One request to a model: limited, budgeted, sent, recorded, and retried while a failure may pass."""

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
from mpo_lite.llm.accounting import bound_tokens, build_log_row, build_record
from mpo_lite.llm.budget import Budget
from mpo_lite.llm.call import Call, T
from mpo_lite.llm.call_log import CallLog
from mpo_lite.llm.capabilities import ModelCapabilities
from mpo_lite.llm.error_mapping import ParameterRefused, Retryable
from mpo_lite.llm.ledger import Ledger
from mpo_lite.llm.limiter import Limiter
from mpo_lite.llm.models import Backend
from mpo_lite.llm.patience import Patience
from mpo_lite.llm.reading import Reading, read_reply
from mpo_lite.llm.structured_output import OutputMode, without_bounds
from mpo_lite.sanitize import pluralize
from mpo_lite.types import Message

ATTEMPTS = 5
"""Failed attempts after which a request is given up. A 429 does not count: those end with the call's
patience.
"""
MAX_WAIT_S = 60.0
DOWN_WAIT_S = 5.0
"""Maximum seconds between attempts while waiting for a server that is down."""
USUAL_REPLY_TOKENS = 1024
"""Reply tokens that the configured timeouts are meant for; a merged rubric may take four times as many."""
UNSTEADY = 0.2
"""How much an error of a running server counts if outages are waited out: 25 such errors end a request, which
takes about a minute.
"""
MIN_HEADROOM = 512
"""Smallest headroom for reasoning that is worth requesting if a context is too small for more."""

_log = logging.getLogger(__name__)


class Sender:
    """Sends requests for a client.

    Args:
        ledger: Counts attempts.
        budget: Caps on spend, calls and tokens.
        concurrency: Maximum attempts in flight per backend.
        timeout_s: Timeout of an attempt; doubled for the attempts after one that timed out.
        verdict_s: Seconds without any answer from a backend after which calls to it fail.
        waits_out: Whether to wait as long for a server that is down.
        log: Logs complete requests and replies; None for no log.
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
        self._call_log = log
        self._ledger, self._budget, self._waits_out = ledger, budget, waits_out
        self._timeout_s, self._verdict_s = timeout_s, verdict_s
        self._limiters: defaultdict[str, Limiter] = defaultdict(lambda: Limiter(concurrency, timeout_s))
        self._capabilities: dict[str, ModelCapabilities] = {}
        self._session: aiohttp.ClientSession | None = None
        self._revisions: dict[tuple[str, str | None], asyncio.Task[str]] = {}
        self._outages: dict[str, float] = {}

    def capabilities(self, backend: Backend) -> ModelCapabilities:
        """What is known about what a model supports."""
        return self._capabilities.setdefault(backend.label, ModelCapabilities(backend.model))

    def patience(
        self, backend: Backend, waits_out: bool = True, reply_tokens: int = USUAL_REPLY_TOKENS
    ) -> Patience:
        """The timeouts of a new call to a backend; longer if its reply may be longer than a verdict."""
        limiter, waits_out = self._limiters[backend.label], waits_out and self._waits_out
        scale = max(1.0, reply_tokens / USUAL_REPLY_TOKENS)
        return Patience(limiter, scale * self._verdict_s, scale * self._timeout_s, backend.model, waits_out)

    async def revision(self, backend: Backend) -> str:
        """See ``transport.revision``; requested once per model."""
        place = (backend.model, backend.api_base)
        if place not in self._revisions:
            self._revisions[place] = asyncio.create_task(
                transport.revision(backend, await self._get_session())
            )
        # Shared by all calls: a cancelled one must not cancel it for the others.
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
        """Sends one request, retried while its failure may pass; parameters that the model rejects are
        dropped for the rest of the process.

        Args:
            call: What to ask which model.
            messages: The conversation; not the call's own when an answer is to be repaired.
            patience: The call's timeouts.
            output_mode: How to ask for the object.
            max_tokens: Maximum answer length.
            seed: Seed to send, or None.
            attempts: Number of failures that end it.

        Returns:
            The reply with what it yields, and the output mode that was used in the end.

        Raises:
            CallFailed: No reply; or the sample was rejected or is too long.
            EndpointError: The model cannot be used (key, name, quota).
            BudgetReached: The call does not fit under a cap.
        """
        capabilities = self.capabilities(call.backend)
        headroom, bounded = capabilities.headroom, False

        def request() -> dict[str, Any]:
            nonlocal output_mode, bounded
            output_mode = capabilities.strictest_supported(output_mode)
            bounded = "bounds" not in capabilities.unsupported
            extra = {"extra_body": {"mpo_lite": call.all_facts}} if call.backend.is_simulated else {}
            return extra | capabilities.parameters(
                output_mode, call.schema, max_tokens + headroom, call.backend.temperature, seed
            )

        while True:
            retrying = _make_retrying(attempts, patience)
            try:
                reading: Reading[T] = await retrying(self._attempt, call, messages, request, patience)
                capabilities.shrink_headroom(headroom)
                return reading, output_mode
            except ParameterRefused as refusal:
                bounded = bounded and without_bounds(call.schema) != call.schema
                output_mode = capabilities.mark_unsupported(refusal.parameter, output_mode, bounded)
            except CallFailed as failure:
                # Perhaps only the headroom for reasoning made it too long for the context.
                if failure.kind != "context" or not headroom:
                    raise
                headroom = headroom // 2 if headroom > MIN_HEADROOM else 0
            except Retryable as error:
                tries = pluralize(retrying.statistics["attempt_number"], "attempt")
                raise CallFailed(error.kind, f"{error}; gave up after {tries}") from None

    async def close(self) -> None:
        """Closes the connections."""
        for lookup in self._revisions.values():
            lookup.cancel()
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
        session = await self._get_session()
        async with limiter.slot(urgent=patience.has_begun) as place:
            # Built only now: while this call waited, others may have shown what the model does not support.
            parameters = request()
            pricing, bounds = transport.pricing(call.backend), bound_tokens(call, messages, parameters)
            async with self._budget.reserve(pricing.worst(*bounds) if pricing else 0.0, sum(bounds)):
                started, patience.has_begun, exchange = time.monotonic(), True, wire.watch()
                # What the ledger records if this attempt is cancelled: it may have been billed.
                outcome: Reading[Any] | BaseException = asyncio.CancelledError()
                try:
                    reply = await transport.attempt(
                        call.backend, messages, parameters, session, patience.attempt_s, exchange
                    )
                    limiter.record_success(place)
                    outcome = read_reply(call, reply)
                    return outcome
                except Retryable as error:
                    outcome = patience.last = error
                    if error.down and patience.waits_out:
                        self._warn_outage(call.backend, error)
                    if error.overload:
                        limiter.record_overload(place, min(error.retry_after or 0.0, MAX_WAIT_S))
                    elif error.kind == "timeout":
                        limiter.record_timeout(place)
                        patience.allow_longer()
                        # Not urgent any more, so it queues again: its reply is probably a long one.
                        patience.has_begun = False
                    raise
                except EndpointError as error:
                    outcome = error
                    # A server that has answered before and now gives 404 is probably restarting.
                    if error.may_pass and patience.waits_out and limiter.heard_at > -inf:
                        outcome = patience.last = Retryable(str(error), down=True)
                        raise outcome from None
                    raise
                except Exception as error:
                    outcome = error  # rejected before any work: nothing is charged
                    raise
                finally:
                    record = build_record(call, outcome, time.monotonic() - started, pricing, bounds)
                    self._ledger.record(record)
                    if self._call_log:
                        self._call_log.record(build_log_row(call, messages, parameters, record, exchange))

    async def _get_session(self) -> aiohttp.ClientSession:
        self._session = self._session or await transport.open_session()
        return self._session

    def _warn_outage(self, backend: Backend, error: Retryable) -> None:
        """Warns once per outage that it is being waited for."""
        heard_at = self._limiters[backend.label].heard_at
        if self._outages.get(backend.label) != heard_at:
            self._outages[backend.label] = heard_at
            _log.warning("%s; waiting up to %g s for it", error, self._verdict_s)


def _make_retrying(attempts: int, patience: Patience) -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception_type(Retryable),
        stop=_stop_after(attempts, patience.waits_out),
        wait=_retry_delay,
        reraise=True,
    )


def _stop_after(attempts: int, waits_out: bool) -> Callable[[RetryCallState], bool]:
    """Ends a request after so many failures; overload and awaited outages end with its patience instead.

    If outages are waited out, errors of a running server count less: they are usually part of an outage.
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


def _retry_delay(state: RetryCallState) -> float:
    """Seconds before the next attempt: what the server asked for, or jittered exponential backoff."""
    error = state.outcome.exception() if state.outcome else None
    delay_s = error.retry_after if isinstance(error, Retryable) else None
    is_out = isinstance(error, Retryable) and (error.down or error.unsteady)
    longest = DOWN_WAIT_S if is_out else MAX_WAIT_S
    backoff = wait_random_exponential(multiplier=0.25, max=longest)(state)
    # Jitter even on the server's own time: otherwise all rejected calls would come back at the same moment.
    return min(delay_s, MAX_WAIT_S) + 0.1 * backoff if delay_s else backoff
