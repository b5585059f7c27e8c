"""The scale of a rubric version: the anchor's rewards keep their spread, whatever the rubric."""

import asyncio
import statistics
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpo_lite.judge.base import CallCost, Sample
from mpo_lite.loop.version_scale import LARGEST, LEAST_ANSWERS, version_scale
from mpo_lite.meta.gate_judge import BudgetedJudge
from mpo_lite.rubric import Criterion, Rubric
from mpo_lite.rubric_versions import RubricVersion
from mpo_lite.tasks.spec import Rules
from mpo_lite.types import Verdict

ANCHOR = [Sample(f"prompt {n}", f"answer {n}") for n in range(6)]
RUBRICS = [Rubric(criteria=(Criterion(id=f"r{n}", description="d", levels=("no", "yes")),)) for n in range(3)]
Rewards = Sequence[float | None]
rewards = st.lists(st.floats(0, 1), min_size=6, max_size=6)


class TableJudge:
    """Gives the anchor the rewards of a table."""

    def __init__(self, table: Mapping[str, Rewards]) -> None:
        self._table, self.cost = table, CallCost()

    async def verdicts(self, samples: Sequence[Sample], rubric: Rubric) -> list[Verdict]:
        places = [ANCHOR.index(sample) for sample in samples]
        return [Verdict(self._table[rubric.set_hash][place], rubric.set_hash) for place in places]


def judged(*tables: Rewards) -> BudgetedJudge:
    """A gate's judge that had the anchor judged by as many rubrics as there are tables."""
    table = {rubric.set_hash: rows for rubric, rows in zip(RUBRICS, tables, strict=False)}
    judge = BudgetedJudge(lambda draw: TableJudge(table), lambda: "j", Rules())
    for rubric in RUBRICS[: len(tables)]:
        asyncio.run(judge.verdicts(ANCHOR, rubric, 0))
    return judge


def scale(judge: BudgetedJudge, old: int, new: int, before: float = 1.0) -> float:
    version = RubricVersion(old, None, 0, "m", RUBRICS[old], before)
    return version_scale(version, RUBRICS[new], ANCHOR, judge)


@given(rewards, st.floats(0.3, 1), st.floats(0, 1))
def test_saturated_criteria_change_nothing_once_scaled(first: Rewards, share: float, level: float) -> None:
    """They add a constant and shrink the rest: exactly what the scale undoes."""
    second = [share * (reward or 0) + (1 - share) * level for reward in first]
    spreads = [statistics.pstdev(reward or 0 for reward in each) for each in (first, second)]
    told = scale(judged(first, second), 0, 1)
    if min(spreads) >= 0.02:
        assert told * spreads[1] == pytest.approx(spreads[0])
    else:
        assert told == 1.0


@given(rewards, rewards, rewards)
def test_scales_of_successive_versions_are_those_against_the_first(
    a: Rewards, b: Rewards, c: Rewards
) -> None:
    judge = judged(a, b, c)
    first = scale(judge, 0, 1)
    chained, direct = scale(judge, 1, 2, first), scale(judge, 0, 2)
    assert 1 / LARGEST <= chained <= LARGEST
    if all(statistics.pstdev(reward or 0 for reward in each) >= 0.1 for each in (a, b, c)):
        inside = 1 / LARGEST < first < LARGEST
        assert chained == pytest.approx(direct) or not inside


def test_a_scale_stays_where_too_little_is_known() -> None:
    spread: Rewards = [0.0, 1.0, 0.5, 0.2, 0.9, 0.4]
    few: Rewards = [*spread[: LEAST_ANSWERS - 1], *[None] * (7 - LEAST_ANSWERS)]
    assert scale(judged(spread), 0, 1, 1.5) == 1.5  # never judged by the new rubric
    assert scale(judged(spread, few), 0, 1, 1.5) == 1.5
    assert scale(judged(spread, [0.5] * 6), 0, 1, 1.5) == 1.5  # all alike: no ratio
    assert scale(judged(spread, [0.1 * (reward or 0) for reward in spread]), 0, 1) == LARGEST
