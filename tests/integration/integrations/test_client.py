"""The client of the reward service: what it sends, what it waits out, and what it reports."""

import asyncio
import pickle
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from mpo_lite.errors import BudgetReached, ConfigError, EndpointError, Unavailable
from mpo_lite.integrations.client import Answer, RewardClient
from tests.support.reward_server import Body, Reply, judged, refusal, reward_server

ANSWERS = [
    Answer("why?", "because"),
    Answer([{"role": "user", "content": "how?"}], "so", group="g", truncated=True),
]


def test_rewards_come_in_order_with_their_version_in_threads_and_loops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with reward_server(lambda number, body: judged(body, unjudged=(1,))) as server:
        client = RewardClient(server.url + "/")
        results = client.score(ANSWERS, step=4, whole_groups=True)
        monkeypatch.setenv("MPO_SERVE_TOKEN", "secret")
        assert asyncio.run(client.ascore(ANSWERS, step=4, whole_groups=True)) == results
    assert [result.reward for result in results] == [0.0, None]
    assert [(result.version, result.failure, result.levels) for result in results] == [
        (3, None, {"clarity": 0}),
        (3, "parse", {"clarity": 1}),
    ]
    assert server.tokens == ["", "Bearer secret"]
    first, second = server.requests
    assert first.pop("id") != second.pop("id")
    assert first == second
    assert first | {"answers": []} == {"answers": [], "step": 4, "whole_groups": True, "fill": False}
    assert first["answers"][1] == {
        "prompt": [{"role": "user", "content": "how?"}],
        "completion": "so",
        "group": "g",
        "truncated": True,
        "reference": "",
        "cluster": "",
    }


def test_a_pause_of_the_service_is_waited_out_under_one_id() -> None:
    def reply(number: int, body: Body) -> Reply:
        return judged(body) if number == 3 else refusal(503, "the judge is down", retry_after="1")

    with reward_server(reply) as server:
        start = time.monotonic()
        assert [result.reward for result in RewardClient(server.url).score(ANSWERS)] == [0.0, 0.1]
    assert time.monotonic() - start >= 2  # as long as the service asks for
    assert len({body["id"] for body in server.requests}) == 1 < len(server.requests)


def test_a_service_that_is_being_restarted_is_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    results: list[Any] = []
    client = RewardClient(f"http://127.0.0.1:{port}")
    asking = threading.Thread(target=lambda: results.extend(client.score(ANSWERS)))
    asking.start()
    time.sleep(0.3)
    with reward_server(port=port):
        asking.join(30)
    assert [result.reward for result in results] == [0.0, 0.1]


def test_a_request_without_an_answer_is_sent_again_under_its_id() -> None:
    def reply(number: int, body: Body) -> Reply:
        time.sleep(1.0 if number == 1 else 0.0)
        return judged(body)

    with reward_server(reply) as server:
        assert asyncio.run(RewardClient(server.url, request_s=0.3).ascore(ANSWERS))
    assert len(server.requests) == 2
    assert server.requests[0] == server.requests[1]


def test_patience_has_an_end() -> None:
    with reward_server(lambda number, body: refusal(503, "the judge is down")) as server:
        start = time.monotonic()
        with pytest.raises(Unavailable, match=r"no rewards within 1 s.*the judge is down \(503\)"):
            RewardClient(server.url, patience_s=1.0).score(ANSWERS)
    assert time.monotonic() - start < 3


def test_a_cap_is_reported_with_its_reason_and_not_tried_again() -> None:
    with reward_server(lambda number, body: refusal(429, "max_usd 2 would be exceeded")) as server:
        with pytest.raises(BudgetReached, match="max_usd 2 would be exceeded"):
            RewardClient(server.url).score(ANSWERS)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "fix"),
    [
        (401, "set MPO_SERVE_TOKEN to the service's token"),
        (404, "check that the address is that of mpo-lite serve"),
        (413, "larger --max-body"),
        (422, "same version of mpo-lite"),
        (500, "the service's own output says more"),
    ],
)
def test_a_refusal_says_what_to_fix(status: int, fix: str) -> None:
    with reward_server(lambda number, body: refusal(status, "why")) as server:
        with pytest.raises(EndpointError, match=rf"why \({status}\); .*{fix}"):
            RewardClient(server.url).score(ANSWERS)
        assert len(server.requests) == 1


def test_no_answer_stands_in_an_error() -> None:
    detail = [{"loc": ["body", "step"], "msg": "not a number", "input": {"completion": "because"}}]
    with reward_server(lambda number, body: (422, {"detail": detail}, {})) as server:
        with pytest.raises(EndpointError, match=r"body\.step: not a number") as caught:
            RewardClient(server.url).score(ANSWERS)
        assert "because" not in str(caught.value)


@pytest.mark.parametrize("body", [{"ok": True}, [], {"results": [{"reward": 1.0}]}])
def test_another_service_is_recognised(body: Any) -> None:
    with (
        reward_server(lambda number, request: (200, body, {})) as server,
        pytest.raises(EndpointError, match="the reply is none of mpo-lite serve's"),
    ):
        RewardClient(server.url).score(ANSWERS)


def test_a_pickled_client_works_and_holds_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPO_SERVE_TOKEN", "secret")
    with reward_server() as server:
        client = RewardClient(server.url)
        client.score(ANSWERS)
        pickled = pickle.dumps(client)
        assert pickle.loads(pickled).score(ANSWERS)
    assert b"secret" not in pickled
    assert server.tokens == ["Bearer secret"] * 2


def test_a_client_serves_one_event_loop_after_another() -> None:
    with reward_server() as server:
        client = RewardClient(server.url)
        assert asyncio.run(client.ascore(ANSWERS)) == asyncio.run(client.ascore(ANSWERS))


def test_errors_survive_the_way_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(Unavailable("down", 3.0)))
    assert (str(error), error.retry_after_s) == ("down", 3.0)


@pytest.mark.parametrize("url", ["", "10.0.0.5:8700"])
def test_an_address_is_needed(url: str) -> None:
    with pytest.raises(ConfigError, match="set MPO_SERVE_URL"):
        RewardClient(url)


def test_the_address_is_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPO_SERVE_URL", "http://10.0.0.5:8700/")
    assert RewardClient().url == "http://10.0.0.5:8700"


def test_integrations_load_neither_engines_nor_the_service() -> None:
    code = (
        "import sys\n"
        "from mpo_lite.integrations import areal, client, rllm, swift, trl, verifiers, verl\n"
        "heavy = ('torch', 'litellm', 'fastapi', 'verl', 'trl', 'mpo_lite.llm', 'mpo_lite.config')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
