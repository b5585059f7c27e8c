"""What may not happen on the wire: redirects that are followed, and bodies without end."""

import asyncio
import gzip
import json
import re
import socket
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from aiohttp import web

from mpo_lite.errors import EndpointError
from mpo_lite.llm import event_loop, transport, wire
from mpo_lite.llm.wire import MAX_REPLY, _origin
from tests.support.llm_calls import MakeClient, call, failure
from tests.support.llm_server import LLMServer, openai_reply
from tests.support.raw_server import GOOD, raw_server

pytestmark = pytest.mark.usefixtures("quick_retries")
KEY, PRIVATE = "sk-fake-key-12345678", "the private text of a user"
PROVIDERS = (
    "openai/m", "hosted_vllm/m", "anthropic/claude-sonnet-4-5-20250929", "gemini/gemini-2.5-pro", "azure/m",
    "azure_ai/m", "mistral/m", "groq/m", "together_ai/m", "cohere/m", "ollama_chat/m", "deepseek/m",
)  # fmt: skip


def respond(connection: socket.socket, status: str, body: bytes = b"", *headers: str) -> None:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Content-Type: application/json", *headers]
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("model", PROVIDERS)
def test_no_provider_follows_a_redirect(make_client: MakeClient, model: str, code: int) -> None:
    def redirect(connection: socket.socket, hit: int) -> None:
        respond(connection, f"{code} Elsewhere", b"", f"Location: {other.url}/steal?key=leak")

    def believe(connection: socket.socket, hit: int) -> None:
        respond(connection, "200 OK", GOOD.encode())

    with raw_server(believe) as other, raw_server(redirect) as server:
        asked = call(server, text=PRIVATE, model=model, api_key=KEY)
        with pytest.raises(EndpointError) as caught:
            event_loop.wait(make_client().ask(asked))
        host = other.url.removesuffix("/v1")
        assert f"redirects to {host}; set --judge-api-base to that address" in str(caught.value)
        assert "leak" not in str(caught.value) and KEY not in str(caught.value)
        assert (server.hits, other.hits) == (1, 0)


def test_a_redirect_of_the_meta_judge_names_its_own_flag(make_client: MakeClient) -> None:
    moved = web.HTTPTemporaryRedirect("https://elsewhere.example/v1")
    with (
        LLMServer(lambda kind, body: web.Response(status=307, headers=moved.headers)) as server,
        pytest.raises(EndpointError, match=r"redirects to https://elsewhere\.example; .*--meta-api-base"),
    ):
        event_loop.wait(make_client().ask(call(server, role="meta")))


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://user:secret@host:8443/v1?api_key=leak", "https://host:8443"),
        ("http://[::1]:80/x", "http://[::1]:80"),
        ("ftp://host/x", "another address"),
        ("http://\x1b]0;title\x07/", "another address"),
        ("http://[bad", "another address"),
    ],
)
def test_of_where_it_redirects_to_only_the_host_is_told(url: str, origin: str) -> None:
    assert _origin(url) == origin


@pytest.mark.parametrize("name", [f"{provider}/m" for provider in sorted(transport.UNGUARDED)])
def test_clients_that_cannot_be_guarded_are_not_used(make_client: MakeClient, name: str) -> None:
    with LLMServer() as server, pytest.raises(EndpointError, match="may follow redirects"):
        event_loop.wait(make_client().ask(call(server, model=name)))
    assert not server.requests


