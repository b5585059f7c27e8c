"""The client over real HTTP, through LiteLLM, against a local server that fails in the ways providers do."""

import asyncio
import json
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from mpo_lite.errors import BudgetReached, CallFailed, EndpointError
from mpo_lite.llm import event_loop
from mpo_lite.llm.accounting import MARKUP_TOKENS
from mpo_lite.llm.call import Call
from mpo_lite.llm.client import Client
from tests.support.llm_calls import SCHEMA, MakeClient, call, error, faults, reply
from tests.support.llm_server import LLMServer, kind_of, openai_reply, prompt_text

pytestmark = pytest.mark.usefixtures("quick_retries")


def test_an_answer_is_asked_for_once_and_then_comes_from_the_cache(make_client: MakeClient) -> None:
    with LLMServer() as server:
        first, again = make_client(), make_client()
        level = event_loop.wait(first.ask(call(server)))
        assert event_loop.wait(again.ask(call(server))) == level
        assert (len(server.requests), again.cache_hits) == (1, 1)


def test_equal_calls_in_flight_are_sent_once_and_other_draws_are_not_equal(make_client: MakeClient) -> None:
    async def many(client: Client, *calls: Call[int]) -> list[int]:
        return list(await asyncio.gather(*(client.ask(each) for each in calls)))

    with LLMServer(delay=0.1) as server:
        client = make_client()
        event_loop.wait(many(client, *[call(server)] * 10))
        assert len(server.requests) == 1
        event_loop.wait(many(client, call(server, draw="batch-1"), call(server, draw="batch-2")))
        assert len(server.requests) == 3


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_failures_that_may_pass_are_retried(make_client: MakeClient, status: int) -> None:
    with LLMServer(faults(error(status), error(status))) as server:
        assert event_loop.wait(make_client().ask(call(server))) in (0, 1, 2)
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "bad key"), (403, "forbidden"), (404, "no model"), (429, "quota: insufficient_quota")],
)
def test_failures_for_good_are_not_retried_and_say_the_mend(
    make_client: MakeClient, status: int, message: str
) -> None:
    with LLMServer(faults(*[error(status, message)] * 9)) as server:
        with pytest.raises(EndpointError, match=rf"openai/m.*{status}.*; "):
            event_loop.wait(make_client().ask(call(server, api_key="sk-very-secret")))
        assert len(server.requests) == 1


def test_a_dead_server_is_a_transport_failure(make_client: MakeClient) -> None:
    with LLMServer() as server:
        pass
    with pytest.raises(CallFailed) as caught:
        event_loop.wait(make_client().ask(call(server)))
    assert caught.value.kind == "transport" and "cannot connect; check that the server" in str(caught.value)


def test_a_missing_key_is_told_at_once(make_client: MakeClient) -> None:
    """A hosted model's client finds out by itself, and nobody is asked."""
    with LLMServer() as server:
        hosted = call(server, model="openai/gpt-4o", api_base=None, api_key=None)
        with pytest.raises(EndpointError, match=r"key is missing; set OPENAI_API_KEY or MPO_JUDGE_API_KEY$"):
            event_loop.wait(make_client().ask(hosted))
    assert not server.requests


def test_a_client_that_is_stopped_gives_what_it_has_and_no_more(make_client: MakeClient) -> None:
    """Also a call that was under way, and met the same end as what stopped the job, is only not judged."""
    with LLMServer(delay=0.3) as server:
        client = make_client(max_calls=1)

        async def stop() -> list[Any]:
            first = asyncio.ensure_future(client.ask(call(server, "one")))
            await asyncio.sleep(0.1)
            waits = asyncio.ensure_future(client.ask(call(server, "two")))  # for the first to leave it room
            await asyncio.sleep(0.05)
            client.stopped = True
            texts = ("one", "two", "three")
            again = [client.ask(call(server, text)) for text in texts]
            return await asyncio.gather(first, waits, *again, return_exceptions=True)

        one, two, *again = event_loop.wait(stop())
        assert one == again[0] and one in (0, 1, 2)
        for failed in (two, *again[1:]):
            assert isinstance(failed, CallFailed) and failed.kind == "stopped"
        assert len(server.requests) == 1


