"""The way of a model call: cache → single flight → budget → limiter → attempt → retry → strict parse →
repair.

What comes out is a checked value or an error; no step of it can turn a failure into a value. Retried are
failures that may pass; an answer that does not parse is asked for once more in another form, then mended once
by the model itself, then given up. Only checked answers are cached, before they are used, so that what was
paid for is kept.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Generic, NoReturn, TypeVar

import aiohttp
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from mpo_lite.errors import CallFailed
from mpo_lite.llm import transport
from mpo_lite.llm.budget import Budget
from mpo_lite.llm.cache import AnswerCache, cache_key
from mpo_lite.llm.ledger import CallRecord, Ledger, Purpose
from mpo_lite.llm.limiter import Limiter
from mpo_lite.llm.models import Backend
from mpo_lite.llm.structured import LADDER, Schema, parse_object, response_format
from mpo_lite.llm.transport import ParameterRefused, Reply, Retryable
from mpo_lite.prompts import fence, render
from mpo_lite.types import Message

T = TypeVar("T")
ATTEMPTS = 5
"""Attempts per request at failures that may pass."""
MAX_WAIT_S = 60.0
GRACE_S = 10.0
"""How long closing waits for answers in flight before it gives them up."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Call(Generic[T]):
    """One question to a model.

    Attributes:
        backend: Whom to ask.
        purpose: What for; the ledger counts by it.
        messages: The conversation.
        schema: JSON Schema of the answer.
        parse: Checks the answer's object and makes the value; ValueError for one that is not as asked.
        draw: Distinguishes calls with equal text that shall get answers of their own, e.g. a batch index.
    """

    backend: Backend
    purpose: Purpose
    messages: list[Message]
    schema: Schema
    parse: Callable[[dict[str, Any]], T]
    draw: str = ""

    @property
    def key(self) -> str:
        """Identity in the cache: everything that could change the answer."""
        return cache_key(
            backend=self.backend.label,
            messages=self.messages,
            temperature=self.backend.temperature,
            max_tokens=self.backend.max_tokens,
            schema=self.schema,
            draw=self.draw,
        )


@dataclass
class _Habits:
    """What a model has shown to take; learned once, kept for the process."""

    rung: int = 0
    refused: frozenset[str] = frozenset()


