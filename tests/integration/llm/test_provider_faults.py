"""Every way a provider fails, over real HTTP and through LiteLLM: what is done, and never a score."""

import asyncio
import json
import logging
import os
import socket
import sqlite3
import time
import traceback
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from mpo_lite.errors import CallFailed, ConfigError, EndpointError, MPOError
from mpo_lite.llm import cache, event_loop
from mpo_lite.llm.cache import AnswerCache
from mpo_lite.llm.capabilities import REASONING_HEADROOM
from tests.support.llm_calls import MakeClient, call, error, failure, faults, reply
from tests.support.llm_server import LLMServer, openai_reply
from tests.support.raw_server import GOOD, HEAD, raw_server

pytestmark = pytest.mark.usefixtures("quick_retries")


def test_a_dripping_body_ends_with_the_attempt(make_client: MakeClient) -> None:
    def drip(connection: socket.socket, hit: int) -> None:
        connection.sendall(HEAD.format(len(GOOD)).encode())
        for byte in GOOD.encode() if hit == 1 else ():
            connection.sendall(bytes([byte]))
            time.sleep(0.05)
        connection.sendall(GOOD.encode())

    with LLMServer() as warm:  # LiteLLM's first call in a process takes longer than an attempt may here
        event_loop.wait(make_client().ask(call(warm, text="the first call")))
    with raw_server(drip) as server:
        client = make_client(timeout_s=0.5)
        assert event_loop.wait(client.ask(call(server))) == 1
        assert server.hits == 2
        # The model may have worked for the lost answer: it counts at the most it can have cost.
        assert client.ledger.unmetered == 1


@pytest.mark.parametrize("model", ["openai/m", "hosted_vllm/m"])
@pytest.mark.parametrize("cut", [len(GOOD) // 2, 0])
def test_a_cut_body_is_asked_for_again(make_client: MakeClient, cut: int, model: str) -> None:
    def answer(connection: socket.socket, hit: int) -> None:
        connection.sendall(HEAD.format(len(GOOD)).encode() + GOOD.encode()[: None if hit > 1 else cut])
        if hit == 1:
            connection.shutdown(socket.SHUT_RDWR)

    with raw_server(answer) as server:
        client = make_client()
        assert event_loop.wait(client.ask(call(server, model=model))) == 1
        assert (server.hits, client.ledger.unmetered) == (2, 1)


def test_a_connection_dropped_without_a_word_is_asked_for_again(make_client: MakeClient) -> None:
    def answer(connection: socket.socket, hit: int) -> None:
        if hit < 3:
            connection.shutdown(socket.SHUT_RDWR)
        else:
            connection.sendall(HEAD.format(len(GOOD)).encode() + GOOD.encode())

    with raw_server(answer) as server:
        assert event_loop.wait(make_client().ask(call(server))) == 1


def test_a_name_that_does_not_resolve_is_a_transport_failure(make_client: MakeClient) -> None:
    nowhere = type("Nowhere", (), {"url": "http://no-such-host.invalid:1/v1"})
    client = make_client()
    assert failure(client, call(nowhere)).kind == "transport"
    # Nobody was reached, so nothing can have been charged.
    assert (client.ledger.usd, client.ledger.unmetered, client.ledger.calls["judge"]) == (0.0, 0, 5)


def test_a_full_server_is_asked_until_the_calls_time_is_over(make_client: MakeClient) -> None:
    with LLMServer(faults(*[error(429, "slow down")] * 12)) as server:
        assert event_loop.wait(make_client(concurrency=4).ask(call(server))) in (0, 1, 2)
        assert len(server.requests) == 13
    with LLMServer(lambda kind, body: error(429, "slow down")()) as server:
        failed = failure(make_client(verdict_s=0.5), call(server, text="never"))
        assert failed.kind == "timeout" and "RateLimitError (429)" in str(failed)


@pytest.mark.parametrize(
    ("headers", "low", "high"),
    [
        ({"retry-after": "7"}, 7, 7),
        ({"retry-after-ms": "2500", "retry-after": "3"}, 2.5, 2.5),
        ({"retry-after": "soon"}, 0, 0),
        ({"retry-after": "-5"}, 0, 0),
        ({"retry-after": "999999"}, 60, 60),
        ({}, 0, 0),
        ("date", 5, 12),
    ],
)
def test_what_a_server_asks_to_wait_is_understood(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, headers: Any, low: float, high: float
) -> None:
    pauses: list[float | None] = []
    monkeypatch.setattr(
        "mpo_lite.llm.limiter.Limiter.record_overload", lambda self, started, pause: pauses.append(pause)
    )
    if headers == "date":
        headers = {"retry-after": formatdate(time.time() + 10, usegmt=True)}
    with LLMServer(faults(error(429, "slow down", **headers))) as server:
        event_loop.wait(make_client().ask(call(server)))
    assert len(pauses) == 1 and low <= (pauses[0] or 0) <= high


@pytest.mark.parametrize("status", [402, 401, 403, 404])
def test_what_no_retry_can_mend_stops_at_once(make_client: MakeClient, status: int) -> None:
    with LLMServer(lambda kind, body: error(status)()) as server:
        with pytest.raises(EndpointError, match=str(status)):
            event_loop.wait(make_client().ask(call(server)))
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "safety_identifier is not a known field", "transport"),
        (422, "messages: too few", "transport"),
        (413, "Request body is larger than we take", "transport"),
        (
            400,
            "The response was filtered due to the prompt triggering the content management policy",
            "refusal",
        ),
        (400, "rejected by the safety system", "refusal"),
        (400, "prompt is too long: 210000 tokens > 200000 maximum", "context"),
        (400, "Input length 9000 exceeds maximum allowed tokens 8192", "context"),
    ],
)
def test_a_refused_request_is_not_repeated(
    make_client: MakeClient, status: int, message: str, kind: str
) -> None:
    with LLMServer(lambda _, body: error(status, message)()) as server:
        assert failure(make_client(), call(server)).kind == kind
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "prompt",
    [
        "An essay on the content filter and on safety policy.",
        "My context window is too long, says the house.",
        "The response_format json_schema tool_choice grammar.",
        "temperature is not supported",
    ],
)
def test_words_of_the_prompt_do_not_decide_what_an_error_means(make_client: MakeClient, prompt: str) -> None:
    with LLMServer(lambda kind, body: error(400, f"request {json.dumps(body)} is bad")()) as server:
        client = make_client()
        asked = call(server, text=prompt)
        # What is left of the body names json_schema and tools: the ladder is walked down to its end.
        failed = failure(client, asked)
        assert failed.kind == "transport" and prompt not in str(failed)
        assert "temperature" in server.requests[-1]