def test_a_call_whose_reply_may_be_longer_is_given_longer(make_client: MakeClient) -> None:
    """A merged rubric takes four times the tokens of a verdict."""
    with LLMServer(delay=0.5) as server:
        long = replace(call(server), room=4096)
        assert event_loop.wait(make_client(timeout_s=0.2).ask(long)) in (0, 1, 2)
        assert len(server.requests) == 1


def test_a_hanging_server_is_given_up_in_time(make_client: MakeClient) -> None:
    with LLMServer(delay=30) as server:
        with pytest.raises(CallFailed, match=r"within 0\.4 s; gave up after 5 attempts"):
            event_loop.wait(make_client(timeout_s=0.2).ask(call(server)))
        with pytest.raises(CallFailed, match=r"openai/m answered no call for 0\.3 s"):
            event_loop.wait(make_client(timeout_s=9, verdict_s=0.3).ask(call(server, text="other")))


@pytest.mark.parametrize(
    "broken",
    [
        lambda: web.Response(text="<html>busy</html>", content_type="text/html"),
        lambda: web.Response(text='{"id": "x", "choi', content_type="application/json"),
        lambda: web.json_response({"error": {"message": "overloaded"}}),
        lambda: web.json_response(openai_reply("x") | {"choices": []}),
        reply(None),
        reply(""),
        reply("I would say two."),
        reply('{"level": 3}'),
        reply('{"level": true}'),
        reply('{"level": 1.0}'),
        reply('{"level": NaN}'),
        reply('{"level": 1, "level": 2}'),
        reply('{"level" : ' + "\r " * 300, "length"),
    ],
)
def test_a_broken_answer_is_asked_for_again_and_never_scored(
    make_client: MakeClient, broken: Callable[[], web.Response]
) -> None:
    with LLMServer(faults(broken)) as server:
        event_loop.wait(make_client().ask(call(server)))
        assert len(server.requests) == 2
    with LLMServer(lambda kind, body: broken()) as server:
        client = make_client()
        with pytest.raises(CallFailed) as caught:
            event_loop.wait(client.ask(call(server, text="another")))
        assert caught.value.kind in ("parse", "transport")
        assert client.cache.get(call(server, text="another").key()) is None


def test_a_cut_answer_is_asked_for_with_twice_the_room(make_client: MakeClient) -> None:
    with LLMServer(faults(reply('{"lev', "length"))) as server:
        event_loop.wait(make_client().ask(call(server, max_tokens=50)))
        assert [body["max_tokens"] for body in server.requests] == [50, 100]


def test_a_repair_can_say_that_there_is_no_verdict(make_client: MakeClient) -> None:
    def fault(kind: str, body: Any) -> str | None:
        if kind != "repair":
            return "I cannot say."
        # Guided decoding lets nothing through but a level.
        return '{"level": 2}' if "response_format" in body else "{}"

    with LLMServer(fault) as server:
        with pytest.raises(CallFailed) as caught:
            event_loop.wait(make_client().ask(call(server)))
        assert (caught.value.kind, len(server.prompts("repair"))) == ("parse", 1)


def test_an_answer_that_stays_broken_is_mended_by_one_repair_call(make_client: MakeClient) -> None:
    def fault(kind: str, body: Any) -> str | None:
        return '{"level": 1}' if kind == "repair" else "Level: one"

    with LLMServer(fault) as server:
        client = make_client()
        assert event_loop.wait(client.ask(call(server))) == 1
        kinds = [kind_of(prompt_text(body)) for body in server.requests]
        assert kinds == ["check", "check", "repair"]
        assert event_loop.wait(client.ask(call(server))) == 1  # from the cache
        assert len(server.requests) == 3