class Client:
    """Asks models. One per process, used on the loop of ``mpo_lite.llm.background``.

    Args:
        cache: Where answers are kept.
        ledger: Where calls are counted.
        budget: Caps on spend and calls.
        concurrency: Attempts in flight per backend, at most.
        timeout_s: Seconds per attempt.
    """

    def __init__(
        self,
        cache: AnswerCache,
        ledger: Ledger,
        budget: Budget,
        concurrency: int = 64,
        timeout_s: float = 120.0,
    ) -> None:
        self.cache, self.ledger, self.budget = cache, ledger, budget
        self.cache_hits = 0
        self._timeout_s = timeout_s
        self._limiters: defaultdict[str, Limiter] = defaultdict(lambda: Limiter(concurrency))
        self._habits: defaultdict[str, _Habits] = defaultdict(_Habits)
        self._flights: dict[str, asyncio.Task[Any]] = {}
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, call: Call[T]) -> T:
        """The checked answer to ``call``: from the cache, from a call already in flight, or from the model.

        Raises:
            CallFailed: There is no usable answer.
            EndpointError: The model refuses for good.
            BudgetReached: The call does not fit under a cap.
        """
        key = call.key
        if not (flight := self._flights.get(key)):
            flight = self._flights[key] = asyncio.create_task(self._answer(call, key))
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        # One waiter that gives up must not take the answer from the others.
        return call.parse(await asyncio.shield(flight))

    async def check(self, backend: Backend) -> None:
        """One tiny, uncached call that shows whether the model can be reached and paid for.

        Raises:
            CallFailed: It cannot be reached; the message says what was seen.
            EndpointError: It refuses for good.
        """
        tiny = replace(backend, max_tokens=16)
        call = Call(tiny, "check", [Message(role="user", content="Reply with the word: ready")], {}, dict)
        try:
            await self._send(call, call.messages, rung=len(LADDER) - 1, max_tokens=16, attempts=2)
        except CallFailed as error:
            if error.kind == "transport":
                raise

    async def close(self) -> None:
        """Closes the connections once what is in flight is back: it is paid for and belongs in the cache."""
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await asyncio.gather(*self._flights.values(), return_exceptions=True)
        if self._session:
            await self._session.close()
            self._session = None

    async def _answer(self, call: Call[T], key: str) -> dict[str, Any]:
        """The answer's object, already seen to satisfy ``call.parse``."""
        stored = await asyncio.to_thread(self.cache.get, key)
        if stored is not None:
            try:
                data = parse_object(stored["text"])
                call.parse(data)
                self.cache_hits += 1
                return data
            except ValueError:
                _log.warning("an answer in the cache does not parse any more; it is asked for again")
        reply, data = await self._parsed(call)
        entry = {
            "text": reply.text,
            "model": call.backend.model,
            "input_tokens": reply.input_tokens,
            "output_tokens": reply.output_tokens,
            "time": time.time(),
        }
        await asyncio.to_thread(self.cache.put, key, entry)
        return data

    async def _parsed(self, call: Call[T]) -> tuple[Reply, dict[str, Any]]:
        """Asks, asks once more in another form if the answer does not parse, then has it mended once."""
        habits = self._habits[call.backend.model]
        max_tokens = call.backend.max_tokens
        reply, problem = None, ""
        for extra_rung in (0, 1):
            rung = min(habits.rung + extra_rung, len(LADDER) - 1)
            reply = await self._send(call, call.messages, rung, max_tokens, seed=extra_rung or None)
            if reply.refused:
                raise CallFailed("refusal", f"{call.backend.model} declined to answer")
            if reply.finish_reason == "length":
                problem, max_tokens = "cut at the token limit", 2 * max_tokens
                continue
            try:
                return reply, _checked(call, reply)
            except ValueError as error:
                problem = str(error)
        return await self._repaired(call, reply, problem)

    async def _repaired(
        self, call: Call[T], reply: Reply | None, problem: str
    ) -> tuple[Reply, dict[str, Any]]:
        if reply is None or not reply.text.strip() or reply.finish_reason == "length":
            _give_up(call, problem)
        messages = render(
            "judge/repair",
            problem=problem,
            schema=json.dumps(call.schema),
            reply=fence("reply", reply.text[:20_000], self.cache.nonce_key),
        )
        mended = await self._send(
            call, messages, self._habits[call.backend.model].rung, call.backend.max_tokens
        )
        try:
            return mended, _checked(call, mended)
        except ValueError as error:
            _give_up(call, str(error))

    async def _send(
        self,
        call: Call[Any],
        messages: list[Message],
        rung: int,
        max_tokens: int,
        seed: int | None = None,
        attempts: int = ATTEMPTS,
    ) -> Reply:
        """One request, retried while its failure may pass; parameters the model refuses are dropped for
        good.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Retryable),
            stop=stop_after_attempt(attempts),
            wait=_wait,
            reraise=True,
        )
        try:
            while True:
                parameters = self._parameters(call, rung, max_tokens, seed)
                try:
                    return await retrying(self._attempt, call, messages, parameters)
                except ParameterRefused as refusal:
                    rung = self._learn(call.backend.model, refusal.parameter, rung)
        except Retryable as error:
            raise CallFailed("transport", f"{error}, {attempts} times") from error

    def _parameters(self, call: Call[Any], rung: int, max_tokens: int, seed: int | None) -> dict[str, Any]:
        wanted = {
            "max_tokens": max_tokens,
            "temperature": call.backend.temperature,
            "seed": seed,
            "response_format": response_format(LADDER[rung], call.schema),
        }
        refused = self._habits[call.backend.model].refused
        return {name: value for name, value in wanted.items() if value is not None and name not in refused}

    def _learn(self, model: str, parameter: str, rung: int) -> int:
        """Remembers what a model does not take; gives the rung to go on with."""
        habits = self._habits[model]
        if parameter == "response_format":
            habits.rung = max(habits.rung, min(rung + 1, len(LADDER) - 1))
            _log.warning("%s refuses %s; asking by %s from now on", model, LADDER[rung], LADDER[habits.rung])
            return habits.rung
        habits.refused |= {parameter}
        _log.warning("%s does not take %s; left out from now on", model, parameter)
        return rung

    async def _attempt(self, call: Call[Any], messages: list[Message], parameters: dict[str, Any]) -> Reply:
        backend = call.backend
        price = transport.price(backend)
        # UTF-8 bytes bound the tokens of any byte-level tokenizer from above.
        size = sum(len(message["content"].encode("utf-8", "replace")) for message in messages)
        worst = _cost(price, size, parameters["max_tokens"])
        limiter = self._limiters[backend.label]
        self._session = self._session or await transport.open_session()
        async with limiter.slot(), self.budget.reserve(worst or 0.0):
            started = time.monotonic()
            reply = None
            try:
                reply = await transport.attempt(backend, messages, parameters, self._session, self._timeout_s)
                return reply
            except Retryable as error:
                if error.retry_after:
                    limiter.pause(min(error.retry_after, MAX_WAIT_S))
                raise
            finally:
                self._account(call, reply, time.monotonic() - started, price, worst)

    def _account(
        self,
        call: Call[Any],
        reply: Reply | None,
        seconds: float,
        price: tuple[float, float] | None,
        worst: float | None,
    ) -> None:
        usd = None
        if reply:
            usd = _cost(price, reply.input_tokens, reply.output_tokens)
            usd = worst if usd is None else usd  # a server that reports no usage must not slip past the cap
        self.ledger.record(
            CallRecord(
                time=time.time(),
                purpose=call.purpose,
                model=call.backend.model,
                outcome="ok" if reply else "failed",
                seconds=round(seconds, 4),
                input_tokens=reply.input_tokens if reply else None,
                cached_tokens=reply.cached_tokens if reply else None,
                output_tokens=reply.output_tokens if reply else None,
                usd=usd,
            )
        )


def _checked(call: Call[T], reply: Reply) -> dict[str, Any]:
    data = parse_object(reply.text)
    call.parse(data)
    return data


def _give_up(call: Call[Any], problem: str) -> NoReturn:
    raise CallFailed("parse", f"{call.backend.model} gave no usable answer: {problem}")


def _cost(
    price: tuple[float, float] | None, input_tokens: int | None, output_tokens: int | None
) -> float | None:
    """USD of a call; None where price or usage is unknown: unknown is not free."""
    if price is None or input_tokens is None or output_tokens is None:
        return None
    return (price[0] * input_tokens + price[1] * output_tokens) / 1e6


def _wait(state: RetryCallState) -> float:
    """Seconds before the next attempt: what the server asked for, or a jittered, growing time."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, Retryable) else None
    backoff = wait_random_exponential(multiplier=0.25, max=MAX_WAIT_S)(state)
    return min(asked, MAX_WAIT_S) + 0.1 * backoff if asked else backoff
