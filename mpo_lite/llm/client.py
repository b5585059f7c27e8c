"""The path of a model call: cache → single flight → limiter → budget → attempt → retry → parse → repair.

The result is a checked value or an error; no step can turn a failure into a value. Transient failures are
retried. An answer that does not parse is requested once more in another form, then repaired once by the model
itself, then given up. Only checked answers are cached, and before they are used, so that nothing that was
paid for is lost.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import replace
from math import inf
from typing import Any, NoReturn, cast

from mpo_lite.errors import CallFailed, EndpointError, StopRun
from mpo_lite.llm.batching import Batcher
from mpo_lite.llm.budget import Budget
from mpo_lite.llm.cache import AnswerCache
from mpo_lite.llm.call import Call, T
from mpo_lite.llm.call_log import CallLog
from mpo_lite.llm.ledger import Ledger
from mpo_lite.llm.models import Backend
from mpo_lite.llm.patience import Patience
from mpo_lite.llm.reading import Reading
from mpo_lite.llm.request import Sender
from mpo_lite.llm.structured_output import OutputMode, final_part, object_schema, parse_object
from mpo_lite.llm.transport import Reply
from mpo_lite.prompts import Prompt, fence, render
from mpo_lite.types import Message

GRACE_S = 10.0
"""How long closing waits for answers in flight before it cancels them."""

_TOO_LONG = "it was cut off at the token limit; keep every text in it under fifteen words"
_UNUSABLE = "asked to repair its reply, the model found no answer in it"

_log = logging.getLogger(__name__)


class Client:
    """Asks models. One per process, used on the loop of ``mpo_lite.llm.event_loop``.

    Args:
        cache: Stores answers.
        ledger: Counts calls.
        budget: Caps on spend, calls and tokens.
        concurrency: Maximum attempts in flight per backend.
        timeout_s: Timeout of an attempt.
        verdict_s: Seconds without any answer from a backend after which calls to it fail.
        waits_out: Whether to wait as long for a server that is down.
        log: Logs complete requests and replies; None for no log.

    Attributes:
        checked_at: When the last checked answer came, on the loop's clock; -inf before the first.
        stopped: Set to send nothing more: only cached answers and replies already in flight are returned.
    """

    def __init__(
        self,
        cache: AnswerCache,
        ledger: Ledger,
        budget: Budget,
        concurrency: int = 64,
        timeout_s: float = 120.0,
        verdict_s: float = 300.0,
        waits_out: bool = False,
        log: CallLog | None = None,
    ) -> None:
        self.cache, self.ledger, self.budget = cache, ledger, budget
        self.cache_hits = 0
        self.stopped = False
        self.checked_at = -inf
        self._sender = Sender(ledger, budget, concurrency, timeout_s, verdict_s, waits_out, log)
        self._reported_moves: set[str] = set()
        # SQLite blocks, so it never runs on the loop.
        self._load_cached = Batcher(cache.get_all)
        self._store = Batcher(cache.put_all)
        self._flights: dict[str, asyncio.Task[Any]] = {}

    async def ask(self, call: Call[T]) -> T:
        """The checked answer to ``call``: from the cache, from a call already in flight, or from the model.

        Raises:
            CallFailed: There is no usable answer.
            EndpointError: The model cannot be used (key, name, quota).
            BudgetReached: The call does not fit under a cap.
        """
        key = call.key(await self._sender.revision(call.backend))
        if not (flight := self._flights.get(key)):
            flight = self._flights[key] = asyncio.create_task(self._answer(call, key))
            flight.add_done_callback(lambda done: self._finish_flight(key, done))
        try:
            # Equal calls share this task: one cancelled waiter must not cancel it for the others.
            return await asyncio.shield(flight)
        except (StopRun, EndpointError):
            if self.stopped:  # in flight when the job stopped: report the stop, not its side effect
                raise _stopped_error() from None
            raise

    async def check(self, backend: Backend) -> None:
        """Makes one tiny, uncached call to see whether the model can be reached and used.

        Raises:
            CallFailed: It cannot be reached; the message says why.
            EndpointError: It cannot be used (key, name, quota).
        """
        short_backend = replace(backend, max_tokens=16)
        call = Call(short_backend, "check", _user_prompt("Reply with the word: ready"), {}, dict)
        patience = self._sender.patience(backend, waits_out=False)
        request = self._sender.send(
            call, call.messages, patience, output_mode="text", max_tokens=16, attempts=2
        )
        try:
            await patience.wait(request)
        except CallFailed as error:
            # Any other failure, such as an empty reply, still shows that the model is there.
            if error.kind in ("transport", "timeout"):
                raise

    async def probe(self, backend: Backend) -> OutputMode:
        """Asks for one tiny, uncached object; returns the strictest output mode that the model supports.

        Raises:
            CallFailed: There was no usable answer.
            EndpointError: It cannot be used (key, name, quota).
        """
        schema = object_schema({"ready": {"type": "boolean"}})
        request = _user_prompt('Reply with the JSON object {"ready": true} and nothing else.')
        call = Call(replace(backend, max_tokens=64), "check", request, schema, _parse_ready)
        patience = self._sender.patience(backend, waits_out=False)
        await patience.wait(self._ask_and_parse(call, patience))
        return self._sender.capabilities(backend).output_modes()[0]

    async def close(self) -> None:
        """Closes the connections once calls in flight are back: they are paid for and belong in the cache."""
        flights = list(self._flights.values())
        if flights:
            _, late = await asyncio.wait(flights, timeout=GRACE_S)
            for flight in late:
                flight.cancel()
            await asyncio.gather(*flights, return_exceptions=True)
        await self._sender.close()

    def _finish_flight(self, key: str, flight: asyncio.Task[Any]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # mark as retrieved: all waiters may have been cancelled

    async def _answer(self, call: Call[T], key: str) -> T:
        stored = await self._load_cached(key)
        if stored is not None:
            try:
                # Parsed again: the parser may be stricter than the one that the answer was stored under.
                value = call.parse(parse_object(stored["text"]))
                self.cache_hits += 1
                self._warn_moved(call.backend, stored.get("address"))
                return value
            except ValueError:
                _log.warning("a cached answer no longer parses; requesting it again")
        if self.stopped:
            raise _stopped_error()
        patience = self._sender.patience(call.backend, reply_tokens=call.room)
        reply, value = await patience.wait(self._ask_and_parse(call, patience))
        self.checked_at = asyncio.get_running_loop().time()
        entry = {
            "text": reply.text,
            "model": call.backend.model,
            "address": call.backend.api_base,
            "input_tokens": reply.input_tokens,
            "output_tokens": reply.output_tokens,
            "time": time.time(),
        }
        await self._store((key, entry))
        return value

    def _warn_moved(self, backend: Backend, address: str | None) -> None:
        """Warns once that cached answers came from another address, where the name may mean another model."""
        is_moved = address and backend.api_base and address != backend.api_base and not backend.is_simulated
        if is_moved and backend.label not in self._reported_moves:
            self._reported_moves.add(backend.label)
            _log.warning(
                "%s: using cached answers from %s although this job asks %s; if a different model is served "
                "there, give it its own label in the judge's entry",
                backend.label,
                address,
                backend.api_base,
            )

    async def _ask_and_parse(self, call: Call[T], patience: Patience) -> tuple[Reply, T]:
        """Asks; if the reply is unusable, asks again in another way; then has the model repair it."""
        capabilities = self._sender.capabilities(call.backend)
        output_mode, limit, messages = capabilities.output_modes()[0], call.max_tokens, call.messages
        reading: Reading[T] | None = None
        for seed in (None, 1):
            reading, output_mode = await self._sender.send(
                call, messages, patience, output_mode=output_mode, max_tokens=limit, seed=seed
            )
            if reading.reply.has_reasoning:
                capabilities.mark_reasoning()
            if reading.failure is None:
                return reading.reply, cast(T, reading.value)
            if reading.failure == "refusal":
                _raise_failure(call, reading)
            if call.purpose == "meta" and seed is None:
                # Meta-judge replies take minutes: say why there is a second one.
                _log.warning(
                    "%s gave an unusable answer (%s); asking again", call.backend.model, reading.problem
                )
            # At temperature 0 the same request would get the same reply, so the second one differs: in output
            # mode, token limit or messages, and in its seed.
            if reading.is_blank:
                output_mode = "text"
                capabilities.mark_whitespace_loop()
            elif not reading.reply.text.strip():
                limit *= 2  # hidden reasoning may have used up the limit
            elif reading.failure == "cut":
                limit *= 2
                messages = _add_problem(call.messages, _TOO_LONG)
            else:
                messages = _add_problem(call.messages, reading.problem)
                # If the keys were right, this output mode works and only a value was wrong.
                output_mode = (
                    output_mode
                    if reading.has_right_keys
                    else _next_mode(capabilities.output_modes(), output_mode)
                )
        assert reading
        return await self._repair(call, reading, patience)

    async def _repair(self, call: Call[T], broken: Reading[T], patience: Patience) -> tuple[Reply, T]:
        # Only what follows the reasoning is repaired: otherwise a draft in unclosed reasoning would come back
        # as the answer. A truncated reply has nothing to repair.
        shown = final_part(broken.reply.text)
        if not shown or broken.reply.finish_reason == "length":
            _raise_failure(call, broken)
        prompt = render(
            "judge/repair",
            problem=broken.problem,
            schema=json.dumps(call.schema),
            reply=fence("reply", shown[:20_000], self.cache.nonce_key),
        )

        def parse(data: dict[str, Any]) -> T:
            if data == {"unusable": True}:
                raise ValueError(_UNUSABLE)
            return call.parse(data)

        # Text mode: a server that enforces the schema would force the model to make up the missing values.
        # The call keeps its own messages, because excerpts of the reply must not quote them.
        request = replace(call, prompt=Prompt(prompt.template, call.messages), parse=parse)
        repaired, _ = await self._sender.send(
            request, prompt.messages, patience, output_mode="text", max_tokens=call.max_tokens
        )
        if repaired.problem == _UNUSABLE:
            repaired = replace(repaired, reply=broken.reply)  # quoted to the user: it shows what is missing
        if repaired.failure:
            _raise_failure(call, repaired)
        return repaired.reply, cast(T, repaired.value)


def _stopped_error() -> CallFailed:
    return CallFailed("stopped", "the job stopped before this call")


def _user_prompt(text: str) -> Prompt:
    return Prompt("", [Message(role="user", content=text)])


def _parse_ready(data: dict[str, Any]) -> bool:
    if set(data) != {"ready"} or not isinstance(data["ready"], bool):
        raise ValueError("must hold exactly the key ready, true or false")
    return data["ready"]


def _next_mode(output_modes: list[OutputMode], output_mode: OutputMode) -> OutputMode:
    """The output mode after ``output_mode``, or the last one."""
    return (
        output_modes[min(output_modes.index(output_mode) + 1, len(output_modes) - 1)]
        if output_mode in output_modes
        else output_modes[-1]
    )


def _add_problem(messages: list[Message], problem: str) -> list[Message]:
    """The conversation, with the problem of the last reply added at its end."""
    *before, last = messages
    instruction = render("judge/again", problem=problem).messages[0]["content"]
    # Not a separate message: some chat templates reject two messages of one role in a row.
    return [*before, Message(role=last["role"], content=f"{last['content']}\n\n{instruction}")]


def _raise_failure(call: Call[Any], reading: Reading[Any]) -> NoReturn:
    assert reading.failure
    if reading.failure == "refusal":
        raise CallFailed("refusal", f"{call.backend.model} declined to answer")
    raise CallFailed(
        reading.failure,
        f"{call.backend.model} gave no usable answer: {reading.problem}",
        reading.reply.text,
    )
