"""The limit on calls in flight, on simulated servers: busy ones, slow ones, and ones that batch."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo_lite.llm.limiter import START, Limiter
from tests.support.simulated import Batching, Queueing, simulate

CEILING = 64
Server = Queueing | Batching


@dataclass
class Traffic:
    """What came of calls to a simulated server.

    Attributes:
        seconds: With calls in flight.
        timeouts: When attempts were given up.
        limits: (time, limit) at each answer.
        most: Calls that were in flight at most above the limit; 0 or less.
    """

    seconds: float
    timeouts: list[float]
    limits: list[tuple[float, float]]
    most: float


def traffic(
    server: Server,
    bursts: Sequence[int],
    timeout_s: float,
    limiter: Callable[..., Limiter] = Limiter,
    events: dict[float, Callable[[], None]] | None = None,
) -> Traffic:
    """Sends bursts of calls, each after the other and a minute of silence, until all are answered."""

    async def work() -> Traffic:
        loop, gate = asyncio.get_running_loop(), limiter(CEILING, timeout_s)
        found = Traffic(0.0, [], [], -CEILING)
        for at, change in (events or {}).items():
            loop.call_at(at, change)

        async def one() -> None:
            while True:
                async with gate.slot() as place:
                    try:
                        async with asyncio.timeout(timeout_s):
                            await server.serve()
                        gate.record_success(place)
                        found.limits.append((loop.time(), gate.limit))
                        return
                    except TimeoutError:
                        found.timeouts.append(loop.time())
                        gate.record_timeout(place)
                await asyncio.sleep(0.1)

        for calls in bursts:
            began = loop.time()
            async with asyncio.timeout(3600):
                await asyncio.gather(*(one() for _ in range(calls)))
            found.seconds += loop.time() - began
            await asyncio.sleep(60)
        return found

    return simulate(work())


class Fixed(Limiter):
    """All the ceiling allows, whatever happens."""

    def __init__(self, ceiling: int, timeout_s: float) -> None:
        super().__init__(ceiling, timeout_s)
        self.limit = float(ceiling)

    def _set_limit(self, limit: float) -> None:
        pass


@pytest.mark.parametrize("spread", [0.0, 0.5])
@pytest.mark.parametrize("bursts", [[400], [64] * 8])
def test_a_queue_is_kept_short_enough_that_nothing_times_out(bursts: list[int], spread: float) -> None:
    server = Queueing(8, 2.0, spread)
    found = traffic(server, bursts, timeout_s=12)
    assert len([at for at in found.timeouts if at > 60]) <= (4 if spread else 0)
    assert server.served - sum(bursts) <= 0.02 * sum(bursts)
    assert found.seconds <= sum(bursts) / 4 / (0.85 if spread else 0.95)


def test_a_limit_that_stays_loses_what_the_server_works_at() -> None:
    server = Queueing(8, 2.0)
    with pytest.raises(TimeoutError):
        traffic(server, [400], timeout_s=12, limiter=Fixed)
    assert server.served > 10_000  # all in vain: each was given up before its turn


@pytest.mark.parametrize("spread", [0.0, 0.5])
@pytest.mark.parametrize("seconds", [1.0, 60.0])
def test_without_a_queue_the_ceiling_is_reached_and_kept(seconds: float, spread: float) -> None:
    found = traffic(Queueing(1000, seconds, spread), [1000], timeout_s=120)
    limits = [limit for _, limit in found.limits[500:]]  # with a trial now and then
    assert max(limits) == CEILING and min(limits) >= 0.7 * CEILING
    assert next(at for at, limit in found.limits if limit > START) <= 1.5 * seconds


@pytest.mark.slow
@pytest.mark.parametrize("bursts", [[2000], [64] * 20, [96] * 15])
def test_a_server_that_batches_is_given_what_it_gains_by(bursts: list[int]) -> None:
    ours = traffic(Batching(0.5, 16, 0.4), bursts, timeout_s=20)
    fixed = traffic(Batching(0.5, 16, 0.4), bursts, timeout_s=20, limiter=Fixed)
    assert fixed.seconds >= 0.9 * ours.seconds and not ours.timeouts


@pytest.mark.parametrize(("slots", "seconds"), [(3, 0.5), (32, 5.0)])
def test_a_server_that_slows_down_for_a_minute_is_followed(slots: int, seconds: float) -> None:
    server = Queueing(32, 0.5)

    def change(slots: int, seconds: float) -> None:
        server.slots, server.seconds = slots, seconds
        server._start()

    found = traffic(
        server,
        [1500],
        timeout_s=8,
        events={5.0: lambda: change(slots, seconds), 65.0: lambda: change(32, 0.5)},
    )
    assert len(found.limits) == 1500
    before, lowest, after = (
        [limit for at, limit in found.limits if low < at <= high]
        for low, high in ((0, 5), (20, 65), (65, 1e9))
    )
    assert min(lowest) <= 0.5 * max(before) and max(after) >= 32
    assert found.seconds <= 95  # 65 of them, and what is left at full speed


def test_an_answer_that_takes_long_by_itself_is_no_overload() -> None:
    """The others were answered meanwhile; the limit stays."""

    async def work() -> float:
        limiter = Limiter(CEILING, 10)
        slots = [limiter.slot() for _ in range(16)]
        long, *others = [await slot.__aenter__() for slot in slots]
        for place in others:
            limiter.record_success(place)
        limiter.record_success(others[0])
        limit = limiter.limit
        limiter.record_timeout(long)
        return limiter.limit - limit

    assert simulate(work()) == 0


def test_time_outs_of_one_episode_cut_once() -> None:
    async def work() -> list[float]:
        limiter, limits = Limiter(16, 10), []
        slots = [limiter.slot() for _ in range(16)]
        places = [await slot.__aenter__() for slot in slots]
        await asyncio.sleep(10)
        for place in places:
            limiter.record_timeout(place)
            limits.append(limiter.limit)
        return limits

    assert simulate(work()) == [START / 2] * START


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 40),
    st.floats(0.05, 5),
    st.floats(0, 0.9),
    st.lists(st.integers(1, 80), min_size=1, max_size=4),
    st.integers(1, 32),
    st.randoms(use_true_random=False),
)
def test_whatever_happens_the_limit_holds_and_all_are_answered(
    slots: int, seconds: float, spread: float, bursts: list[int], ceiling: int, draw: Any
) -> None:
    server, in_flight = Queueing(slots, seconds, spread), 0

    async def work() -> int:
        nonlocal in_flight
        limiter, answered = Limiter(ceiling, 1000.0), 0

        async def one() -> None:
            nonlocal in_flight, answered
            for attempt in range(100):
                async with limiter.slot(urgent=draw.random() < 0.3) as place:
                    in_flight += 1
                    assert 1 <= limiter.limit <= ceiling and in_flight <= ceiling
                    await server.serve()
                    in_flight -= 1
                    outcome = draw.random() if attempt < 99 else 1.0
                    if outcome < 0.1:
                        limiter.record_overload(place, draw.choice([None, 0.0, 3.0]))
                    elif outcome < 0.2:
                        limiter.record_timeout(place)
                    else:
                        limiter.record_success(place)
                        answered += 1
                        return

        for calls in bursts:
            async with asyncio.timeout(1e6):
                await asyncio.gather(*(one() for _ in range(calls)))
            await asyncio.sleep(10)
        return answered

    assert simulate(work()) == sum(bursts)
