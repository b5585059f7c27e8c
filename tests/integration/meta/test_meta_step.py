import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from mpo_lite.activity import activities
from mpo_lite.llm import event_loop
from mpo_lite.llm.client import Client
from mpo_lite.llm.models import Backend
from mpo_lite.meta.cases.pairs import pairs
from mpo_lite.meta.cases.samples import samples
from mpo_lite.meta.gate import GateResult
from mpo_lite.meta.meta_judge import MetaJudge, Proposal
from mpo_lite.meta.objections import Objection
from mpo_lite.meta.step import StepInput, improve_rubric
from mpo_lite.rubric import Rubric
from mpo_lite.types import Assessment, Rollout, Verdict
from tests.support.llm_server import LLMServer, kind_of, prompt_text
from tests.support.proposals import CRITERION

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
    return event_loop.wait(meta(make_client(), server).propose(rubric, cases, "", f"batch-{batch}"))


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
    assert (proposal.rubric, proposal.failed) == (None, 3)
    assert proposal.reason.startswith("analysing failed for 3 of 3 samples: ") and "500" in proposal.reason


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        ("analyse", "analysing failed for 3 of 3 samples: openai/m gave no usable answer: not JSON"),
        ("refine", "refining failed for 3 of 3 samples: openai/m gave no usable answer: not JSON"),
        ("merge", "merging failed: openai/m gave no usable answer: not JSON"),
    ],
)
def test_the_reason_names_the_stage_that_failed(
    make_client: Callable[..., Client], rubric: Rubric, stage: str, reason: str
) -> None:
    def fault(kind: str, body: Any) -> Any:
        return "I would rather not." if kind in (stage, "repair") else None

    with LLMServer(fault) as server:
        proposal = propose(make_client, server, rubric)
    assert proposal.rubric is None and proposal.reason.startswith(reason)
    assert "I would rather not." in proposal.reason  # what was seen
    assert proposal.failed == (0 if stage == "merge" else 3)


def test_empty_refinements_leave_the_rubric_unchanged_without_a_merge(
    make_client: Callable[..., Client], rubric: Rubric
) -> None:
    """The shortest answer under guided decoding: an answer all the same, not a failure."""
    gate: Any = Refuses(0)
    material = StepInput(rubric, [rollout(row, row / 4) for row in range(3)], {}, [], "", 10)
    with LLMServer(lambda kind, body: '{"criteria": []}' if kind == "refine" else None) as server:
        found = event_loop.wait(
            improve_rubric(meta(make_client(), server), gate, material, "samples", 4, False)
        )
        assert len(server.requests) == 6 and not server.prompts("merge")
    assert (found.rubric, found.status, found.failed, gate.seen) == (None, "unchanged", 0, [])


def test_a_case_without_a_refinement_is_left_out_of_the_merge(
    make_client: Callable[..., Client], rubric: Rubric
) -> None:
    def fault(kind: str, body: Any) -> Any:
        return '{"criteria": []}' if kind == "refine" and "completion 1" in prompt_text(body) else None

    with LLMServer(fault) as server:
        proposal = propose(make_client, server, rubric)
        (merge,) = server.prompts("merge")
    assert "label: s1" in merge and "label: s2" not in merge and "label: s3" in merge
    assert proposal.rubric is not None and proposal.failed == 0


def test_a_server_that_refuses_bounds_is_asked_without(
    make_client: Callable[..., Client], rubric: Rubric
) -> None:
    def fault(kind: str, body: Any) -> Any:
        if "minItems" in json.dumps(body.get("response_format", {})):
            said = "Invalid schema for response_format 'reply': 'minItems' is not permitted."
            error = {"error": {"message": said, "type": "invalid_request_error"}}
            return web.json_response(error, status=400)
        return None

    with LLMServer(fault) as server:
        proposal = propose(make_client, server, rubric)
        assert all("response_format" in body for body in server.requests)
    assert proposal.rubric is not None and proposal.failed == 0


def test_the_phases_of_a_step_are_activities(make_client: Callable[..., Client], rubric: Rubric) -> None:
    seen: dict[str, set[tuple[int | None, str]]] = {}

    def watch(kind: str, body: Any) -> None:
        for one in activities():
            seen.setdefault(kind, set()).add((one.total, one.name))

    material = StepInput(rubric, [rollout(row, row / 4) for row in range(3)], {}, [], "", 10)
    gate: Any = Refuses(1)
    with LLMServer(watch) as server:
        event_loop.wait(
            improve_rubric(meta(make_client(), server), gate, material, "samples", 4, prescreen=True)
        )
    assert seen == {
        "prescreen": {(3, "prescreening")},
        "analyse": {(3, "analysing and refining")},
        "refine": {(3, "analysing and refining")},
        "merge": {(None, "merging")},
        "revise": {(None, "revising")},
    }
    assert activities() == []


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


def test_pairs_show_the_answer_beside_the_initial_policys(
    make_client: Callable[..., Client], rubric: Rubric
) -> None:
    before = replace(rollout(0, 0.25), prompt="prompt 1", completion="what it said at first")
    cases = pairs([rollout(1, 0.75), rollout(2, 0.5)], {"prompt 1": before})
    assert [case.template for case in cases] == ["compare", "analyse"]
    with LLMServer() as server:
        event_loop.wait(meta(make_client(), server).propose(rubric, cases, "flow: mean level 0.5", "d"))
        shown = server.prompts("compare")[0]
        assert all(text in shown for text in ("what it said at first", "0.25", "completion 1", "reason 1"))
        assert len(server.prompts("analyse")) == 1
        assert all("flow: mean level" in text for text in server.prompts("refine") + server.prompts("merge"))


