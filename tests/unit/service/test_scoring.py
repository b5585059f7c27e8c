"""Requests that are sent again, and requests of engines that do not send them again for long."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from mpo_lite.errors import BudgetReached, Unavailable
from mpo_lite.service.app import Scoring
from mpo_lite.service.batches import Submission


class Owner:
    """Fails as often as it has errors."""

    def __init__(self, *errors: Exception, is_stopping: bool = False, problem: str = "down") -> None:
        self.errors, self.is_stopping = list(errors), is_stopping
        self.breaker = SimpleNamespace(problem=problem)
        self.tries = self.counted = 0

    def count(self, scores: Sequence[str]) -> None:
        self.counted += len(scores)

    async def score(self, submissions: Sequence[Submission], fill: bool) -> list[str]:
        self.tries += 1
        assert fill
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop(0)
        return ["score"]


def scoring(owner: Any) -> Scoring:
    metrics: Any = SimpleNamespace(timed=nullcontext, count=owner.count)
    return Scoring(owner, metrics)


ANSWERS = [Submission("prompt", "answer")]


def hold(owner: Owner) -> Any:
    return asyncio.run(scoring(owner).hold(ANSWERS))


def test_a_request_that_is_sent_again_is_scored_and_counted_once() -> None:
    owner = Owner()

    async def send_three_times() -> list[Any]:
        score = scoring(owner).score
        both = await asyncio.gather(score(ANSWERS, True, "r1"), score(ANSWERS, True, "r1"))
        return [*both, await score(ANSWERS, True, "r1")]

    assert asyncio.run(send_three_times()) == [["score"]] * 3
    assert (owner.tries, owner.counted) == (1, 1)


def test_a_judge_that_comes_back_scores_what_was_held() -> None:
    owner = Owner(Unavailable("the judge is down", 2.0))
    assert hold(owner) == ["score"]
    assert owner.tries == 2


@pytest.mark.parametrize(
    "owner",
    [
        Owner(Unavailable("the judge is down", 300.0)),  # longer than the client waits
        Owner(Unavailable("stopping", 5.0), is_stopping=True),
        Owner(Unavailable("no reward yet to compare with", 5.0), problem=""),
        Owner(BudgetReached("max_usd 2 would be exceeded")),
    ],
)
def test_what_does_not_pass_soon_is_not_held(owner: Owner) -> None:
    with pytest.raises((Unavailable, BudgetReached)):
        hold(owner)
    assert owner.tries == 1
