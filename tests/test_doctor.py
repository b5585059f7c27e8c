"""``doctor`` tells good, wrong-key, slow, text-only and dead endpoints apart, and never shows a key."""

import json
import socket
from typing import Any

import pytest
from aiohttp import web
from llm_server import LLMServer

from mpo_lite.cli.main import main


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is another test's matter."""
    monkeypatch.setattr("mpo_lite.training.environment.accelerators", lambda: [("Some GPU", 10.0, 80.0)])


def diagnosis(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, dict[str, Any]]:
    try:
        code = main(["doctor", "--judge", "openai/m", *flags, "--json"]) or 0
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["findings"]
    return code, {one["name"]: one for one in found}


def test_a_good_endpoint_and_a_key_that_is_never_shown(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPO_JUDGE_API_KEY", "sk-very-secret")
    with LLMServer(key="sk-very-secret") as server:
        code, found = diagnosis(capsys, "--judge-api-base", server.url, "-o", "judge_price=[1, 2]")
        main(["doctor", "--judge", "openai/m", "--judge-api-base", server.url])
        said = capsys.readouterr().out
    assert code == 0 and found["judge openai/m"]["state"] == "ok"
    assert "by json_schema, price known" in found["judge openai/m"]["detail"]
    assert found["MPO_JUDGE_API_KEY"]["detail"] == "is set" and found["GPU"]["state"] == "ok"
    assert "sk-very" not in said + json.dumps(found)
    assert "✓ judge openai/m" in said and "price unknown" in said


def test_a_wrong_key(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPO_JUDGE_API_KEY", "sk-wrong")
    with LLMServer(key="right") as server:
        code, found = diagnosis(capsys, "--judge-api-base", server.url)
    one = found["judge openai/m"]
    assert code == 1 and one["state"] == "bad"
    assert (
        "refuses for good" in one["detail"] and "key" in one["mend"] and "sk-wrong" not in json.dumps(found)
    )


def test_a_slow_endpoint(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpo_lite.cli.doctor.SLOW_S", 0.3)
    with LLMServer(delay=0.5) as server:
        code, found = diagnosis(capsys, "--judge-api-base", server.url)
    assert (
        code == 0 and found["judge openai/m"]["state"] == "note" and "slow" in found["judge openai/m"]["mend"]
    )


def test_an_endpoint_without_structured_output(capsys: Any) -> None:
    def plain(kind: str, body: Any) -> Any:
        for name in ("response_format", "tools"):
            if name in body:
                error = {"error": {"message": f"{name} is not supported", "type": "invalid_request_error"}}
                return web.json_response(error, status=400)
        return '{"ready": true}'

    with LLMServer(plain) as server:
        code, found = diagnosis(capsys, "--judge-api-base", server.url)
    one = found["judge openai/m"]
    assert code == 0 and one["state"] == "note"
    assert "by text" in one["detail"] and "no structured output" in one["mend"]


def test_a_dead_endpoint(capsys: Any, quick_retries: None) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    code, found = diagnosis(capsys, "--judge-api-base", url)
    one = found["judge openai/m"]
    assert code == 1 and one["state"] == "bad" and url in one["detail"] and "start the server" in one["mend"]


def test_an_endpoint_that_speaks_no_json(capsys: Any) -> None:
    with LLMServer(lambda kind, body: "I would rather not.") as server:
        code, found = diagnosis(capsys, "--judge-api-base", server.url)
    assert code == 1 and "answers in JSON" in found["judge openai/m"]["mend"]
