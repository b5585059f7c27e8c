"""How long a batch waits for its verdicts, and what is shown meanwhile."""

import asyncio

from mpo_lite.activity import activities
from mpo_lite.judge.base import LONGEST_BATCH, gather_with_deadline
from tests.support.simulated import simulate


def test_a_batch_waits_while_there_are_results_and_not_for_ever() -> None:
    async def after(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    async def batch(*times: float) -> tuple[list[float], float]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        return await gather_with_deadline(
            [after(each) for each in times], -1.0, "answers", 10
        ), loop.time() - began

    assert simulate(batch(9, 18, 27, 36)) == ([9, 18, 27, 36], 36)
    assert simulate(batch(9, 25, 21)) == ([9, -1, -1], 19)
    steps = [9.0 * n for n in range(1, 20)]
    found, took = simulate(batch(*steps))
    assert took == LONGEST_BATCH * 10 and found[9:] == [90.0, *[-1.0] * 9]


def test_judging_is_shown_while_it_lasts() -> None:
    async def work() -> list[tuple[str, int | None, int]]:
        seen: list[tuple[str, int | None, int]] = []

        async def look(seconds: float) -> None:
            await asyncio.sleep(seconds)
            seen.extend((one.name, one.total, one.done) for one in activities())

        await gather_with_deadline([look(n) for n in (1, 2, 3)], None, "answers")
        return seen

    assert simulate(work()) == [("judging", 3, 0), ("judging", 3, 1), ("judging", 3, 2)]
    assert activities() == []
