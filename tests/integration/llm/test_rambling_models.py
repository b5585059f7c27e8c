"""Models that ramble, and why there is no verdict: bounded replies, and a reason for each failure."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.cli.main import main
from mpo_lite.errors import CallFailed
from mpo_lite.jsonl import read_rows
from mpo_lite.judge.base import Sample, _warn_level_format, reply_token_limit, verdict_schema
from mpo_lite.judge.groupwise import GroupwiseJudge
from mpo_lite.judge.pointwise import PointwiseJudge
from mpo_lite.llm import event_loop
from mpo_lite.llm.client import Client
from mpo_lite.llm.models import Backend
from mpo_lite.llm.structured_output import mode_params, object_schema, without_bounds
from mpo_lite.rubric import Rubric
from mpo_lite.types import Brief
from tests.support.llm_calls import SCHEMA, MakeClient, call, error, faults, reply
from tests.support.llm_server import LLMServer, prompt_text

pytestmark = pytest.mark.usefixtures("quick_retries")


def sent_schema(body: Any) -> Any:
    return body["response_format"]["json_schema"]["schema"]


def pointwise(client: Client, server: LLMServer, max_tokens: int | None = None) -> PointwiseJudge:
    backend = Backend("m", "openai/m", server.url, "none", max_tokens=max_tokens)
    return PointwiseJudge(client, backend, Brief("You are strict."))


def refusing_bounds(said: str) -> Callable[[str, Any], Any]:
    """A server's refusal of bounded schemas, in these words."""
    return lambda kind, body: error(400, said)() if "maxLength" in json.dumps(body) else None


@pytest.mark.parametrize(
    "said",
    [
        "Invalid schema for response_format 'reply': 'maxLength' is not permitted.",
        "For 'string' type, property 'maxLength' is not supported",
    ],
)
def test_bounds_that_a_model_refuses_are_left_out_from_then_on(
    make_client: MakeClient, rubric: Rubric, said: str
) -> None:
    with LLMServer(refusing_bounds(said)) as server:
        client = make_client(concurrency=1)
        judge = pointwise(client, server)
        verdicts = event_loop.wait(judge.verdicts([Sample("p", f"a{n}") for n in range(3)], rubric))
        assert all(verdict.reward is not None for verdict in verdicts)
        # Those that waited meanwhile do not have to find out for themselves.
        assert len(server.requests) == 1 + 3
        assert sent_schema(server.requests[-1]) == without_bounds(verdict_schema(rubric))
        assert client._sender.capabilities(judge.backend).output_modes()[0] == "json_schema"


def test_many_refusals_of_bounds_at_once_do_not_cost_the_schema(
    make_client: MakeClient, rubric: Rubric
) -> None:
    with LLMServer(refusing_bounds("response_format: 'maxLength' is not supported"), delay=0.1) as server:
        client = make_client(concurrency=16)
        judge = pointwise(client, server)
        event_loop.wait(judge.verdicts([Sample("p", f"a{n}") for n in range(12)], rubric))
        assert client._sender.capabilities(judge.backend).unsupported == {"bounds"}


def test_a_model_that_takes_no_schema_at_all_steps_down(make_client: MakeClient, rubric: Rubric) -> None:
    def fault(kind: str, body: Any) -> Any:
        return (
            error(400, "response_format json_schema is not supported")()
            if "response_format" in body
            else None
        )

    with LLMServer(fault) as server:
        client = make_client()
        judge = pointwise(client, server)
        (verdict,) = event_loop.wait(judge.verdicts([Sample("p", "a")], rubric))
        assert verdict.reward is not None and "tools" in server.requests[-1]
        assert not mode_params("json_schema", {}).keys() & server.requests[-1].keys()


