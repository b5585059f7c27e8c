"""Rewards of a batch: rules, groups, breaker, journal. The judge is a local server."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from mpo_lite.errors import ConfigError, JudgeDown
from mpo_lite.jsonl import read_rows
from mpo_lite.judge.base import Sample
from mpo_lite.loop.prefetch import Prefetcher
from mpo_lite.loop.reward import score_batch
from mpo_lite.loop.session import Session
from mpo_lite.types import Completion
from tests.support.llm_server import LLMServer, completion_of, openai_reply, prompt_text

GROUP = 4


pytestmark = pytest.mark.usefixtures("quick_retries")


class HangingOn(LLMServer):
    """Never answers for completions that hold a word."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self.word = word

    async def _openai(self, request: web.Request) -> web.Response:
        if self.word in completion_of(await request.json()):
            await asyncio.sleep(60)
        return await super()._openai(request)


class OneAtATime(LLMServer):
    """Answers one call after the other."""

    gate = asyncio.Lock()

    async def _openai(self, request: web.Request) -> web.Response:
        async with self.gate:
            return await super()._openai(request)


def batch(groups: int = 4, mark: Callable[[int], str] = lambda row: "") -> list[Sample]:
    return [Sample(f"prompt {row // GROUP}", f"answer {row} {mark(row)}") for row in range(groups * GROUP)]


def failing_on(mark: str) -> Callable[[str, Any], Any]:
    return lambda kind, body: "no JSON" if kind == "repair" or mark in completion_of(body) else None


def test_failed_judgements_change_no_other_reward(open_session: Callable[..., Session]) -> None:
    samples = batch(mark=lambda row: "FAILS" if row in (0, 5) else "")
    with LLMServer() as server:
        healthy = [rollout.reward for rollout in score_batch(open_session(server), samples, GROUP)]
    with LLMServer(failing_on("FAILS")) as server:
        session = open_session(server, judge="openai/other")  # another model: nothing from the cache
        rollouts = score_batch(session, samples, GROUP)
    expected = [None if row in (0, 5) else reward for row, reward in enumerate(healthy)]
    assert [rollout.reward for rollout in rollouts] == expected
    assert None not in healthy
    assert rollouts[0].verdict.failure == "parse"
    assert session.state.metrics["judge_failures"] == 2


def test_too_many_failures_pause_try_again_and_stop(open_session: Callable[..., Session]) -> None:
    with LLMServer(failing_on("FAILS")) as server:
        session = open_session(server)
        samples = batch(mark=lambda row: "FAILS" if row % 2 else "")
        with pytest.raises(JudgeDown, match=r"8 of 16 not judged: 8 malformed.*--max-judge-failures.*doctor"):
            score_batch(session, samples, GROUP)
        asked = [completion_of(body) for body in server.requests if "FAILS" in completion_of(body)]
        assert len(asked) == 2 * 2 * 8  # each twice, and all of that once more after the pause
    assert (session.state.batch, read_rows(session.run.rollouts)) == (0, [])


def test_a_stop_counts_the_answers_that_were_sent_to_the_judge(open_session: Callable[..., Session]) -> None:
    """The breaker's share is of the batch, of which a rule decides the empty answers."""
    with LLMServer(failing_on("FAILS")) as server:
        session = open_session(server)
        samples = [replace(one, completion="" if row % 2 else "FAILS") for row, one in enumerate(batch())]
        samples[0] = replace(samples[0], completion="An answer.")
        with pytest.raises(JudgeDown, match=r"^7 of 8 not judged: 7 malformed"):
            score_batch(session, samples, GROUP)
        few = [one if row == 2 else replace(one, completion="") for row, one in enumerate(samples)]
        assert [rollout.verdict.failure for rollout in score_batch(session, few, GROUP)][2] == "parse"


def test_a_judge_that_comes_back_during_the_pause_is_used(open_session: Callable[..., Session]) -> None:
    failures = iter([True] * 24)  # the first three attempts of eight rows
    with LLMServer(lambda kind, body: "no JSON" if next(failures, False) else None) as server:
        rewards = [r.reward for r in score_batch(open_session(server), batch(groups=2), GROUP)]
    assert None not in rewards


def test_a_batch_too_small_to_tolerate_failures_stops_when_all_of_it_failed(
    open_session: Callable[..., Session],
) -> None:
    pair = [Sample("prompt", f"answer {row} {mark}") for row, mark in enumerate(("FAILS", ""))]
    with LLMServer(failing_on("FAILS")) as server:
        session = open_session(server)
        assert [rollout.verdict.failure for rollout in score_batch(session, pair, 2)] == ["parse", None]
        with pytest.raises(JudgeDown, match="1 of 1 not judged: 1 malformed"):
            score_batch(session, pair[:1], 1)
        everything = open_session(server, max_judge_failures=1.0)
        assert score_batch(everything, pair[:1], 1)[0].reward is None


