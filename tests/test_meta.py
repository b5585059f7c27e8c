import json
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from llm_server import LLMServer, kind_of, prompt_text

from mpo_lite.llm import background
from mpo_lite.llm.client import Client
from mpo_lite.llm.models import Backend
from mpo_lite.meta.select import select
from mpo_lite.meta.step import MetaJudge, Proposal, changes
from mpo_lite.meta.strategies import samples
from mpo_lite.rubric import Rubric
from mpo_lite.types import Assessment, Rollout, Verdict

CRITERION = {
    "id": "example",
    "description": "An example.",
    "levels": ["none", "one"],
    "weight": 2,
    "kind": "merit",
}


pytestmark = pytest.mark.usefixtures("quick_retries")


def rollout(row: int, reward: float | None, source: Any = "judge") -> Rollout:
    verdict = Verdict(reward, "h", {"structure": Assessment(f"reason {row}", 1)}, source=source)
    return Rollout(0, row, f"prompt {row}", f"completion {row}", verdict, 0, reward)


def meta(client: Client, server: LLMServer) -> MetaJudge:
    return MetaJudge(
        client, Backend("m", "openai/m", server.url, "none", 0.7, 500), "Readers want good essays."
    )


def propose(
    make_client: Callable[..., Client], server: LLMServer, rubric: Rubric, batch: int = 10
) -> Proposal:
    cases = samples([rollout(row, row / 4) for row in range(3)], {})
    return background.wait(meta(make_client(), server).propose(rubric, cases, "", f"batch-{batch}"))


@given(st.lists(st.none() | st.floats(0, 1), max_size=40), st.integers(1, 12), st.text(max_size=5))
def test_selection_is_stratified_distinct_and_deterministic(
    rewards: list[float | None], count: int, seed: str
) -> None:
    rollouts = [rollout(row, reward) for row, reward in enumerate(rewards)]
    chosen = select(rollouts, count, seed)
    judged = sorted((r for r in rollouts if r.reward is not None), key=lambda r: (r.reward or 0.0, r.row))
    assert chosen == select(rollouts, count, seed)
    assert len({r.id for r in chosen}) == len(chosen) == min(count, len(judged))
    assert all(r.reward is not None for r in chosen)
    if count >= 3 and len(judged) >= 3:
        thirds = [judged[len(judged) * n // 3 : len(judged) * (n + 1) // 3] for n in range(3)]
        assert all(any(r in third for r in chosen) for third in thirds)


def test_what_a_rule_decided_is_not_shown_to_the_meta_judge() -> None:
    assert select([rollout(0, 0.0, "rule"), rollout(1, 0.5)], 4, "s") == [rollout(1, 0.5)]


def test_a_step_analyses_and_refines_each_sample_and_merges_once(
    make_client: Callable[..., Client], rubric: Rubric
) -> None:
    with LLMServer() as server:
        proposal = propose(make_client, server, rubric)
        kinds = [kind_of(prompt_text(body)) for body in server.requests]
        assert {kind: kinds.count(kind) for kind in kinds} == {"analyse": 3, "refine": 3, "merge": 1}
        assert "reason 1" in "".join(server.prompts("analyse"))  # the judge's reasons are in view
        assert "Readers want good essays." in server.prompts("merge")[0]
        assert (
            "on_task: weight 1, veto" in server.prompts("refine")[0]
            and "structure: weight 3, merit" in server.prompts("merge")[0]
        )
    assert proposal.rubric is not None
    (criterion,) = proposal.rubric.criteria
    assert criterion.provenance == ("b0r0",)  # the label s1 that the answer names


def test_a_failed_call_drops_its_sample_and_the_step_goes_on(
    make_client: Callable[..., Client], rubric: Rubric
) -> None:
    def fault(kind: str, body: Any) -> Any:
        return (
            "no JSON"
            if kind == "repair" or (kind == "analyse" and "completion 1" in prompt_text(body))
            else None
        )

    with LLMServer(fault) as server:
        proposal = propose(make_client, server, rubric)
        assert "label: s2" not in server.prompts("merge")[0]
    assert proposal.rubric is not None
    assert proposal.failed == 1


@pytest.mark.parametrize(
    "criteria",
    [
        [],
        [CRITERION | {"levels": ["one"]}],
        [CRITERION | {"weight": 9}],
        [CRITERION | {"kind": "veto"}],
        [CRITERION | {"id": "Not An Id"}],
        [CRITERION, CRITERION],
        [CRITERION | {"points": 5}],
    ],
)
def test_a_merge_that_makes_no_sound_rubric_never_replaces_one(
    make_client: Callable[..., Client], rubric: Rubric, criteria: list[dict[str, Any]]
) -> None:
    answer = json.dumps({"criteria": [{"from": []} | criterion for criterion in criteria], "guidelines": ""})
    with LLMServer(lambda kind, body: answer if kind in ("merge", "repair") else None) as server:
        proposal = propose(make_client, server, rubric)
    assert proposal.rubric is None
    assert "merging failed" in proposal.reason


def test_a_dead_meta_judge_keeps_the_rubric(make_client: Callable[..., Client], rubric: Rubric) -> None:
    with LLMServer(lambda kind, body: web.json_response({}, status=500)) as server:
        proposal = propose(make_client, server, rubric)
    assert (proposal.rubric, proposal.failed, proposal.reason) == (None, 3, "no sample could be analysed")


def test_a_repeated_step_hits_the_cache_and_a_later_one_draws_afresh(
    make_client: Callable[..., Client], rubric: Rubric
) -> None:
    with LLMServer() as server:
        first = propose(make_client, server, rubric, batch=10)
        asked = len(server.requests)
        assert propose(make_client, server, rubric, batch=10) == first
        assert len(server.requests) == asked
        propose(make_client, server, rubric, batch=20)
        assert len(server.requests) == 2 * asked


def test_provenance_of_a_kept_criterion_grows(make_client: Callable[..., Client], rubric: Rubric) -> None:
    kept = rubric.criteria[0].model_copy(update={"provenance": ("b1r1",)})
    old = rubric.model_copy(update={"criteria": (kept,)})
    data = kept.model_dump(mode="json", exclude={"provenance"}) | {"from": ["s2", "unknown"]}
    answer = json.dumps({"criteria": [data], "guidelines": ""})
    with LLMServer(lambda kind, body: answer if kind == "merge" else None) as server:
        proposal = propose(make_client, server, old)
    assert proposal.rubric is not None
    assert proposal.rubric.criteria[0].provenance == ("b1r1", "b0r1")
    assert proposal.rubric.reward_hash == old.reward_hash


def test_changes_name_criteria_added_changed_and_dropped(rubric: Rubric) -> None:
    structure, evidence, on_task = rubric.criteria
    added = structure.model_copy(update={"id": "example"})
    new = Rubric(criteria=(structure.model_copy(update={"provenance": ("x",)}), on_task, added))
    new = new.model_copy(
        update={"criteria": (new.criteria[0], on_task.model_copy(update={"weight": 4}), new.criteria[2])}
    )
    assert changes(rubric, new) == {"added": ["example"], "changed": ["on_task"], "dropped": [evidence.id]}