def test_prescreening_puts_badly_judged_answers_first(
    make_client: Callable[..., Client], rubric: Rubric
) -> None:
    def answer(kind: str, body: Any) -> Any:
        if kind == "prescreen":
            bad = "completion 5" in prompt_text(body) or "completion 2" in prompt_text(body)
            return json.dumps({"reason": "r", "judged": "too_high" if bad else "well"})
        return None

    material = StepInput(rubric, [rollout(row, row / 8) for row in range(6)], {}, [], "", 10)
    with LLMServer(answer) as server:
        found = event_loop.wait(
            improve_rubric(meta(make_client(), server), None, material, "samples", 2, prescreen=True)
        )
    assert found.samples == ("b0r2", "b0r5")


def test_a_failed_prescreening_leaves_its_sample_in_its_place(
    make_client: Callable[..., Client], rubric: Rubric
) -> None:
    with LLMServer(lambda kind, body: "no JSON") as server:
        cases = samples([rollout(0, 0.5)], {})
        assert event_loop.wait(meta(make_client(), server).screen(rubric, cases, "d")) == []


def test_guidelines_change_for_clusters_with_evidence_alone(
    make_client: Callable[..., Client], rubric: Rubric
) -> None:
    old = Rubric(criteria=rubric.criteria, clusters={"algebra": "Check signs.", "sets": "Check bounds."})
    answer = json.dumps({"guidelines": "Check each step."})
    cases = samples([replace(rollout(0, 0.5), cluster="algebra")], {})
    with LLMServer(lambda kind, body: answer if kind == "guide" else None) as server:
        proposal = event_loop.wait(meta(make_client(), server).propose(old, cases, "", "d"))
        (shown,) = server.prompts("guide")
        assert "Check signs." in server.prompts("analyse")[0]  # what the judge of this cluster was told
    assert "Check signs." in shown and "because" in shown  # the guidelines in force, and the critique
    assert proposal.rubric is not None
    assert proposal.rubric.clusters == {"algebra": "Check each step.", "sets": "Check bounds."}


def test_a_cluster_whose_guidelines_fail_keeps_them(
    make_client: Callable[..., Client], rubric: Rubric
) -> None:
    old = Rubric(criteria=rubric.criteria, clusters={"algebra": "Check signs."})
    cases = samples([replace(rollout(0, 0.5), cluster="algebra")], {})
    with LLMServer(lambda kind, body: "no JSON" if kind in ("guide", "repair") else None) as server:
        proposal = event_loop.wait(meta(make_client(), server).propose(old, cases, "", "d"))
    assert proposal.rubric is not None and proposal.rubric.clusters == old.clusters


class Refuses:
    """A gate that refuses the first proposals, for a reason."""

    def __init__(self, times: int, affords: bool = True) -> None:
        self.times, self.affords, self.seen = times, affords, list[Rubric]()

    def can_afford_another(self, old: Rubric) -> bool:
        return self.affords

    async def examine(self, new: Rubric, *_: Any) -> GateResult:
        self.seen.append(new)
        return GateResult(
            (Objection("title", "it pays for titles"),) if len(self.seen) <= self.times else (),
            {"margin_title": 0.1},
        )


@pytest.mark.parametrize("times", [0, 1, 2])
def test_a_refused_rubric_goes_back_once_with_the_reasons(
    make_client: Callable[..., Client], rubric: Rubric, times: int
) -> None:
    gate: Any = Refuses(times)
    material = StepInput(rubric, [rollout(0, 0.5)], {}, [], "", 10)
    with LLMServer() as server:
        found = event_loop.wait(
            improve_rubric(meta(make_client(), server), gate, material, "samples", 4, False)
        )
        revisions = server.prompts("revise")
    assert len(gate.seen) == len(found.attempts) == min(times, 1) + 1
    assert len(revisions) == min(times, 1)
    assert all("it pays for titles" in text and gate.seen[0].criteria[0].id in text for text in revisions)
    assert (found.rubric is None) == (times == 2)
    assert found.reason == ("it pays for titles" if times == 2 else "")


def test_no_revision_is_asked_for_that_could_not_be_tried_out(
    make_client: Callable[..., Client], rubric: Rubric
) -> None:
    gate: Any = Refuses(2, affords=False)
    material = StepInput(rubric, [rollout(0, 0.5)], {}, [], "", 10)
    with LLMServer() as server:
        found = event_loop.wait(
            improve_rubric(meta(make_client(), server), gate, material, "samples", 4, False)
        )
        assert not server.prompts("revise")
    assert (len(found.attempts), found.reason) == (1, "it pays for titles")


def test_an_unchanged_proposal_costs_no_check(make_client: Callable[..., Client], rubric: Rubric) -> None:
    same = [each.model_dump(mode="json", exclude={"provenance"}) | {"from": []} for each in rubric.criteria]
    answer = json.dumps({"criteria": same, "guidelines": ""})
    gate: Any = Refuses(0)
    material = StepInput(rubric, [rollout(0, 0.5)], {}, [], "", 10)
    with LLMServer(lambda kind, body: answer if kind == "merge" else None) as server:
        found = event_loop.wait(
            improve_rubric(meta(make_client(), server), gate, material, "samples", 4, False)
        )
    assert (found.rubric, found.status, gate.seen) == (None, "unchanged", [])
