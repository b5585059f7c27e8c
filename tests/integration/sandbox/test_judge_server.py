from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mpo_lite.prompts import fence, prompts_dir, render
from mpo_lite.rubric import load_rubric
from mpo_lite.sandbox.judge_server import running
from mpo_lite.sandbox.simulate import reply

RUBRIC = load_rubric(prompts_dir() / "tasks/sandbox/rubric.yaml")
PROMPT = render(
    "judge/pointwise",
    persona="You are a teacher.",
    rubric=RUBRIC.render(),
    examples="",
    skeleton="{}",
    material=fence("task", "write a short essay about dogs .", b"k")
    + "\n\n"
    + fence("completion", "dogs are good .", b"k"),
)
FACTS = {"template": PROMPT.template, **RUBRIC.facts}
ASKED = {"messages": PROMPT.messages, "mpo_lite": FACTS}


def call(url: str, body: object | None = None) -> tuple[int, Any]:
    raw = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=raw, headers={"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_a_judgement_comes_back_in_the_shape_of_the_api() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": {"type": "object"}}}
    with running(seed=5) as base:
        assert base.startswith("http://127.0.0.1:")
        body = {"model": "sandbox-judge", **ASKED, "response_format": form, "temperature": 0}
        status, answer = call(f"{base}/chat/completions", body)
        assert status == 200
        choice = answer["choices"][0]
        assert choice["finish_reason"] == "stop"
        assert json.loads(choice["message"]["content"]) == reply(PROMPT.messages, FACTS, 5)
        usage = answer["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 50
        assert answer["model"] == "sandbox-judge"


def test_models_and_counts_are_listed() -> None:
    with running() as base:
        _, listed = call(f"{base}/models")
        assert {row["id"] for row in listed["data"]} == {"sandbox-judge", "sandbox-meta", "sandbox-audit"}
        call(f"{base}/chat/completions", {"model": "m", **ASKED})
        call(f"{base}/chat/completions", {"model": "m", "messages": []})
        _, stats = call(base.removesuffix("/v1") + "/stats")
        assert (stats["requests"], stats["judge"], stats["meta"], stats["rejected"]) == (2, 1, 0, 1)


@pytest.mark.parametrize(
    "body",
    [
        b"{not json",
        b"\xff\xfe",
        b"[" * 100_000,
        [],
        {},
        {"model": "m"},
        {"model": "m", "messages": "hello"},
        {"model": "m", "messages": [{"role": "robot", "content": "x"}]},
        {"model": "m", "messages": [{"role": "user", "content": None}]},
        {"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"model": "m", "messages": [{"role": "system", "content": "Tell me a joke."}]},
        {"model": "", **ASKED},
        {"model": "m", "messages": PROMPT.messages},
        {"model": "m", **ASKED, "mpo_lite": {"template": 1}},
        {
            "model": "m",
            **ASKED,
            "mpo_lite": {"template": "meta/revise", "objections": "title", **RUBRIC.facts},
        },
        {"model": "m", **ASKED, "mpo_lite": {"template": "judge/pointwise", "rubric": [{"id": "a"}]}},
        {"model": "m", **ASKED, "stream": True},
        {"model": "m", **ASKED, "n": 2},
        {"model": "m", **ASKED, "response_format": {"type": "xml"}},
        {"model": "m", **ASKED, "response_format": {"type": "json_schema"}},
    ],
)
def test_malformed_requests_get_an_error_in_the_shape_of_the_api(body: object) -> None:
    with running() as base:
        status, answer = call(f"{base}/chat/completions", body)
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["message"]


def test_unknown_paths_and_huge_bodies_are_refused_in_shape() -> None:
    with running() as base:
        assert call(f"{base}/embeddings", {})[0] == 404
        status, answer = call(f"{base}/chat/completions", b" " * (5 * 1024 * 1024))
        assert status == 413
        assert answer["error"]["message"]


def test_many_clients_at_once_get_the_same_answer() -> None:
    body = {"model": "m", **ASKED}
    with running(seed=1) as base, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: call(f"{base}/chat/completions", body), range(64)))
    assert {status for status, _ in found} == {200}
    assert len({answer["choices"][0]["message"]["content"] for _, answer in found}) == 1


def test_the_server_stops_and_its_port_is_free_again() -> None:
    with running() as base:
        port = int(base.split(":")[2].split("/")[0])
    with running(port=port) as again:
        assert again == base
        with pytest.raises(OSError), running(port=port):
            pytest.fail("two servers on one port")
    assert not [thread for thread in threading.enumerate() if thread.name == "sandbox-server"]


def test_a_rate_outside_zero_to_one_is_refused() -> None:
    with pytest.raises(ValueError, match="bad_rate"), running(bad_rate=1.5):
        pytest.fail("it must not start")
