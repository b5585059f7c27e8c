"""The limiter and the budget by themselves, on a loop of the test's own."""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo_lite.errors import BudgetReached
from mpo_lite.llm.batching import Batcher
from mpo_lite.llm.budget import Budget
from mpo_lite.llm.ledger import CallRecord, Ledger
from mpo_lite.llm.limiter import CUT, FIRST_CUT, START, Limiter, Place
from tests.support.simulated import simulate


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_slow_start_reaches_the_ceiling_and_never_passes_it() -> None:
    async def work() -> tuple[list[int], float]:
        limiter, inside, seen = Limiter(64), 0, []

        async def one() -> None:
            nonlocal inside
            async with limiter.slot() as place:
                inside += 1
                seen.append(inside)
                await asyncio.sleep(0.01)
                limiter.record_success(place)
                inside -= 1

        await asyncio.gather(*(one() for _ in range(300)))
        return seen, limiter.limit

    seen, limit = simulate(work())  # a real clock is late on a machine under load
    assert seen[:START] == list(range(1, START + 1)) and seen[START] <= START
    assert max(seen) == limit == 64


def test_a_limit_that_is_not_in_use_does_not_grow() -> None:
    async def work() -> float:
        limiter = Limiter(64)
        for _ in range(100):
            async with limiter.slot() as place:
                limiter.record_success(place)
        return limiter.limit

    assert run(work()) == START


def test_an_episode_of_overload_cuts_once() -> None:
    async def work() -> list[float]:
        limiter = Limiter(16)
        slots = [limiter.slot() for _ in range(16)]
        first, same, *_ = [await slot.__aenter__() for slot in slots]
        later = replace(first, taken=first.taken + 1)
        limits = []
        for place in (first, same, later):
            limiter.record_overload(place, None)
            limits.append(limiter.limit)
        return limits

    first, same, later = run(work())
    assert first == same == FIRST_CUT * 16
    assert later == pytest.approx(CUT * first)


def test_a_pause_holds_back_all_and_ends_by_itself() -> None:
    async def work() -> tuple[int, int]:
        limiter, entered = Limiter(16), []

        async def one() -> None:
            async with limiter.slot():
                entered.append(True)

        limiter.record_overload(Place(asyncio.get_running_loop().time(), 0, 1), 0.2)
        tasks = [asyncio.create_task(one()) for _ in range(5)]
        await asyncio.sleep(0.05)
        before = len(entered)
        await asyncio.gather(*tasks)
        return before, len(entered)

    assert run(work()) == (0, 5)


def test_a_retry_goes_before_those_that_wait() -> None:
    async def work() -> list[str]:
        limiter, order = Limiter(1), []

        async def one(name: str, urgent: bool = False) -> None:
            async with limiter.slot(urgent):
                order.append(name)

        async with limiter.slot():
            tasks = [asyncio.create_task(one("first")), asyncio.create_task(one("second"))]
            await settle()
            tasks.append(asyncio.create_task(one("retry", urgent=True)))
            await settle()
        await asyncio.gather(*tasks)
        return order

    assert run(work()) == ["retry", "first", "second"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["enter", "leave", "cancel", "yield"]), max_size=60), st.integers(1, 5))
def test_places_are_never_lost_or_invented(steps: list[str], ceiling: int) -> None:
    async def work() -> tuple[int, int]:
        limiter, inside, most = Limiter(ceiling), [0], [0]
        gates: list[asyncio.Event] = []
        tasks: list[asyncio.Task[None]] = []

        async def one(gate: asyncio.Event) -> None:
            async with limiter.slot():
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                try:
                    await gate.wait()
                finally:
                    inside[0] -= 1

        for step in steps:
            if step == "enter":
                gates.append(asyncio.Event())
                tasks.append(asyncio.create_task(one(gates[-1])))
            elif step == "leave" and gates:
                gates[len(gates) // 2].set()
            elif step == "cancel" and tasks:
                tasks[len(tasks) // 2].cancel()
            else:
                await asyncio.sleep(0)
        for gate in gates:
            gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        # All places are free again: as many as the limit can be taken at once.
        async with asyncio.timeout(5):
            slots = [limiter.slot() for _ in range(ceiling)]
            for slot in slots:
                await slot.__aenter__()
        return most[0], ceiling

    most, allowed = run(work())
    assert most <= allowed


def spent(ledger: Ledger, usd: float = 0.0, tokens: int = 0) -> None:
    ledger.record(CallRecord(time.time(), "judge", "m", "ok", 0.1, tokens, 0, usd))


def test_the_cap_on_tokens_holds_and_each_cap_warns_once_at_four_fifths() -> None:
    async def work() -> list[list[str]]:
        ledger = Ledger()
        budget = Budget(ledger, max_usd=1.0, max_tokens=1000)
        told = [budget.warnings()]
        async with budget.reserve(0.1, 800):
            spent(ledger, 0.1, 800)
        told += [budget.warnings(), budget.warnings()]
        with pytest.raises(
            BudgetReached, match=r"--max-tokens 1000 reached: 800 tokens spent.*take up to 201 tokens"
        ):
            async with budget.reserve(0.1, 201):
                pass
        spent(ledger, 0.75)
        return [*told, budget.warnings()]

    before, first, again, last = run(work())
    assert (before, again) == ([], [])
    assert "80% of --max-tokens 1000" in first[0]
    assert len(last) == 1 and "85% of --max-usd 1" in last[0]


def test_what_arrives_while_a_turn_runs_goes_with_the_next() -> None:
    turns: list[list[int]] = []

    def double(numbers: list[int]) -> list[int]:
        turns.append(numbers)
        time.sleep(0.02)
        return [2 * number for number in numbers]

    async def work() -> list[int]:
        coalesced = Batcher(double)
        return await asyncio.gather(*(coalesced(number) for number in range(50)))

    assert run(work()) == [2 * number for number in range(50)]
    assert list(chain.from_iterable(turns)) == list(range(50)) and len(turns) <= 2


def test_an_error_reaches_all_of_its_turn_and_no_other_and_who_gave_up_is_not_missed() -> None:
    def picky(numbers: list[int]) -> list[int]:
        if 0 in numbers:
            raise OSError("no")
        return numbers

    async def work() -> list[int | BaseException]:
        coalesced = Batcher(picky)
        first = asyncio.gather(coalesced(0), return_exceptions=True)
        gave_up = asyncio.create_task(coalesced(1))
        await asyncio.sleep(0)
        gave_up.cancel()
        results = [*await first, *await asyncio.gather(gave_up, return_exceptions=True)]
        return [*results, await coalesced(2)]

    failed, cancelled, good = run(work())
    assert isinstance(failed, OSError) and isinstance(cancelled, asyncio.CancelledError) and good == 2