@pytest.mark.parametrize(("criteria", "answers"), [(1, 1), (3, 1), (3, 4)])
def test_the_token_limit_follows_criteria_and_answers(
    make_client: MakeClient, rubric: Rubric, criteria: int, answers: int
) -> None:
    by = rubric.model_copy(update={"criteria": rubric.criteria[:criteria]})
    with LLMServer() as server:
        single = pointwise(make_client(), server)
        judge = GroupwiseJudge(single, answers) if answers > 1 else single
        event_loop.wait(judge.verdicts([Sample("p", f"a{n}") for n in range(answers)], by))
        assert [body["max_tokens"] for body in server.requests] == [reply_token_limit(criteria * answers)]


def test_a_limit_of_the_users_own_holds(make_client: MakeClient, rubric: Rubric) -> None:
    with LLMServer() as server:
        event_loop.wait(pointwise(make_client(), server, 77).verdicts([Sample("p", "a")], rubric))
        assert [body["max_tokens"] for body in server.requests] == [77]


def test_a_cut_reply_is_asked_for_again_with_the_request_to_be_shorter(make_client: MakeClient) -> None:
    with LLMServer(faults(reply('{"level', "length"))) as server:
        event_loop.wait(make_client().ask(call(server, text="how good?", max_tokens=50)))
        first, second = (prompt_text(body) for body in server.requests)
        assert second.startswith(first) and "under fifteen words" in second.removeprefix(first)
        # No second message of one role in a row: some chat templates refuse that.
        assert [message["role"] for message in server.requests[1]["messages"]] == ["user"]
        assert [body["max_tokens"] for body in server.requests] == [50, 100]


def test_a_sound_object_with_a_wrong_value_is_asked_for_again_in_the_same_form_with_the_reason(
    make_client: MakeClient,
) -> None:
    with LLMServer(faults('{"level": "1"}')) as server:
        event_loop.wait(make_client().ask(call(server)))
        assert [sent_schema(body) for body in server.requests] == [SCHEMA, SCHEMA]
        assert "could not be used: not a level." in prompt_text(server.requests[1])


def test_a_reply_in_another_form_is_asked_for_in_the_next_way(make_client: MakeClient) -> None:
    with LLMServer(faults('{"grade": 1}')) as server:
        event_loop.wait(make_client().ask(call(server)))
        assert "tools" in server.requests[1] and "could not be used" in prompt_text(server.requests[1])


def test_a_server_without_tools_costs_a_model_no_bounds(make_client: MakeClient) -> None:
    def fault(kind: str, body: Any) -> Any:
        return error(400, "tool_choice requires a tool parser")() if "tools" in body else None

    with LLMServer(fault) as server:
        client = make_client()
        asked = call(server)
        bounded = replace(
            asked, schema=object_schema({"level": SCHEMA["properties"]["level"] | {"pattern": "1"}})
        )
        client._sender.capabilities(asked.backend).unsupported.add("json_schema")
        event_loop.wait(client.ask(bounded))
        assert client._sender.capabilities(asked.backend).unsupported == {"json_schema", "tool"}


def test_a_reply_that_stays_cut_is_called_cut(make_client: MakeClient) -> None:
    with LLMServer(lambda kind, body: reply('{"reason": "so long', "length")()) as server:
        with pytest.raises(CallFailed, match="cut off at the token limit") as caught:
            event_loop.wait(make_client().ask(call(server)))
        assert (caught.value.kind, len(server.requests)) == ("cut", 2)
        assert caught.value.detail.endswith('the reply began: {"reason": "so long')


def test_a_failed_verdict_says_what_was_wrong_and_how_the_reply_began(
    make_client: MakeClient, rubric: Rubric
) -> None:
    wrong = {name.id: {"reason": "so", "level": "high"} for name in rubric.criteria}
    with LLMServer(lambda kind, body: json.dumps(wrong)) as server:
        (verdict,) = event_loop.wait(pointwise(make_client(), server).verdicts([Sample("p", "a")], rubric))
    assert (verdict.reward, verdict.failure) == (None, "parse")
    assert "structure: the level must be a whole number from 0 to 2" in verdict.detail
    assert '{"structure": {"reason": "so", "level": "high"}' in verdict.detail