def test_a_stop_says_what_the_judge_answered(open_session: Callable[..., Session]) -> None:
    answer = json.dumps({"discourse": {"reason": "Nice.", "level": "high"}})
    with LLMServer(lambda kind, body: answer) as server:
        session = open_session(server)
        with pytest.raises(JudgeDown) as caught:
            score_batch(session, batch(), GROUP)
        said = str(caught.value)
        assert "16 of 16 not judged: 16 malformed" in said
        assert (
            "the first: openai/m gave no usable answer: discourse: the level must be a whole number" in said
        )
        assert said.endswith(f"the reply began: {answer}")
    rows = [json.loads(line) for line in (session.run.path / "calls.jsonl").read_text().splitlines() if line]
    assert all("discourse: the level must" in row["reason"] and row["reply"] == answer for row in rows)


def test_refusals_are_counted_apart_and_do_not_open_the_breaker(open_session: Callable[..., Session]) -> None:
    def refuse(kind: str, body: Any) -> Any:
        refused = completion_of(body).endswith("REFUSED")
        return web.json_response(openai_reply(None, refusal="I cannot.")) if refused else None

    with LLMServer(refuse) as server:
        session = open_session(server)
        rollouts = score_batch(session, batch(mark=lambda row: "REFUSED" if row % 2 else ""), GROUP)
    assert [rollout.reward is None for rollout in rollouts] == [row % 2 == 1 for row in range(16)]
    assert (session.state.metrics["judge_failures"], session.state.metrics["refusals"]) == (8, 8)


@pytest.mark.slow
def test_time_outs_open_the_breaker_and_are_counted_by_kind(open_session: Callable[..., Session]) -> None:
    with HangingOn("HANGS") as server:
        session = open_session(server, call_timeout=0.3)
        samples = batch(mark=lambda row: "HANGS" if row in (0, 5) else "")
        score_batch(session, samples, GROUP)
        assert (session.state.metrics["judge_failures"], session.state.metrics["failures"]) == (
            2,
            {"timeout": 2},
        )
        samples = batch(mark=lambda row: "HANGS again" if row % 2 else "")
        with pytest.raises(JudgeDown, match=r"8 of 16 not judged: 8 timed out, more .*lower --concurrency"):
            score_batch(session, samples, GROUP)


@pytest.mark.slow
def test_a_batch_waits_for_a_judge_that_is_slow_but_answers(open_session: Callable[..., Session]) -> None:
    with OneAtATime(delay=0.15) as server:
        score_batch(open_session(server), batch(groups=1), GROUP)  # the import of LiteLLM takes seconds
        session = open_session(server, judge="openai/other", verdict_timeout=1.2, batch_timeout=1.2)
        rewards = [rollout.reward for rollout in score_batch(session, batch(), GROUP)]
        assert None not in rewards and session.state.metrics["judge_seconds"] > 16 * 0.15


@pytest.mark.slow
def test_a_judge_that_has_stopped_answering_opens_the_breaker(open_session: Callable[..., Session]) -> None:
    with HangingOn("answer") as server:
        session = open_session(server, verdict_timeout=60, batch_timeout=1.0)
        with pytest.raises(JudgeDown, match="16 of 16 not judged: 16 timed out"):
            score_batch(session, batch(), GROUP)


def test_empty_answers_earn_zero_without_a_call(open_session: Callable[..., Session]) -> None:
    samples = [Sample("prompt", text) for text in ("", " \n", ":", "an answer")]
    with LLMServer() as server:
        rollouts = score_batch(open_session(server), samples, GROUP)
        assert [completion_of(body) for body in server.requests] == ["an answer"]
    assert [(r.reward, r.verdict.source) for r in rollouts[:3]] == [(0.0, "rule")] * 3


def test_a_wrong_key_stops_at_once(open_session: Callable[..., Session]) -> None:
    with LLMServer(key="right") as server:
        session = open_session(server)
        with pytest.raises(JudgeDown, match=r"no key was given \(401\); set MPO_JUDGE_API_KEY"):
            score_batch(session, batch(), GROUP)


def test_outcomes_are_journalled_before_use_and_taken_over_on_resume(
    open_session: Callable[..., Session],
) -> None:
    samples = batch(mark=lambda row: "FAILS" if row == 3 else "")
    with LLMServer(failing_on("FAILS")) as server:
        first = score_batch(open_session(server), samples, GROUP)
        asked = len(server.requests)
        resumed = open_session(server)
        resumed.resume(0, 0)
        server.fault = lambda kind, body: None  # the failed judgement would succeed now
        again = score_batch(resumed, samples, GROUP)
        assert len(server.requests) == asked
    assert again == first
    assert again[3].reward is None
    assert len(read_rows(resumed.run.rollouts)) == len(samples)


