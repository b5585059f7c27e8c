"""``doctor`` tells good, wrong-key, slow, text-only and dead endpoints apart, and never shows a key."""

import json
import socket
from typing import Any

import pytest
from aiohttp import web

from mpo_lite.cli.doctor import _check_key
from mpo_lite.cli.main import main
from mpo_lite.config_sources import load_config
from mpo_lite.llm.models import judge_backends
from tests.support.llm_server import LLMServer, completion_of


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is another test's matter."""
    monkeypatch.setattr("mpo_lite.loop.environment.accelerators", lambda: [("Some GPU", 10.0, 80.0)])


def diagnosis(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, dict[str, Any]]:
    try:
        code = main(["doctor", "--judge", "openai/m", *flags, "--json"]) or 0
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["findings"]
    return code, {one["name"]: one for one in found}


def verdicts(kind: str, body: Any) -> str | None:
    """A judge that gives a good answer more."""
    if kind != "judge":
        return None
    told = {"reason": "It is so.", "level": 0 if completion_of(body).startswith("#") else 3}
    return json.dumps({"discourse": told})


def test_each_judge_gives_real_verdicts_and_the_meta_judge_does_a_step(capsys: Any) -> None:
    with LLMServer(verdicts) as server:
        both = ["--judge-api-base", server.url, "--meta", "openai/n", "--meta-api-base", server.url]
        code, found = diagnosis(capsys, *both)
        asked = len(server.requests)
        diagnosis(capsys, *both)
        assert len(server.requests) == 2 * asked == 2 * (2 + 2 + 5)  # no verdict comes from the cache
    assert code == 0
    one = found["verdicts of openai/m"]
    assert (
        one["state"] == "ok"
        and "discourse 3 for a good answer (It is so.), 0 for a poor one" in one["detail"]
    )
    assert found["meta step"]["state"] == "ok" and "+ criterion_" in found["meta step"]["detail"]


def test_a_refused_verdict_and_a_meta_judge_without_anything_to_learn_from(capsys: Any) -> None:
    answer = json.dumps({"discourse": {"reason": "Fine.", "level": 17}})
    with LLMServer(lambda kind, body: answer if kind in ("judge", "repair") else None) as server:
        both = ["--judge-api-base", server.url, "--meta", "openai/n", "--meta-api-base", server.url]
        code, found = diagnosis(capsys, *both)
    one = found["verdicts of openai/m"]
    assert code == 1 and one["state"] == "bad"
    assert "discourse: the level must be a whole number from 0 to" in one["detail"]
    assert '"level": 17' in one["detail"]  # how the reply began
    assert found["meta step"]["state"] == "note" and "no judge gave a verdict" in found["meta step"]["detail"]


def test_a_judge_that_tells_nothing_apart_and_a_meta_judge_that_fails(capsys: Any) -> None:
    answer = json.dumps({"discourse": {"reason": "Fine.", "level": 2}})

    def fault(kind: str, body: Any) -> Any:
        return {"judge": answer, "merge": "No.", "repair": "No."}.get(kind)

    with LLMServer(fault) as server:
        both = ["--judge-api-base", server.url, "--meta", "openai/n", "--meta-api-base", server.url]
        code, found = diagnosis(capsys, *both)
    one, step = found["verdicts of openai/m"], found["meta step"]
    assert code == 1 and (one["state"], step["state"]) == ("note", "bad")
    assert "scores as high as the good one" in one["detail"]
    assert step["detail"].startswith("merging failed: openai/n gave no usable answer")