@pytest.mark.parametrize(
    "text",
    [
        '{"level": 1, "why": "' + "x" * 300_000 + '"}',
        '{"level": ' + "[" * 5000 + "]" * 5000 + "}",
        '{"level": ' * 3000 + "1" + "}" * 3000,
        '{"level": Infinity}',
        '{"level": 1e0}',
        '{"level": "1"}',
        '{"level": null}',
        '{"level": 1, "level": 1}',
        '[{"level": 1}]',
        '{"level": 1',
        "\ud83d",
    ],
)
def test_what_is_not_exactly_an_answer_is_never_one(make_client: MakeClient, text: str) -> None:
    with LLMServer(lambda kind, body: web.json_response(openai_reply(text))) as server:
        assert failure(make_client(), call(server)).kind == "parse"
        assert len(server.requests) == 3  # once more in another form, then mended


def test_a_mended_answer_must_be_sound_too(make_client: MakeClient) -> None:
    with LLMServer(lambda kind, body: "{}" if kind == "repair" else "Level: two") as server:
        assert failure(make_client(), call(server)).kind == "parse"


@pytest.mark.parametrize("enforces_schema", [True, False])
def test_a_repair_can_say_that_there_is_no_answer(make_client: MakeClient, enforces_schema: bool) -> None:
    """Also on a server that enforces every schema it is sent, by guided decoding."""

    def fault(kind: str, body: Any) -> str:
        if kind != "repair":
            return "I cannot say."
        forced = enforces_schema and ("response_format" in body or "tools" in body)
        return '{"level": 2}' if forced else '{"unusable": true}'

    with LLMServer(fault) as server:
        failed = failure(make_client(), call(server))
        assert '{"unusable": true}' in server.prompts("repair")[0]
    assert failed.kind == "parse"
    assert "asked to repair its reply, the model found no answer in it" in str(failed)
    assert failed.reply == "I cannot say."


