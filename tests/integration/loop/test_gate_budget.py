"""The gate's budget: what it covers, from when, and that it lasts."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpo_lite.config_sources import load_config
from mpo_lite.judge.base import Sample
from mpo_lite.judge.pointwise import PointwiseJudge
from mpo_lite.llm import event_loop
from mpo_lite.llm.models import Backend
from mpo_lite.loop.context import prepare_run
from mpo_lite.loop.estimate import meta_steps
from mpo_lite.loop.gate_budget import GateBudget
from mpo_lite.meta.gate_judge import BudgetedJudge
from mpo_lite.rubric import Rubric
from mpo_lite.tasks.spec import load_task
from mpo_lite.types import Brief
from tests.support.llm_server import LLMServer


def budget(total: int, batches: int, interval: int = 10) -> GateBudget:
    return GateBudget(0.1, 10 * total, batches, interval, first=52, later=40)


def test_a_short_run_may_spend_early_all_that_one_step_takes() -> None:
    assert budget(52, 30).steps() == [10]
    assert budget(52, 30).first_affordable_batch(52, 1, 0) == 1  # an early alarm
    assert budget(51, 30).steps() == []
    assert budget(512, 80).steps() == [10, 20, 30, 40, 50, 60, 70]


def test_a_refused_proposal_is_followed_by_another_at_once() -> None:
    one = budget(512, 80)
    assert one.allowance(1, 52) >= 40 and one.allowance(1, 52 + 40) < 40


def test_where_steps_are_short_they_spread_over_the_run() -> None:
    found = budget(52 + 3 * 40, 200).steps()
    assert len(found) == 4 and found[0] == 10 and found[-1] > 90


def test_alarms_from_the_start_leave_steps_for_the_rest_of_a_long_run() -> None:
    one, used, cost, found = budget(520, 400), 0, 52, list[int]()
    for batch in range(5, 400, 5):  # an alarm whenever the cool-down is over
        if cost <= one.allowance(batch, used):
            found.append(batch)
            used, cost = used + cost, 40
    assert used <= one.total and len([batch for batch in found if batch < 40]) <= 3 and found[-1] > 300


@given(st.integers(0, 2000), st.integers(1, 400), st.integers(1, 50))
def test_steps_never_take_more_than_the_budget_and_all_come_where_it_covers_them(
    total: int, batches: int, interval: int
) -> None:
    one = budget(total, batches, interval)
    found = one.steps()
    took = 52 + 40 * (len(found) - 1) if found else 0
    assert took <= one.total and len(found) <= min(one.planned_steps, one.most_steps)
    if one.planned_steps <= one.most_steps:
        assert found == [interval * n for n in range(1, one.planned_steps + 1)]
    elif interval < batches:
        assert len(found) >= min(1, one.most_steps)


def told(tmp_path: Path, **options: Any) -> dict[str, Any]:
    given = {"judge": "openai/m", "meta": "openai/n", "task": "sandbox", "policy": "sandbox", "steps": 60}
    given |= dict.fromkeys(("judge_api_base", "meta_api_base"), "http://127.0.0.1:9/v1")
    given |= {"cache_dir": tmp_path, "batch_prompts": 2, "group_size": 8}
    given |= {"gate": {"share": 0.1}} | options
    session = prepare_run(load_config(given=given, environ={}))
    try:
        return meta_steps(session)
    finally:
        session.close()


def test_what_is_told_beforehand(tmp_path: Path) -> None:
    some = told(tmp_path, steps=130, gate={"share": 0.12})
    assert (some["planned"], some["affordable"], some["first_batch"]) == (12, 2, 10)
    assert (some["gate_budget"], some["first_step"]) == (249, 120)
    assert "covers 2 of 12 planned meta steps, the first after batch 10" in some["summary"]
    share = float(some["summary"].split("gate.share=")[1])
    assert told(tmp_path, steps=130, gate={"share": share})["affordable"] == 12
    none = told(tmp_path, steps=18)
    assert (none["affordable"], none["first_batch"]) == (0, None)
    assert none["summary"].startswith("warning: no meta step: ") and "gate.share=0.42" in none["summary"]
    assert told(tmp_path, steps=18, gate={"share": 0.42})["affordable"] == 1
    fewer = told(tmp_path, steps=68)["summary"]
    prompts = int(fewer.split("gate.prompts=")[1].split(",")[0])
    assert told(tmp_path, steps=68, gate={"prompts": prompts, "share": 0.1})["affordable"] == 1
    assert "--interval 4" in told(tmp_path, steps=8)["summary"]


@pytest.mark.parametrize(
    ("options", "planned", "first"),
    [
        ({}, 2080, 120),
        ({"judge_mode": "planned"}, 2080 + 260, 120 + 12 + 12 + 3),
        # The anchor's answers by two rubrics, planted ones, those in doubt, recent ones, pairs.
        ({"judge_mode": "groupwise"}, 260, 12 + 12 + 15 + 15 + 4 + 4),
        ({"replicates": 3}, 3 * 2080, 3 * 120),
        ({"judge": ["openai/m", "openai/n"]}, 2 * 2080, 2 * 120),
    ],
)
def test_the_budget_is_a_share_of_the_planned_calls(
    tmp_path: Path, options: dict[str, Any], planned: int, first: int
) -> None:
    counted = told(tmp_path, steps=130, gate={"share": 0.5}, **options)
    assert (counted["gate_budget"], counted["first_step"]) == (planned // 2, first)


@pytest.mark.parametrize("options", [{"use_gate": False}, {"baseline": "iter0"}, {"baseline": "autoprompt"}])
def test_without_a_gate_there_is_no_budget(tmp_path: Path, options: dict[str, Any]) -> None:
    found = told(tmp_path, **options)
    assert found["gate_budget"] is None and not found["summary"]
    assert found["planned"] == (5 if "use_gate" in options else 0)


def test_a_step_that_is_done_again_is_charged_as_it_was(tmp_path: Path, make_client: Any) -> None:
    samples = [Sample(f"p{n}", "An answer.") for n in range(4)]
    rubric = Rubric.model_validate(
        {"criteria": [{"id": "flow", "description": "d", "levels": ["none", "some"]}]}
    )

    with LLMServer() as server:
        client = make_client()
        judge = PointwiseJudge(
            client, Backend("j", "openai/j", server.url, "none", 0.0, None), Brief("a reader")
        )

        def gate_judge() -> BudgetedJudge:
            return BudgetedJudge(
                lambda draw: judge, lambda: "j", load_task("sandbox").rules, tmp_path / "trials"
            )

        first = gate_judge()
        first.left = 10
        given = event_loop.wait(first.verdicts(samples, rubric, 5))
        asked = len(server.requests)
        again = gate_judge()
        assert again.count_calls([samples], rubric) == 0
        again.rewind(5)
        again.left = 10
        assert again.count_calls([samples], rubric) == 4 and again.spent_before(5) == 0
        assert event_loop.wait(again.verdicts(samples, rubric, 5)) == given
        assert again.left == first.left == 6
        assert len(server.requests) == asked  # it was paid for
        # Nor is the step done again where its outcome is on record: what it judged is known afterwards.
        later = gate_judge()
        later.rewind(5)
        later.rewind(6)
        assert later.count_calls([samples], rubric) == 0 and later.spent_before(6) == 4
