"""What adapters send for an engine and give back to it, in the engine's form but without the engine."""

import asyncio
import pickle
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mpo_lite.errors import CallFailed, ConfigError, Unavailable
from mpo_lite.integrations import areal, rllm, swift, trl, verifiers, verl
from mpo_lite.integrations.client import RewardClient
from tests.support.reward_server import RewardServer, judged, refusal, reward_server

DIALOGUE = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "because"}]
UNJUDGED = {"score": 0.5, "mpo_version": 3.0, "mpo_filled": 1.0}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RewardServer]:
    """A service that cannot judge the last of the answers that come together."""
    with reward_server(lambda number, body: judged(body, unjudged=(len(body["answers"]) - 1,))) as serving:
        monkeypatch.setenv("MPO_SERVE_URL", serving.url)
        yield serving


def test_verl_gets_a_number_and_the_same_keys_for_each_answer(server: RewardServer) -> None:
    info = {"prompt": "why?", "cluster": "short", "num_turns": 1, "rollout_reward_scores": {}}
    scored = asyncio.run(verl.compute_score("essays", "because", "right", info))
    assert scored == UNJUDGED
    (body,) = server.requests
    assert body["fill"]
    assert (
        body["answers"][0] | {"prompt": "why?", "completion": "because", "reference": "right"}
        == body["answers"][0]
    )
    assert body["answers"][0]["cluster"] == "short"


@pytest.mark.parametrize("info", [None, {}, {"index": 3}])
def test_verl_needs_the_prompt(server: RewardServer, info: dict[str, Any] | None) -> None:
    with pytest.raises(ConfigError, match=r"extra_info has no prompt.*MPORewardManager"):
        asyncio.run(verl.compute_score("essays", "because", None, info))
    assert not server.requests


class Rows(list[Any]):
    """As verl's ``DataProto``: rows with columns."""


def row_of_verl(tokens: int, **columns: Any) -> Rows:
    mask = np.array([1, 1, 1] + [1] * tokens + [0] * (8 - tokens))
    batch = {"responses": np.arange(8), "attention_mask": mask}
    prompt = np.array([{"role": "user", "content": "why?"}], dtype=object)
    return Rows(
        [SimpleNamespace(batch=batch, non_tensor_batch={"raw_prompt": prompt, "uid": "u7"} | columns)]
    )


def test_verls_manager_sends_prompt_group_and_step(server: RewardServer) -> None:
    config = SimpleNamespace(data=SimpleNamespace(max_response_length=8))
    tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: f"{len(ids)} tokens")
    manager = verl.MPORewardManager(config, tokenizer, None, reward_router_address=None)
    columns = {"reward_model": {"ground_truth": "right"}, "extra_info": {}, "global_steps": np.int64(5)}
    result = asyncio.run(manager.run_single(row_of_verl(3, **columns)))
    assert result == {"reward_score": 0.5, "reward_extra_info": UNJUDGED}
    asyncio.run(manager.run_single(row_of_verl(8)))
    first, second = server.requests
    assert first["answers"][0] == {
        "prompt": [{"role": "user", "content": "why?"}],
        "completion": "3 tokens",
        "group": "u7",
        "truncated": False,
        "reference": "right",
        "cluster": "",
    }
    assert (first["step"], first["fill"]) == (5, True)
    assert second["answers"][0]["truncated"]
    assert second["step"] is None


def test_swift_leaves_out_what_could_not_be_judged(server: RewardServer) -> None:
    reward = swift.MPOReward(args=SimpleNamespace())
    columns = {"prompt_id": ["p", "p"], "is_truncated": [False, True], "solution": ["a", "b"]}
    state = SimpleNamespace(global_step=9)
    for _ in range(2):
        dialogues = [DIALOGUE, [*DIALOGUE, {"role": "tool", "content": "42"}, DIALOGUE[1]]]
        called = reward(["because", "so"], messages=dialogues, trainer_state=state, **columns)
        assert asyncio.run(called) == [0.0, None]
    body = server.requests[0]
    assert [answer["prompt"] for answer in body["answers"]] == [DIALOGUE[:1]] * 2
    assert [answer["group"] for answer in body["answers"]] == ["p", "p"]
    assert [answer["truncated"] for answer in body["answers"]] == [False, True]
    assert (body["step"], body["fill"], body["whole_groups"]) == (9, False, False)