def test_a_refusal_in_a_repair_is_no_score(make_client: MakeClient) -> None:
    def fault(kind: str, body: Any) -> Any:
        return reply('{"level": 2}', refusal="no")() if kind == "repair" else "Level: two"

    with LLMServer(fault) as server:
        assert failure(make_client(), call(server)).kind == "refusal"
        assert len(server.requests) == 3


def test_max_tokens_is_called_otherwise_where_a_model_wants_that(make_client: MakeClient) -> None:
    def fault(kind: str, body: Any) -> Any:
        told = "Unsupported parameter: 'max_tokens' is not supported, use 'max_completion_tokens' instead."
        return error(400, told)() if "max_tokens" in body else None

    with LLMServer(fault) as server:
        client = make_client()
        event_loop.wait(client.ask(call(server)))
        event_loop.wait(client.ask(call(server, text="second")))
        assert [body.get("max_completion_tokens") for body in server.requests] == [None, 1024, 1024]


@pytest.mark.parametrize("sign", ["text", "field", "usage"])
def test_a_judge_that_thinks_is_given_room_once_that_is_seen(make_client: MakeClient, sign: str) -> None:
    def fault(kind: str, body: Any) -> Any:
        enough = body["max_tokens"] > 2000
        text = '{"level": 2}' if enough else ""
        answer = openai_reply(f"<think>{{}} hm</think>{text}" if sign == "text" else text)
        answer["choices"][0]["finish_reason"] = "stop" if enough else "length"
        if sign == "field":
            answer["choices"][0]["message"]["reasoning_content"] = "hm"
        if sign == "usage":
            answer["usage"]["completion_tokens_details"] = {"reasoning_tokens": 20}
        return web.json_response(answer)

    with LLMServer(fault) as server:
        client = make_client()
        assert event_loop.wait(client.ask(call(server))) == 2
        assert event_loop.wait(client.ask(call(server, text="second"))) == 2
        limits = [body["max_tokens"] for body in server.requests]
        assert limits == [1024, 2048 + REASONING_HEADROOM, 1024 + REASONING_HEADROOM]


def test_room_to_think_shrinks_where_the_context_is_small(make_client: MakeClient) -> None:
    def fault(kind: str, body: Any) -> Any:
        if body["max_tokens"] > 3000:
            return error(
                400, "This model's maximum context length is 4096 tokens; 'max_tokens' is too large."
            )()
        return '<think>hm</think>{"level": 2}'

    with LLMServer(fault) as server:
        client = make_client()
        for text in ("one", "two", "three"):
            assert event_loop.wait(client.ask(call(server, text=text))) == 2
        limits = [body["max_tokens"] for body in server.requests]
        assert limits == [1024, 9216, 5120, 3072, 2048, 2048]  # room 8192, 4096, 2048, 1024


def test_a_long_sample_takes_no_room_to_think_from_the_others(make_client: MakeClient) -> None:
    def fault(kind: str, body: Any) -> Any:
        if "long" in body["messages"][0]["content"]:
            return error(400, "This model's maximum context length is 4096 tokens.")()
        return '<think>hm</think>{"level": 2}'

    with LLMServer(fault) as server:
        client = make_client()
        event_loop.wait(client.ask(call(server)))
        assert failure(client, call(server, text="a long sample")).kind == "context"
        event_loop.wait(client.ask(call(server, text="another")))
        assert server.requests[-1]["max_tokens"] == 1024 + REASONING_HEADROOM