def test_a_good_endpoint_and_a_key_that_is_never_shown(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPO_JUDGE_API_KEY", "sk-very-secret")
    with LLMServer(key="sk-very-secret") as server:
        code, found = diagnosis(capsys, "--judge-api-base", server.url, "-o", "judge_price=[1, 2]")
        main(["doctor", "--judge", "openai/m", "--judge-api-base", server.url])
        said = capsys.readouterr().out
    assert code == 0 and found["judge openai/m"]["state"] == "ok"
    assert "by json_schema, price known" in found["judge openai/m"]["detail"]
    assert found["MPO_JUDGE_API_KEY"]["detail"] == "is set, for the judge" and found["GPU"]["state"] == "ok"
    assert "sk-very" not in said + json.dumps(found)
    assert "✓ judge openai/m" in said and "price unknown" in said


def test_a_wrong_key(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPO_JUDGE_API_KEY", "sk-wrong")
    with LLMServer(key="right") as server:
        code, found = diagnosis(capsys, "--judge-api-base", server.url)
    one = found["judge openai/m"]
    assert code == 1 and one["state"] == "bad"
    assert "the key in MPO_JUDGE_API_KEY was rejected (401); check that it is complete" in one["detail"]
    assert "sk-wrong" not in json.dumps(found)


def test_a_slow_endpoint(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpo_lite.cli.doctor.SLOW_S", 0.3)
    with LLMServer(delay=0.5) as server:
        code, found = diagnosis(capsys, "--judge-api-base", server.url)
    assert (
        code == 0 and found["judge openai/m"]["state"] == "note" and "slow" in found["judge openai/m"]["fix"]
    )


def test_an_endpoint_without_structured_output(capsys: Any) -> None:
    def plain(kind: str, body: Any) -> Any:
        for name in ("response_format", "tools"):
            if name in body:
                error = {"error": {"message": f"{name} is not supported", "type": "invalid_request_error"}}
                return web.json_response(error, status=400)
        return '{"ready": true}' if kind == "check" else verdicts(kind, body)

    with LLMServer(plain) as server:
        code, found = diagnosis(capsys, "--judge-api-base", server.url)
    one = found["judge openai/m"]
    assert code == 0 and one["state"] == "note"
    assert "by text" in one["detail"] and "no structured output" in one["fix"]


def test_a_dead_endpoint(capsys: Any, quick_retries: None) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    code, found = diagnosis(capsys, "--judge-api-base", url)
    one = found["judge openai/m"]
    assert code == 1 and one["state"] == "bad" and one["detail"].count(url) == 1
    assert "cannot connect; check that the server is running and the address is right" in one["detail"]


def test_a_server_that_is_up_and_fails(capsys: Any, quick_retries: None) -> None:
    with LLMServer(lambda kind, body: web.Response(status=500)) as server:
        code, found = diagnosis(capsys, "--judge-api-base", server.url)
    one = found["judge openai/m"]
    assert code == 1 and "(500) from a running server (see its log)" in one["detail"]
    assert "start" not in one["detail"] + one["fix"]


@pytest.mark.parametrize(
    ("judge", "name"),
    [
        ("gemini", "GEMINI_API_KEY or GOOGLE_API_KEY"),
        ("groq/llama", "GROQ_API_KEY"),
        ("bedrock/anthropic.claude-v2", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_the_keys_of_the_models_that_are_named_are_looked_for(
    monkeypatch: pytest.MonkeyPatch, judge: str, name: str
) -> None:
    (backend,) = judge_backends(load_config(given={"judge": judge}, environ={}), {})
    finding = _check_key("judge", backend)
    assert (
        finding
        and (finding.name, finding.state) == (name, "note")
        and finding.detail.startswith("not set; needed by the judge")
    )
    for each in name.split(" or ")[0].split(" and "):
        monkeypatch.setenv(each, "sk-very-secret")
    found = _check_key("judge", backend)  # of a cloud's account, LiteLLM says what is missing, and no more
    assert found is None or (found.state == "ok" and "sk-very" not in str(found))
    assert (found is None) == judge.startswith("bedrock")


def test_a_server_of_ones_own_needs_no_key_of_a_provider() -> None:
    given = {"judge": "openai/m", "judge_api_base": "http://localhost:1/v1"}
    (backend,) = judge_backends(load_config(given=given, environ={}), {})
    assert _check_key("judge", backend) is None


def test_an_endpoint_that_speaks_no_json(capsys: Any) -> None:
    with LLMServer(lambda kind, body: "I would rather not.") as server:
        code, found = diagnosis(capsys, "--judge-api-base", server.url)
    assert code == 1 and "answers in JSON" in found["judge openai/m"]["fix"]