def test_after_a_broken_answer_the_next_attempt_differs(make_client: MakeClient) -> None:
    with LLMServer(faults("nonsense")) as server:
        event_loop.wait(make_client().ask(call(server)))
        first, second = server.requests
        assert first["response_format"]["type"] == "json_schema"
        assert (second.get("response_format"), second.get("seed")) != (
            first["response_format"],
            first.get("seed"),
        )


@pytest.mark.parametrize("answer", [reply(None, refusal="I cannot."), reply("", "content_filter")])
def test_a_refusal_is_not_retried_not_scored_and_not_cached(
    make_client: MakeClient, answer: Callable[[], web.Response]
) -> None:
    with LLMServer(faults(answer)) as server:
        client = make_client()
        with pytest.raises(CallFailed) as caught:
            event_loop.wait(client.ask(call(server)))
        assert (caught.value.kind, len(server.requests)) == ("refusal", 1)
        assert event_loop.wait(client.ask(call(server))) in (0, 1, 2)


def test_a_sample_too_long_for_the_model_fails_by_itself(make_client: MakeClient) -> None:
    too_long = error(400, "This model's maximum context length is 4096 tokens, you asked for 9000.")
    with LLMServer(faults(too_long)) as server:
        with pytest.raises(CallFailed) as caught:
            event_loop.wait(make_client().ask(call(server)))
        assert caught.value.kind == "context"


def test_a_refused_schema_steps_down_the_ladder_and_is_remembered(make_client: MakeClient) -> None:
    def fault(kind: str, body: Any) -> Any:
        if (body.get("response_format") or {}).get("type") == "json_schema":
            return error(400, "response_format json_schema is not supported")()
        return '{"level": 2}'

    with LLMServer(fault) as server:
        client = make_client()
        assert event_loop.wait(client.ask(call(server))) == 2
        assert event_loop.wait(client.ask(call(server, text="second"))) == 2
        forms = [(body.get("response_format") or {}).get("type") for body in server.requests]
        assert forms == ["json_schema", None, None]


def test_a_refused_parameter_is_dropped_and_remembered(make_client: MakeClient) -> None:
    def fault(kind: str, body: Any) -> Any:
        refused = error(400, "Unsupported value: 'temperature' does not support 0.")
        return refused() if "temperature" in body else None

    with LLMServer(fault) as server:
        client = make_client()
        event_loop.wait(client.ask(call(server)))
        event_loop.wait(client.ask(call(server, text="second")))
        assert ["temperature" in body for body in server.requests] == [True, False, False]


def test_retry_after_holds_back_all_calls_to_the_backend(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float | None] = []
    monkeypatch.setattr(
        "mpo_lite.llm.limiter.Limiter.record_overload", lambda self, started, pause: pauses.append(pause)
    )
    with LLMServer(faults(error(429, "slow down", **{"retry-after": "7"}))) as server:
        event_loop.wait(make_client().ask(call(server)))
    assert pauses == [7.0]


def test_the_cap_on_calls_stops_before_the_call_that_would_pass_it(make_client: MakeClient) -> None:
    with LLMServer() as server:
        client = make_client(max_calls=2)
        for text in ("one", "two"):
            event_loop.wait(client.ask(call(server, text=text)))
        with pytest.raises(BudgetReached, match="--max-calls 2 reached"):
            event_loop.wait(client.ask(call(server, text="three")))
        assert len(server.requests) == 2
        event_loop.wait(client.ask(call(server, text="one")))  # the cache costs nothing


def test_the_cap_on_spend_holds_for_calls_in_flight(make_client: MakeClient) -> None:
    async def many(client: Client, server: LLMServer) -> list[Any]:
        calls = (client.ask(call(server, text=f"{n}", max_tokens=100)) for n in range(40))
        return await asyncio.gather(*calls, return_exceptions=True)

    # 100 input and 20 output tokens at $1 and $2 per million cost $0.00014; a call's worst case is $0.00085.
    with LLMServer(delay=0.02) as server:
        client = make_client(max_usd=0.004)
        results = event_loop.wait(many(client, server))
        assert client.ledger.usd <= 0.004
        # And it is used: worst cases are given back when a call has settled.
        assert client.ledger.usd > 0.003
        assert any(isinstance(result, BudgetReached) for result in results)


