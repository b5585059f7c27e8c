"""A busy server is not a broken one: the limit on simulated servers, and how long calls wait over HTTP."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp import web

from mpo_lite.errors import CallFailed
from mpo_lite.llm import event_loop
from mpo_lite.llm.client import Client
from tests.support.llm_calls import MakeClient, call, error
from tests.support.llm_server import LLMServer, openai_reply


def ask_all(client: Client, calls: Sequence[Any]) -> list[Any]:
    async def work() -> list[Any]:
        return await asyncio.gather(*(client.ask(each) for each in calls), return_exceptions=True)

    return event_loop.wait(work())


class OneAtATime(LLMServer):
    """Answers one call after the other."""

    async def _openai(self, request: web.Request) -> web.Response:
        async with self.gate:
            await asyncio.sleep(self.delay)
        return web.json_response(openai_reply('{"level": 1}'))

    gate = asyncio.Lock()


@pytest.mark.usefixtures("quick_retries")
def test_a_call_outlasts_its_patience_while_others_are_answered(make_client: MakeClient) -> None:
    with OneAtATime(delay=0.15) as server:
        ask_all(make_client(), [call(server, text="the import of LiteLLM takes seconds")])
        began = time.monotonic()
        found = ask_all(make_client(verdict_s=1.0), [call(server, text=f"n {n}") for n in range(16)])
    assert found == [1] * 16 and time.monotonic() - began > 2.0


@pytest.mark.slow
@pytest.mark.usefixtures("quick_retries")
def test_a_time_out_lowers_the_limit(make_client: MakeClient) -> None:
    with LLMServer(delay=3.0) as server:
        client = make_client(timeout_s=0.4, verdict_s=90)
        found = ask_all(client, [call(server, text=f"n {n}") for n in range(4)])
    assert {(type(each), each.kind) for each in found} == {(CallFailed, "timeout")}
    assert "no complete answer within 0.8 s; gave up after 5 attempts" in str(found[0])
    assert client._sender._limiters["m"].limit <= 2


@pytest.mark.usefixtures("quick_retries")
def test_a_reply_that_takes_longer_than_an_attempt_gets_twice_the_time(make_client: MakeClient) -> None:
    with LLMServer(delay=0.6) as server:
        ask_all(make_client(), [call(server, text="the import of LiteLLM takes seconds")])
        client = make_client(timeout_s=0.4, verdict_s=0.9)
        assert ask_all(client, [call(server, text="a long one")]) == [1]
        assert len(server.requests) == 3


def test_a_server_that_answers_nobody_ends_all_calls_in_time(make_client: MakeClient) -> None:
    """Those that have not been sent yet, too: there may be hundreds."""
    with LLMServer(delay=60) as server:
        client = make_client(concurrency=2, timeout_s=50, verdict_s=1.0)
        began = time.monotonic()
        found = ask_all(client, [call(server, text=f"n {n}") for n in range(20)])
        assert time.monotonic() - began < 8
    assert {each.kind for each in found} == {"timeout"}
    assert "openai/m answered no call for 1 s" in str(found[-1])


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("status", [408, 504])
def test_a_time_out_of_the_servers_own_is_one(make_client: MakeClient, status: int) -> None:
    with LLMServer(lambda kind, body: error(status)()) as server:
        (found,) = ask_all(make_client(), [call(server)])
    assert found.kind == "timeout"
