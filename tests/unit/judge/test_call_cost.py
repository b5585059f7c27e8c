"""How many calls judgements take, by the judge's mode."""

from dataclasses import fields, replace
from itertools import groupby
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mpo_lite.judge.base import CallCost, Sample
from mpo_lite.judge.planned import PlannedJudge
from mpo_lite.judge.pointwise import PointwiseJudge
from mpo_lite.llm.models import Backend
from mpo_lite.rubric import Criterion, Rubric
from mpo_lite.types import Brief

COSTS = st.builds(CallCost, st.integers(1, 3), st.integers(1, 5), st.booleans())
# Few texts, so that prompts and whole samples come again.
VALUES = {"str": st.sampled_from(["", "a", "b"]), "bool": st.booleans()}
SAMPLES = st.builds(Sample, **{field.name: VALUES[str(field.type)] for field in fields(Sample)})


def count(cost: CallCost, *parts: list[Sample]) -> int:
    return len({call for part in parts for calls in cost.name_calls(part) for call in calls})


@given(COSTS, st.lists(SAMPLES))
def test_no_judging_takes_more_calls_than_are_set_aside_for_as_many_answers(
    cost: CallCost, samples: list[Sample]
) -> None:
    runs = len([prompt for prompt, _ in groupby(sample.prompt for sample in samples)])
    tasks = len({replace(sample, completion="") for sample in samples})
    assert count(cost, samples) <= cost.most_calls(len(samples), runs, tasks)
    for calls in cost.name_calls(samples):
        assert len(set(calls)) == cost.judges * (1 + cost.plans)


@given(COSTS, st.lists(SAMPLES), st.lists(SAMPLES))
def test_what_was_judged_before_costs_nothing_again(
    cost: CallCost, first: list[Sample], second: list[Sample]
) -> None:
    assert count(cost, first, first) == count(cost, first)
    assert count(cost, first) <= count(cost, first, second) <= count(cost, first) + count(cost, second)


@given(st.integers(0, 60), st.integers(1, 12))
def test_a_single_pointwise_judge_makes_one_call_for_each_answer(answers: int, prompts: int) -> None:
    assert CallCost().most_calls(answers, prompts, prompts) == answers


@given(SAMPLES, SAMPLES)
def test_answers_that_share_a_plan_have_the_same_call_for_it(one: Sample, other: Sample) -> None:
    client: Any = SimpleNamespace(cache=SimpleNamespace(nonce_key=b"key"))
    backend = Backend("j", "openai/j", "http://127.0.0.1:9/v1", "none", 0.0, None)
    judge = PlannedJudge(PointwiseJudge(client, backend, Brief("a reader")))
    criterion = Criterion(id="a", description="d", levels=("no", "yes"))
    rubric = Rubric(criteria=(criterion,), clusters={"a": "Be strict."})

    def plan(sample: Sample) -> Any:
        ((_, name),) = judge.cost.name_calls([sample])
        return name

    assert plan(one) == plan(replace(one, completion="another answer"))
    if plan(one) == plan(other):
        assert judge.build_plan_call(one, rubric).messages == judge.build_plan_call(other, rubric).messages