def test_an_answer_still_in_flight_at_the_end_is_kept(make_client: MakeClient) -> None:
    with LLMServer(delay=0.3) as server:
        client = make_client()
        event_loop.submit(client.ask(call(server)))
        time.sleep(0.1)
        event_loop.wait(client.close())
        assert client.cache.get(call(server).key()) is not None


def test_the_ledger_counts_every_attempt_and_keeps_no_text(make_client: MakeClient, tmp_path: Any) -> None:
    with LLMServer(faults(error(500))) as server:
        client = make_client()
        client.ledger.attach(tmp_path / "calls.jsonl")
        event_loop.wait(client.ask(call(server, text="a private prompt", api_key="sk-secret")))
    text = (tmp_path / "calls.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines() if line]
    assert [row["outcome"] for row in rows] == ["failed", "ok"]
    assert rows[1]["usd"] == pytest.approx((100 * 1 + 20 * 2) / 1e6)
    assert "private" not in text and "sk-secret" not in text


def test_an_answer_without_usage_counts_its_worst_case(make_client: MakeClient) -> None:
    unmetered = {key: value for key, value in openai_reply('{"level": 1}').items() if key != "usage"}
    with LLMServer(lambda kind, body: web.json_response(unmetered)) as server:
        client = make_client(max_usd=1.0)
        event_loop.wait(client.ask(call(server, text="x" * 100, max_tokens=100)))
        sent = 100 + len(json.dumps(SCHEMA)) + MARKUP_TOKENS
        assert client.ledger.usd == pytest.approx((sent * 1 + 100 * 2) / 1e6)
        assert (client.ledger.unmetered, client.ledger.tokens) == (1, sent + 100)


def test_a_rate_limit_that_speaks_of_billing_is_retried(make_client: MakeClient) -> None:
    limited = error(
        429, "Rate limit reached. Add a payment method at example.com/account/billing to raise it."
    )
    with LLMServer(faults(limited)) as server:
        assert event_loop.wait(make_client().ask(call(server))) in (0, 1, 2)


def test_an_unknown_price_is_unpriced_and_not_free(make_client: MakeClient) -> None:
    with LLMServer() as server:
        client = make_client()
        event_loop.wait(client.ask(call(server, price=None)))
        assert (client.ledger.unpriced, client.ledger.usd) == (1, 0.0)


def test_the_cache_directory_is_private_and_its_nonce_key_stays(
    make_client: MakeClient, tmp_path: Any
) -> None:
    first, second = make_client(), make_client()
    key = tmp_path / "cache" / "nonce.key"
    assert first.cache.nonce_key == second.cache.nonce_key == key.read_bytes()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700


def test_a_tampered_cache_row_is_a_miss_and_runs_nothing(make_client: MakeClient, tmp_path: Any) -> None:
    import pickle
    import sqlite3

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(tmp_path / "exploded"), "w"))

    with LLMServer() as server:
        client = make_client()
        event_loop.wait(client.ask(call(server)))
        for mode, filename, value in (
            (4, None, sqlite3.Binary(pickle.dumps(Bomb()))),
            (2, "../nonce.key", None),
            (1, None, "text"),
            (1, None, sqlite3.Binary(b'{"text": 3}')),
            (1, None, sqlite3.Binary(json.dumps({"text": '{"level": 9}'}).encode())),
        ):
            with sqlite3.connect(tmp_path / "cache" / "answers" / "cache.db") as database:
                database.execute(
                    "UPDATE Cache SET mode = ?, filename = ?, value = ?", (mode, filename, value)
                )
            database.close()
            before = len(server.requests)
            assert event_loop.wait(client.ask(call(server))) in (0, 1, 2)
            assert len(server.requests) == before + 1
    assert not (tmp_path / "exploded").exists()