def test_trls_reward_is_picklable_and_takes_whole_groups(server: RewardServer) -> None:
    reward = pickle.loads(pickle.dumps(trl.RemoteReward()))
    prompts = [DIALOGUE[:1]] * 3
    completions = [[{"role": "assistant", "content": text}] for text in "abc"]
    ids = [[1], [2], [3]]
    assert reward(prompts=prompts, completions=completions, completion_ids=ids, reference=["r"] * 3) == [
        0.0,
        0.1,
        None,
    ]
    state = SimpleNamespace(global_step=2)
    assert reward(["why?"], ["because"], trainer_state=state, log_metric=print) == [None]
    first, second = server.requests
    assert (first["step"], first["whole_groups"], first["fill"]) == (None, True, False)
    assert [answer["reference"] for answer in first["answers"]] == ["r"] * 3
    assert second["step"] == 2
    assert reward.__name__ == "mpo"


def test_verifiers_trace_fails_where_its_reply_could_not_be_judged(server: RewardServer) -> None:
    metrics: dict[str, float] = {}
    task = SimpleNamespace(prompt_text="why?", reference="right")
    trace = SimpleNamespace(last_reply="because", is_truncated=True, record_metric=metrics.__setitem__)
    with pytest.raises(CallFailed, match="could not be judged: parse"):
        asyncio.run(verifiers.score_trace(RewardClient(), task, trace))
    assert not metrics
    with reward_server() as judging:
        assert asyncio.run(verifiers.score_trace(RewardClient(judging.url), task, trace)) == 0.0
    assert metrics == {"mpo_version": 3}
    answer = server.requests[0]["answers"][0]
    assert (answer["completion"], answer["truncated"], answer["reference"]) == ("because", True, "right")


@dataclass
class Signal:
    name: str
    value: float


@dataclass
class EvalOutput:
    reward: float
    is_correct: bool
    signals: list[Signal] = field(default_factory=list[Signal])
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])


def test_rllm_gets_the_groups_mean_which_counts_as_no_success(
    server: RewardServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    types = ModuleType("rllm.eval.types")
    vars(types).update(EvalOutput=EvalOutput, Signal=Signal)
    for name, module in {
        "rllm": ModuleType("rllm"),
        "rllm.eval": ModuleType("rllm.eval"),
        types.__name__: types,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    task = SimpleNamespace(id="t3", instruction="why?", metadata={"reference": "right"})
    steps = [
        SimpleNamespace(model_response="first"),
        SimpleNamespace(model_response="last"),
        SimpleNamespace(model_response=""),
    ]
    episode = SimpleNamespace(artifacts={}, trajectories=[SimpleNamespace(steps=steps)])
    output = rllm.MPOEvaluator().evaluate(task, episode)
    assert output == EvalOutput(
        0.5, False, [Signal("mpo", 0.5), Signal("mpo_filled", 1.0)], {"mpo_version": 3}
    )
    rllm.MPOEvaluator().evaluate(task, SimpleNamespace(artifacts={"answer": 42}, trajectories=[]))
    completions = [body["answers"][0]["completion"] for body in server.requests]
    assert completions == ["last", "42"]
    assert {body["answers"][0]["group"] for body in server.requests} == {"t3"}


def test_areals_answers_lose_their_end_tokens(server: RewardServer) -> None:
    row = {"messages": DIALOGUE[:1], "query_id": 1}
    assert (
        asyncio.run(areal.score("<|im_start|>…", "because<|im_end|>\n<|endoftext|>", [1], [2], **row)) == 0.5
    )
    assert areal.reward_fn("…", "a <b> c</s>", [1], [2], **row) == 0.5
    assert [body["answers"][0]["completion"] for body in server.requests] == ["because", "a <b> c"]
    assert all(body["fill"] for body in server.requests)
    with pytest.raises(ConfigError, match="no column messages"):
        areal.reward_fn("…", "because", [1], [2])


def test_areals_wrapper_never_sees_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take 0 as the reward."""
    monkeypatch.setattr(areal, "WRAPPED_S", 0.5)
    with reward_server(lambda number, body: refusal(503, "the judge is down", retry_after="30")) as down:
        monkeypatch.setenv("MPO_SERVE_URL", down.url)
        with pytest.raises(Unavailable, match="the judge is down"):
            areal.reward_fn("…", "because", [1], [2], messages=DIALOGUE[:1])