def test_a_client_that_bypasses_the_guard_is_found_out(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version of LiteLLM may ask a provider in a way that this one does not."""
    monkeypatch.setattr(wire, "watch", wire.Exchange)  # nothing is seen of what is sent
    with LLMServer() as server, pytest.raises(EndpointError, match="may follow redirects"):
        event_loop.wait(make_client().check(call(server).backend))


@pytest.mark.parametrize("model", ["openai/m", "hosted_vllm/m", "anthropic/claude-sonnet-4-5-20250929"])
def test_an_endless_body_is_not_read_to_its_end(make_client: MakeClient, model: str) -> None:
    sent = 0

    def endless(connection: socket.socket, hit: int) -> None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            sent += connection.send(b"10000\r\n" + b" " * 65536 + b"\r\n")

    with raw_server(endless) as server:
        client = make_client()
        failed = failure(client, call(server, model=model))
        assert (
            failed.kind == "transport"
            and "the reply is longer than 4 MiB; gave up after 5 attempts" in str(failed)
        )
        # The model may have worked for it.
        assert client.ledger.unmetered == 5
    assert sent < 5 * 4 * MAX_REPLY  # what sockets hold beyond it


@pytest.mark.slow
def test_a_bomb_is_not_unpacked(make_client: MakeClient) -> None:
    bomb = gzip.compress(b" " * 2**28)

    def answer(connection: socket.socket, hit: int) -> None:
        respond(connection, "200 OK", bomb, "Content-Encoding: gzip")

    with raw_server(answer) as server:
        client = make_client()
        tracemalloc.start()
        try:
            assert "longer than 4 MiB" in str(failure(client, call(server)))
            assert tracemalloc.get_traced_memory()[1] < 8 * MAX_REPLY
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("model", ["openai/m", "hosted_vllm/m", "anthropic/claude-sonnet-4-5-20250929"])
@pytest.mark.parametrize("status", ["400 Bad Request", "500 Internal Server Error"])
def test_a_huge_error_does_not_freeze_the_loop(make_client: MakeClient, status: str, model: str) -> None:
    body = json.dumps({"error": {"message": "so wrong " * 400_000, "type": "error"}}).encode()
    gaps = [0.0]

    async def tick() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - before)

    with raw_server(lambda connection, hit: respond(connection, status, body)) as server:
        client = make_client()
        ticking = event_loop.submit(tick())
        try:
            failed = failure(client, call(server, model=model))
        finally:
            ticking.cancel()
    assert failed.kind == "transport" and len(str(failed)) < 500
    assert re.search("so wrong|from a running server", str(failed)) and max(gaps) < 1


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("deflate", lambda body: __import__("zlib").compress(body))],
)
def test_a_compressed_answer_is_read(
    make_client: MakeClient, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    def answer(connection: socket.socket, hit: int) -> None:
        respond(connection, "200 OK", pack(GOOD.encode()), f"Content-Encoding: {encoding}")

    with raw_server(answer) as server:
        assert event_loop.wait(make_client().ask(call(server))) == 1


def test_what_is_no_gzip_is_asked_for_again(make_client: MakeClient) -> None:
    def answer(connection: socket.socket, hit: int) -> None:
        respond(connection, "200 OK", GOOD.encode(), *(["Content-Encoding: gzip"] if hit == 1 else []))

    with raw_server(answer) as server:
        assert event_loop.wait(make_client().ask(call(server))) == 1
        assert server.hits == 2


def test_other_requests_of_the_process_are_none_of_ours() -> None:
    """A script may use LiteLLM for itself: what is not watched passes as it is."""

    class Plain(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(307, headers={"location": "http://elsewhere.example"})

    wire.guard(Plain)

    async def sent() -> Any:
        return await Plain().handle_async_request(httpx.Request("GET", "http://a.example"))

    assert asyncio.run(sent()).status_code == 307


USAGES = [
    {"prompt_tokens": 10**12, "completion_tokens": 20, "total_tokens": 10**12},
    {"prompt_tokens": 100, "completion_tokens": 10**12, "total_tokens": 10**12},
    {"prompt_tokens": -100, "completion_tokens": 20, "total_tokens": -80},
    {"prompt_tokens": 100, "completion_tokens": -20, "total_tokens": 80},
    {"prompt_tokens": "many", "completion_tokens": 20, "total_tokens": 20},
    {"prompt_tokens": 1.5, "completion_tokens": 20, "total_tokens": 21.5},
    {"prompt_tokens": 100, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 10**9}},
    {"prompt_tokens": 100, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": -5}},
    {"prompt_tokens": True, "completion_tokens": 20},
    {"prompt_tokens": 0, "completion_tokens": 0},
    {},
    [],
    "none",
]


@pytest.mark.parametrize("usage", USAGES, ids=json.dumps)
def test_usage_that_cannot_be_counts_as_the_worst_case(make_client: MakeClient, usage: Any) -> None:
    with LLMServer(
        lambda kind, body: web.json_response(openai_reply('{"level": 1}') | {"usage": usage})
    ) as server:
        client = make_client(max_tokens=20_000, max_usd=1.0)
        for text in ("one", "two", "three"):
            assert event_loop.wait(client.ask(call(server, text=text, max_tokens=100))) == 1
        ledger = client.ledger
        assert ledger.unmetered == len(server.requests) >= 3
        assert 3 * 600 < ledger.tokens < len(server.requests) * 1000 and ledger.cached_tokens == 0
        assert 0 < ledger.usd < len(server.requests) * 0.001


def test_details_of_usage_that_are_no_numbers_cost_no_answer(make_client: MakeClient) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": "q"}}
    with LLMServer(
        lambda kind, body: web.json_response(openai_reply('{"level": 1}') | {"usage": usage})
    ) as server:
        client = make_client()
        assert event_loop.wait(client.ask(call(server))) == 1
        assert (client.ledger.unmetered, client.ledger.tokens) == (0, 120)


def test_understated_usage_is_not_believed(make_client: MakeClient) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    with LLMServer(
        lambda kind, body: web.json_response(openai_reply('{"level": 1}') | {"usage": usage})
    ) as server:
        client = make_client()
        assert event_loop.wait(client.ask(call(server, text="word " * 400))) == 1
        assert client.ledger.unmetered == 1 and client.ledger.tokens > 500


def test_the_choice_that_counts_is_the_first_by_its_number(make_client: MakeClient) -> None:
    def two(kind: str, body: Any) -> web.Response:
        answer = openai_reply('{"level": 1}')
        other = answer["choices"][0] | {
            "index": 1,
            "message": {"role": "assistant", "content": '{"level": 2}'},
        }
        return web.json_response(answer | {"choices": [other, answer["choices"][0]]})

    with LLMServer(two) as server:
        assert event_loop.wait(make_client().ask(call(server))) == 1


def test_a_tool_call_that_nobody_asked_for_is_no_answer(make_client: MakeClient) -> None:
    tool = {"id": "c", "type": "function", "function": {"name": "reply", "arguments": '{"level": 2}'}}
    with LLMServer(
        lambda kind, body: web.json_response(openai_reply('{"level": 1}', tool_calls=[tool]))
    ) as server:
        assert event_loop.wait(make_client().ask(call(server))) == 1