@pytest.mark.parametrize("form", [str, float])
def test_levels_in_another_form_cost_one_call_and_one_notice(
    make_client: MakeClient, rubric: Rubric, caplog: pytest.LogCaptureFixture, form: Callable[[int], Any]
) -> None:
    _warn_level_format.cache_clear()
    right = {one.id: {"reason": "so", "level": form(1)} for one in rubric.criteria}
    with LLMServer(lambda kind, body: json.dumps(right)) as server:
        verdicts = event_loop.wait(
            pointwise(make_client(), server).verdicts([Sample("p", f"a{n}") for n in range(3)], rubric)
        )
        assert len(server.requests) == 3 and all(one.reward is not None for one in verdicts)
    assert sum("name exactly one level" in line for line in caplog.messages) == 1


@pytest.mark.parametrize(
    ("answer", "outcome", "reason"),
    [
        (reply("Level: one"), "unusable", "not JSON"),
        (reply('{"lev', "length"), "unusable", "cut off at the token limit"),
        (reply("", "stop"), "unusable", "empty"),
        (error(500), "failed", "InternalServerError (500)"),
        (error(429), "overload", "RateLimitError (429)"),
        (error(400, "seed is not supported"), "failed", "does not support seed"),
    ],
)
def test_every_call_that_failed_has_its_reason_in_the_ledger(
    make_client: MakeClient, tmp_path: Path, answer: Any, outcome: str, reason: str
) -> None:
    def fault(kind: str, body: Any) -> Any:
        return answer() if len(server.requests) == (2 if "seed" in reason else 1) else None

    with LLMServer(fault) as server:
        client = make_client()
        client.ledger.attach(tmp_path / "calls.jsonl")
        if "seed" in reason:  # sent with the second request alone
            server.fault = lambda kind, body: (
                reply("no")() if len(server.requests) == 1 else fault(kind, body)
            )
        event_loop.wait(client.ask(call(server, text="a private prompt")))
    text = (tmp_path / "calls.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines() if line]
    failed = next(row for row in rows if row["outcome"] == outcome and reason in row["reason"])
    assert failed["metered"] or outcome == "unusable"
    assert (rows[-1]["outcome"], rows[-1]["reason"], rows[-1]["reply"]) == ("ok", "", "")
    if reason == "not JSON":
        assert failed["reply"] == "Level: one"
    assert "private" not in text


def test_what_a_model_turns_down_costs_nothing(make_client: MakeClient) -> None:
    with LLMServer(faults(error(400, "response_format json_schema is not supported"))) as server:
        client = make_client(max_usd=1.0)
        event_loop.wait(client.ask(call(server)))
        assert (client.ledger.unmetered, client.ledger.tokens) == (0, 120)


def test_score_says_why_rows_were_not_judged(tmp_path: Path, capsys: Any) -> None:
    def fault(kind: str, body: Any) -> Any:
        text = prompt_text(body)
        if "rambling" in text:
            return reply('{"discourse": {"reason": "and so on', "length")()
        return "I like it." if "odd" in text or kind == "repair" else None

    data = tmp_path / "answers.jsonl"
    texts = ["a rambling essay", "an odd essay", "a good essay", "a fair essay"]
    data.write_text("".join(json.dumps({"prompt": "Dogs.", "response": text}) + "\n" for text in texts))
    out = tmp_path / "out.jsonl"
    with LLMServer(fault) as server:
        main(["score", str(data), "--judge", "openai/m", "--judge-api-base", server.url,
              "--cache-dir", str(tmp_path / "cache"), "--out", str(out)])  # fmt: skip
    said = capsys.readouterr().out
    assert "2 of 4 not judged: 1 cut off, 1 malformed, first failure: openai/m gave no usable answer" in said
    assert "and so on" in said
    rows = read_rows(out)
    assert [row["failure"] and row["failure"]["kind"] for row in rows] == ["cut", "parse", None, None]
    assert "the reply began: I like it." in rows[1]["failure"]["detail"]
    assert [row["reward"] is None for row in rows] == [True, True, False, False]