def test_a_changed_answer_is_judged_anew_on_resume(open_session: Callable[..., Session]) -> None:
    samples = batch(groups=1)
    with LLMServer() as server:
        score_batch(open_session(server), samples, GROUP)
        asked = len(server.requests)
        resumed = open_session(server)
        resumed.resume(0, 0)
        score_batch(resumed, [*samples[:-1], Sample(samples[-1].prompt, "another answer")], GROUP)
        assert len(server.requests) == asked + 1
    assert resumed.run.read_rollouts()[-1].completion == "another answer"


def test_a_cap_in_usd_is_refused_for_a_model_without_a_price(open_session: Callable[..., Session]) -> None:
    with LLMServer() as server:
        with pytest.raises(ConfigError, match=r"is unknown.*judge_price.*--max-calls"):
            open_session(server, max_usd=1.0)
        open_session(server, max_usd=1.0, judge_price=[0.1, 0.2])


def test_the_fallback_takes_over_for_good_and_judges_the_whole_batch(
    open_session: Callable[..., Session],
) -> None:
    def fault(kind: str, body: Any) -> str | None:
        fails = kind == "repair" or "FAILS" in prompt_text(body)
        return "no JSON" if body["model"] == "m" and fails else None

    with LLMServer(fault) as server:
        fallback = {"model": "openai/second", "api_base": server.url}
        session = open_session(server, judge_fallback=fallback)
        assert score_batch(session, batch(), GROUP)[0].verdict.judge == "openai/m"
        samples = batch(mark=lambda row: "FAILS" if row % 2 else "")
        second = score_batch(session, samples, GROUP)
        assert {rollout.verdict.judge for rollout in second} == {"openai/second"}
        assert None not in [rollout.reward for rollout in second]
        assert session.state.metrics["judge"] == "openai/second"
        # A run resumed from before goes the same way, and does not ask the first judge again.
        asked = len(server.requests)
        resumed = open_session(server, judge_fallback=fallback)
        resumed.resume(1, 0)
        assert score_batch(resumed, samples, GROUP) == second
        assert resumed.models.fell_back and len(server.requests) == asked


def test_the_fallback_takes_over_where_the_judge_refuses_for_good(
    open_session: Callable[..., Session],
) -> None:
    def fault(kind: str, body: Any) -> Any:
        return web.json_response({"error": {"message": "gone"}}, status=404) if body["model"] == "m" else None

    with LLMServer(fault) as server:
        session = open_session(server, judge_fallback={"model": "openai/second", "api_base": server.url})
        assert None not in [rollout.reward for rollout in score_batch(session, batch(), GROUP)]
        server.fault = lambda kind, body: web.json_response({"error": {"message": "gone"}}, status=404)
        with pytest.raises(JudgeDown, match="openai/second"):
            score_batch(session, batch(groups=1, mark=lambda row: "new"), GROUP)


def test_a_cap_that_comes_near_is_said_once(open_session: Callable[..., Session]) -> None:
    with LLMServer() as server:
        notes: list[str] = []
        session = open_session(server, lambda kind, row: notes.append(row["text"]), max_calls=18)
        score_batch(session, batch(), GROUP)
        score_batch(session, batch(), GROUP)  # from the cache
        assert notes == ["89% of --max-calls 18 spent; the run stops at the cap"]
        lower = open_session(server, max_calls=4)  # a cap below what is spent stops the run: no warning
        assert lower.models.client.budget.warnings() == []


def test_what_a_second_process_spent_counts_when_one_goes_on(open_session: Callable[..., Session]) -> None:
    with LLMServer() as server:
        first = open_session(server)
        score_batch(first, batch(), GROUP)
        spent = first.spend()["judge_calls"]
        first.run.ledger().rename(first.run.ledger(1))
        again = open_session(server)
        assert again.spend()["judge_calls"] == spent == 16
        score_batch(again, batch(mark=lambda row: "anew"), GROUP)
        assert len(read_rows(again.run.ledger())) == 16  # its own account; the other's is left as it is
        assert len(read_rows(again.run.ledger(1))) == spent


def test_judgements_begun_by_a_judge_that_was_replaced_are_not_used(
    open_session: Callable[..., Session],
) -> None:
    """A resumed run whose journal tells that the fallback judged: what began before it is known goes."""
    with LLMServer() as primary, LLMServer() as other:
        fallback = {"model": "openai/other", "api_base": other.url}
        session = open_session(primary, judge_fallback=fallback)
        session.models.fell_back = True
        score_batch(session, batch(), GROUP)
        again = open_session(primary, judge_fallback=fallback)
        again.resume(0, 0)
        fresh = [*batch()[:8], *batch(mark=lambda row: "anew")[8:]]
        early = Prefetcher(again)
        early.start_batch([sample.prompt for sample in fresh], GROUP)
        for row, sample in enumerate(fresh):
            early.add_completion(row, Completion(sample.completion, False))
        rollouts = score_batch(again, fresh, GROUP, early.take_pending())
        assert {rollout.verdict.judge for rollout in rollouts} == {"openai/other"}