def test_endless_white_space_is_no_answer_and_gives_guided_decoding_up(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    def fault(kind: str, body: Any) -> Any:
        guided = "response_format" in body or "tools" in body
        return reply('{"level" : ' + "\r \n" * 200, "length")() if guided else '{"level": 0}'

    with LLMServer(fault) as server:
        client = make_client()
        with caplog.at_level(logging.WARNING):
            for text in "abcde":
                assert event_loop.wait(client.ask(call(server, text=text))) == 0
        guided = ["response_format" in body for body in server.requests]
        assert guided == [True, False] * 3 + [False, False]
        assert "disable_any_whitespace" in caplog.text


PROVIDERS: dict[str, Callable[[str, Any], Any]] = {
    # What the server does with a request; the rung that the answer must come by.
    "json_schema": lambda kind, body: None,
    "tool": lambda kind, body: (
        error(400, "'response_format' of type 'json_schema' is not supported by this model")()
        if body.get("response_format", {}).get("type") == "json_schema"
        else None
    ),
    "json_object": lambda kind, body: (
        error(400, "tool_choice is not supported")()
        if body.get("tools")
        else error(400, "response_format.type: json_schema is unknown")()
        if body.get("response_format", {}).get("type") == "json_schema"
        else '{"level": 1}'
    ),
    "text": lambda kind, body: (
        error(400, "Unknown argument: response_format")()
        if "response_format" in body
        else error(400, "tools are not available for this model")()
        if body.get("tools")
        else 'I find that fair.\n\n```json\n{"level": 1}\n```\nLet me know.'
    ),
}


@pytest.mark.parametrize("output_mode", PROVIDERS)
def test_each_kind_of_server_is_asked_by_what_it_takes_and_that_is_remembered(
    make_client: MakeClient, output_mode: str
) -> None:
    with LLMServer(PROVIDERS[output_mode]) as server:
        client = make_client()
        for text in ("first", "second", "third"):
            assert event_loop.wait(client.ask(call(server, text=text))) in (0, 1, 2)
        forms = [
            "tool" if body.get("tools") else (body.get("response_format") or {}).get("type", "text")
            for body in server.requests
        ]
        steps = list(PROVIDERS)
        assert forms == [*steps[: steps.index(output_mode) + 1], output_mode, output_mode]


def test_vllm_is_asked_by_schema_and_its_raw_control_characters_are_taken(make_client: MakeClient) -> None:
    def fault(kind: str, body: Any) -> Any:
        assert body["response_format"]["type"] == "json_schema"
        return web.json_response(
            openai_reply('{"level"\r\n : 2 , "_": "a\tb\nc"}'.replace(', "_": "a\tb\nc"', ""))
        )

    with LLMServer(fault) as server:
        assert event_loop.wait(make_client().ask(call(server, model="hosted_vllm/Qwen/some-model"))) == 2


@pytest.mark.parametrize(
    "model", ["anthropic/claude-sonnet-4-5-20250929", "anthropic/claude-3-haiku-20240307"]
)
def test_anthropic_gets_a_schema_by_its_own_ways_and_a_cacheable_prefix(
    make_client: MakeClient, model: str
) -> None:
    """The older one knows no schema: LiteLLM makes it a tool there."""
    with LLMServer() as server:
        asked = call(server, model=model, api_base=server.root)
        asked.messages.insert(0, {"role": "system", "content": "Judge by the rubric."})
        assert event_loop.wait(make_client().ask(asked)) in (0, 1, 2)
        (body,) = server.requests
        assert body.get("output_format") or body.get("output_config") or body.get("tools")
        assert body["system"][0]["cache_control"] == {"type": "ephemeral"}


def test_tokens_read_from_a_providers_cache_are_counted_at_their_price(make_client: MakeClient) -> None:
    answer = openai_reply('{"level": 1}')
    answer["usage"]["prompt_tokens_details"] = {"cached_tokens": 80}
    with LLMServer(lambda kind, body: web.json_response(answer)) as server:
        client = make_client()
        event_loop.wait(client.ask(call(server, price=(1.0, 2.0, 0.1))))
        assert client.ledger.cached_tokens == 80
        assert client.ledger.usd == pytest.approx((20 * 1 + 80 * 0.1 + 20 * 2) / 1e6)


SECRET, PRIVATE = "sk-very-secret-4711", "the private prompt of a user"


def echo(kind: str, body: Any) -> web.Response:
    return error(400, f"bad request: {json.dumps(body)} with key {SECRET}")()


@pytest.mark.parametrize(
    "fault",
    [
        echo,
        lambda kind, body: error(401, f"Incorrect API key provided: {SECRET}. {PRIVATE}")(),
        lambda kind, body: error(500, f"{PRIVATE} {SECRET}")(),
        lambda kind, body: error(429, f"insufficient_quota {PRIVATE} {SECRET}")(),
        lambda kind, body: web.Response(text=f"<html>{PRIVATE} {SECRET}</html>", content_type="text/html"),
        lambda kind, body: f"{PRIVATE} {SECRET}",
        lambda kind, body: error(400, f"key {SECRET} may not use this")(),
    ],
)
def test_neither_key_nor_prompt_reaches_errors_logs_ledger_or_cache(
    make_client: MakeClient,
    fault: Callable[[str, Any], Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with LLMServer(fault) as server, caplog.at_level(logging.INFO):
        client = make_client()
        client.ledger.attach(tmp_path / "calls.jsonl")
        with pytest.raises(MPOError) as caught:
            event_loop.wait(client.ask(call(server, text=PRIVATE, api_key=SECRET)))
    printed = "".join(traceback.format_exception(caught.value))
    captured = capfd.readouterr()
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for text in (printed, caplog.text, captured.out, captured.err, files.decode("utf-8", "replace")):
        assert SECRET not in text and PRIVATE not in text


def test_an_outage_is_waited_out_where_that_is_wanted(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    async def all_of(client: Any, calls: list[Any]) -> list[int]:
        return list(await asyncio.gather(*map(client.ask, calls)))

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    server = LLMServer(port=port)
    server.url = f"http://127.0.0.1:{port}/v1"
    client = make_client(waits_out=True)
    asked = event_loop.submit(all_of(client, [call(server, text=str(n)) for n in range(40)]))
    time.sleep(1.0)  # far more than five attempts take here
    assert not asked.done()
    with server:
        assert len(asked.result(20)) == 40
    assert sum("waiting up to 60 s for it" in line for line in caplog.messages) == 1
    assert "cannot connect" in caplog.text


def test_an_outage_is_not_waited_out_for_ever(make_client: MakeClient) -> None:
    with LLMServer(lambda kind, body: error(503)()) as server:
        started = time.monotonic()
        failed = failure(make_client(waits_out=True, verdict_s=0.6), call(server))
        assert failed.kind == "transport" and "answered no call for 0.6 s; last attempt: openai/m" in str(
            failed
        )
        assert 0.5 < time.monotonic() - started < 5


@pytest.mark.usefixtures("quick_retries")
def test_errors_of_a_server_that_is_there_are_waited_out_for_a_while(make_client: MakeClient) -> None:
    """They may be an outage, or of this very request: some patience, and an end to it."""
    with LLMServer(faults(*[error(500)] * 12)) as server:
        assert event_loop.wait(make_client(waits_out=True).ask(call(server))) in (0, 1, 2)
        server.fault = lambda kind, body: error(500)()
        assert "25 attempts" in str(failure(make_client(waits_out=True), call(server, text="other")))
        assert "5 attempts" in str(failure(make_client(), call(server, text="another")))


@pytest.mark.usefixtures("quick_retries")
def test_a_model_that_has_answered_is_waited_for_when_it_is_gone(make_client: MakeClient) -> None:
    """As a gateway says while the server behind it starts anew."""
    with LLMServer() as server:
        client = make_client(waits_out=True)
        assert event_loop.wait(client.ask(call(server))) in (0, 1, 2)
        server.fault = faults(*[error(404)] * 9)
        assert event_loop.wait(client.ask(call(server, text="later"))) in (0, 1, 2)
        server.fault = faults(error(404))
        with pytest.raises(EndpointError, match="404"):
            event_loop.wait(make_client(waits_out=True).ask(call(server, text="first")))


def test_a_check_does_not_wait_for_a_server_that_is_down(make_client: MakeClient) -> None:
    with LLMServer(lambda kind, body: error(503)()) as server, pytest.raises(CallFailed, match="2 attempts"):
        event_loop.wait(make_client(waits_out=True).check(call(server).backend))


def test_a_cache_that_others_may_write_to_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    AnswerCache(tmp_path / "own").close()
    assert not caplog.text
    (tmp_path / "own").chmod(0o777)
    AnswerCache(tmp_path / "own").close()
    assert (
        "other users can write to it; the cache decides verdicts, so restrict it to yourself: chmod 700"
        in caplog.text
    )
    if os.geteuid() == 0:
        caplog.clear()
        (tmp_path / "own").chmod(0o700)
        os.chown(tmp_path / "own", 12345, 12345)
        AnswerCache(tmp_path / "own").close()
        assert "it belongs to another user" in caplog.text


@pytest.mark.parametrize("damaged", [b"", b"short"])
def test_a_damaged_nonce_key_is_refused(tmp_path: Path, damaged: bytes) -> None:
    AnswerCache(tmp_path).close()
    (tmp_path / "nonce.key").write_bytes(damaged)
    with pytest.raises(ConfigError, match=rf"nonce\.key: has {len(damaged)} bytes instead of 32; delete it"):
        AnswerCache(tmp_path)


def test_a_locked_cache_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    AnswerCache(tmp_path).close()
    monkeypatch.setattr(cache, "OPEN_S", 0.2)
    other = sqlite3.connect(tmp_path / "answers" / "cache.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    with pytest.raises(ConfigError, match=r"locked by another process after 0\.2 s; wait for it"):
        AnswerCache(tmp_path)
    assert time.monotonic() - started < 3
    other.close()


def models_told(**entry: Any) -> Callable[[], web.Response]:
    return lambda: web.json_response({"object": "list", "data": [{"object": "model", **entry}]})


def test_the_cache_knows_what_is_served_under_a_name(make_client: MakeClient) -> None:
    with LLMServer(lambda kind, body: '{"level": 1}') as server:
        served = {"id": "judge", "root": "/models/one"}
        for created, asked in ((1, 1), (2, 1)):  # a restart of the server is no other model
            server.models = models_told(created=created, permission=[{"id": f"p-{created}"}], **served)
            event_loop.wait(make_client().ask(call(server, model="hosted_vllm/judge")))
            assert len(server.requests) == asked
        server.models = models_told(id="judge", root="/models/two")
        event_loop.wait(make_client().ask(call(server, model="hosted_vllm/judge")))
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    "told",
    [
        lambda: web.Response(status=404),
        lambda: web.Response(text="<html>"),
        lambda: web.json_response([1]),
        lambda: web.json_response({"data": [None, {"id": 3}]}),
        lambda: web.Response(status=307, headers={"Location": "http://127.0.0.1:9/v1/models"}),
        models_told(id="m", root=None),
        models_told(id="m", root="m"),
        models_told(id="m", root=["m"]),
        models_told(id="other", root="/models/other"),
    ],
)
def test_a_server_that_tells_nothing_of_its_model_changes_no_key(make_client: MakeClient, told: Any) -> None:
    with LLMServer(lambda kind, body: '{"level": 1}') as server:
        server.models = told
        client = make_client()
        event_loop.wait(client.ask(call(server)))
        assert client.cache.get(call(server).key()) is not None


def test_answers_from_another_address_are_told_once(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    with LLMServer() as server, LLMServer() as other:
        first = make_client()
        for text in "ab":
            event_loop.wait(first.ask(call(server, text=text)))
        assert "using cached answers" not in caplog.text
        second = make_client()
        for text in "ab":
            event_loop.wait(second.ask(call(other, text=text)))
        assert not other.requests
        (line,) = [line for line in caplog.messages if "using cached answers" in line]
        assert server.url in line and other.url in line and "label" in line


def test_a_locked_cache_costs_its_use_and_not_the_answer(
    make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache, "LOCK_S", 0.1)
    with LLMServer() as server:
        client = make_client()
        other = sqlite3.connect(tmp_path / "cache" / "answers" / "cache.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        for text in "abc":
            assert event_loop.wait(client.ask(call(server, text=text))) in (0, 1, 2)
        other.execute("ROLLBACK")
        other.close()
        assert sum("cannot write the answer cache" in line for line in caplog.messages) == 1
        event_loop.wait(client.ask(call(server, text="a")))
        assert len(server.requests) == 4


def test_a_corrupt_cache_is_named_at_the_start(tmp_path: Path) -> None:
    database = tmp_path / "answers" / "cache.db"
    database.parent.mkdir()
    database.write_bytes(b"no database" * 1000)
    with pytest.raises(ConfigError, match=r"cannot use the cache.*not a database.*--cache-dir"):
        AnswerCache(tmp_path)


def test_a_cache_that_breaks_midway_costs_its_use_and_not_the_answer(
    make_client: MakeClient, tmp_path: Path
) -> None:
    with LLMServer() as server:
        client = make_client()
        event_loop.wait(client.ask(call(server, text="before")))
        for path in (tmp_path / "cache" / "answers").iterdir():
            path.write_bytes(b"\xff" * 4096)
        for text in ("before", "after"):
            assert event_loop.wait(client.ask(call(server, text=text))) in (0, 1, 2)


def test_a_read_only_cache_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = AnswerCache(tmp_path)
    store.put("old", {"text": "kept"})
    store._cache._sql("PRAGMA query_only = ON")  # what a read-only disk does to SQLite, for root too
    store.put("new", {"text": "lost"})
    assert (store.get("old"), store.get("new")) == ({"text": "kept"}, None)
    assert "cannot write the answer cache" in caplog.text
    store.close()
