"""The service over real HTTP: rewards, batches, versions, what a failed judgement becomes, restarts."""

import errno
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from mpo_lite.cli.main import main
from mpo_lite.errors import ConfigError, RunError
from mpo_lite.service import owner
from mpo_lite.service import server as server_module
from mpo_lite.service.server import Address
from tests.support.llm_server import LLMServer
from tests.support.served import service

BODY = {"answers": [{"prompt": "Q?", "completion": "A."}]}
ADDRESS = Address(group_wait_s=1.0)


@pytest.fixture
def models() -> Iterator[LLMServer]:
    with LLMServer() as server:
        yield server


def fails_on(word: str) -> Callable[[str, Any], str | None]:
    """Malformed verdicts on answers that hold a word, and no repair."""

    def fault(kind: str, body: Any) -> str | None:
        return "no verdict" if kind == "repair" or (kind == "judge" and word in json.dumps(body)) else None

    return fault


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    until = time.monotonic() + seconds
    while not (result := condition()) and time.monotonic() < until:
        time.sleep(0.05)
    assert result
    return result


def batch(number: int) -> list[tuple[str, str]]:
    """The answers of a batch: two to each of two prompts."""
    return [(f"Question {row // 2}?", f"Answer {number} {row} in words.") for row in range(4)]


def test_rewards_are_journalled_before_they_are_given_and_name_their_version(
    tmp_path: Path, models: LLMServer
) -> None:
    with service(tmp_path, models.url, interval=50) as served:
        reply = served.rewards(*batch(1))
        rows = served.run.rows(served.run.rollouts)
        assert [row["reward"] for row in rows] == reply["rewards"] and None not in reply["rewards"]
        assert reply["version"] == 0 and {result["batch"] for result in reply["results"]} == {1}
        again = served.rewards(*batch(1))
        assert again["rewards"] == reply["rewards"] and {row["batch"] for row in again["results"]} == {2}
        wait_for(lambda: len(served.run.rows(served.run.metrics)) == 2)
        assert served.status()["judge_calls"] == 4  # the second time, they come from the cache
        assert served.run.begun_by == "serve"


def test_the_rubric_changes_between_batches_alone(tmp_path: Path, models: LLMServer) -> None:
    with service(tmp_path, models.url) as served:
        first = served.rewards(*batch(1)[:3])  # the last answer of the second group is still to come
        assert served.status()["open_batches"] == [{"batch": 1, "version": 0, "answers": 3}]
        open_group = served.rewards(("Question 2?", "An answer in time."))
        assert open_group["results"][0]["batch"] == 2 and open_group["version"] == 0
        last = served.rewards(batch(1)[3])
        assert last["results"][0]["batch"] == 1 and first["version"] == last["version"] == 0
        wait_for(lambda: served.status()["version"] == 1)
        # The second batch began under v0, and stays with it.
        rest = served.rewards(("Question 2?", "One more."), ("Question 3?", "A."), ("Question 3?", "B."))
        assert {(row["batch"], row["version"]) for row in rest["results"]} == {(2, 0)}
        assert {(row["batch"], row["version"]) for row in served.rewards(*batch(3))["results"]} == {(3, 1)}
        rows = wait_for(lambda: (rows := served.run.rows(served.run.metrics))[2:] and rows)
        assert [(row["batch"], row["version"], row["rows"]) for row in rows] == [
            (1, 0, 4),
            (2, 0, 4),
            (3, 1, 4),
        ]


def test_a_client_may_say_where_its_batches_end(tmp_path: Path, models: LLMServer) -> None:
    with service(tmp_path, models.url, interval=50) as served:
        for step in (7, 8):
            served.rewards(*batch(step)[:2], step=step)
        assert served.post("/v1/batch/close", {}).json() == {"batch": 2}
        assert served.post("/v1/batch/close", {}).json() == {"batch": None}
        rows = wait_for(lambda: (rows := served.run.rows(served.run.metrics))[1:] and rows)
        assert [row["rows"] for row in rows] == [2, 2]


def test_a_failed_judgement_is_none_or_its_groups_mean_and_never_a_score(
    tmp_path: Path, models: LLMServer
) -> None:
    models.fault = fails_on("unjudgeable")
    with service(tmp_path, models.url, group_size=3, interval=50) as served:
        bad, good, other = ("Q?", "unjudgeable text"), ("Q?", "Good one."), ("Q?", "Another good one.")
        whole = served.rewards(bad, good, other)
        assert whole["rewards"][0] is None and whole["results"][0]["failure"] == "parse"
        mean = sum(whole["rewards"][1:]) / 2
        with ThreadPoolExecutor() as pool:
            body = {"answers": [{"prompt": "Q?", "completion": bad[1]}], "fill": True}
            waiting = pool.submit(served.post, "/v1/rewards", body)
            time.sleep(0.3)
            assert not waiting.done()  # until its group is judged
            served.rewards(good)
            served.rewards(other)
            filled = waiting.result().json()
        assert filled["rewards"] == [pytest.approx(mean)] and filled["results"][0]["filled"]
        assert [row["reward"] for row in served.run.rows(served.run.rollouts)].count(None) == 2
        wait_for(lambda: [row["filled"] for row in served.run.rows(served.run.metrics)] == [1])


def test_a_group_without_any_verdict_earns_what_others_earned_or_is_sent_back(
    tmp_path: Path, models: LLMServer
) -> None:
    models.fault = fails_on("unjudgeable")
    with service(tmp_path, models.url, group_size=2, interval=50) as served:
        bad = {"query": ["Q?unjudgeable text"], "prompts": ["Q?"], "labels": [None]}
        refused = served.post("/openrlhf", bad)
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
        earned = served.rewards(("R?", "Good one."))["rewards"]
        assert served.post("/openrlhf", bad).json()["rewards"] == earned


def test_each_engine_is_answered_in_its_own_form(tmp_path: Path, models: LLMServer) -> None:
    prompt = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    )
    with service(tmp_path, models.url, interval=50) as served:
        reward = served.rewards(("Why?", "Because."))["rewards"][0]
        openrlhf = {"query": [f"{prompt}Because.<|im_end|>"], "prompts": [prompt], "labels": ["because"]}
        extra = {"mpo_version": [0], "mpo_filled": [0]}
        assert served.post("/openrlhf", openrlhf).json() == {
            "rewards": [reward], "scores": [reward], "extra_logs": extra,
        }  # fmt: skip
        slime = {"prompt": [{"role": "user", "content": "Why?"}], "response": "Because.", "label": None}
        assert served.post("/slime", slime).json() == reward
        assert served.post("/slime?key=score", slime).json() == {"score": reward, "version": 0}
        message = {"type": "message", "content": [{"type": "output_text", "text": "Because."}]}
        row = {
            "responses_create_params": {"input": [{"role": "user", "content": "Why?"}]},
            "response": {"output": [{"type": "reasoning"}, message]},
            "own_field": 3,
        }
        verified = served.post("/verify", row).json()
        assert verified == {**row, "reward": reward, "mpo_version": 0, "mpo_filled": False}
        texts = {(row["prompt"], row["completion"]) for row in served.run.rows(served.run.rollouts)}
        assert texts == {("Why?", "Because.")}


def test_a_reference_that_a_client_sends_is_shown_and_kept(tmp_path: Path, models: LLMServer) -> None:
    with service(tmp_path, models.url, goal=None, task="math", interval=50) as served:
        label = json.dumps({"prompt": "1 + 1?", "reference": "The sum is 2."})
        query = {"query": ["x" + "The sum is 3. " * 12], "prompts": ["x"], "labels": [label]}
        served.post("/openrlhf", query)
        assert any("The sum is 2." in text for text in models.prompts("plan") + models.prompts("judge"))
    with service(tmp_path, models.url, goal=None, task="math", interval=50) as served:
        served.rewards(("1 + 1?", "It must be 4 then. " * 8))
        assert sum("The sum is 2." in text for text in models.prompts("judge")) == 2


def test_a_request_that_is_sent_twice_counts_once(tmp_path: Path, models: LLMServer) -> None:
    with service(tmp_path, models.url, interval=50) as served:
        replies = [served.rewards(("Q?", "An answer."), id="r1") for _ in range(2)]
        assert replies[0] == replies[1] and served.status()["open_batches"][0]["answers"] == 1


def test_a_group_is_compared_once_it_is_whole(tmp_path: Path, models: LLMServer) -> None:
    with service(tmp_path, models.url, judge_mode="groupwise", interval=50) as served:
        with ThreadPoolExecutor() as pool:
            one = pool.submit(served.rewards, ("Q?", "First."))
            time.sleep(0.3)
            assert not one.done()
            two = served.rewards(("Q?", "Second."))
        assert len(models.prompts("group")) == 1
        assert None not in [*one.result()["rewards"], *two["rewards"]]
        alone = served.rewards(("R?", "Nobody joins me."))  # after group_wait_s
        assert alone["rewards"] != [None] and len(models.prompts("group")) == 1


def test_requests_without_the_token_are_refused(tmp_path: Path, models: LLMServer) -> None:
    with service(tmp_path, models.url) as served:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": served.token[:-1]}):
            refused = served.http.build_request("POST", "/v1/rewards", json=BODY)
            refused.headers.pop("authorization")
            refused.headers.update(headers)
            assert served.http.send(refused).status_code == 401
        plain = served.http.build_request("POST", f"/v1/rewards?token={served.token}", json=BODY)
        del plain.headers["authorization"]
        assert served.http.send(plain).status_code == 200
        assert served.http.get("/healthz", headers={"authorization": ""}).json() == {"ok": True}
        assert (served.run.path / "token").stat().st_mode & 0o077 == 0
        assert "mpo_answers_total" in served.http.get("/metrics").text
        assert "/v1/rewards" in served.http.get("/openapi.json").json()["paths"]
        assert "criteria:" in served.http.get("/v1/rubric").text


def test_large_and_slow_bodies_are_refused(tmp_path: Path, models: LLMServer) -> None:
    address = replace(ADDRESS, max_mb=0.1, body_timeout_s=0.5)
    with service(tmp_path, models.url, address) as served:
        body = {"answers": [{"prompt": "Q?", "completion": "a" * 200_000}]}
        assert served.post("/v1/rewards", body).status_code == 413
        chunks = (b"a" * 60_000 for _ in range(3))
        assert served.http.post("/v1/rewards", content=chunks).status_code == 413
        host, port = served.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as slow:
            head = (
                f"POST /v1/rewards?token={served.token} HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{{"
            )
            slow.sendall(head.encode())
            assert b" 408 " in slow.recv(1000)
        malformed = served.post("/v1/rewards", {"answers": []})
        assert malformed.status_code == 422
        assert served.rewards(("Q?", "Fine."))["rewards"] != [None]


def test_a_cap_is_answered_with_its_reason(tmp_path: Path, models: LLMServer) -> None:
    with service(tmp_path, models.url, max_calls=4, interval=50) as served:
        assert None not in served.rewards(("Q?", "One."), ("Q?", "Two."))["rewards"]
        replies = [served.post("/v1/rewards", {"answers": [{"prompt": "R?", "completion": f"{n}."}]})
                   for n in range(3)]  # fmt: skip
        assert replies[-1].status_code == 429 and "cap" in replies[-1].json()["error"]
        assert served.rewards(("Q?", "One."))["rewards"] != [None]  # what is paid for is still given


def test_a_judge_that_is_down_makes_clients_wait(tmp_path: Path, models: LLMServer) -> None:
    with service(tmp_path, models.url, max_judge_failures=0.05, interval=50) as served:
        models.fault = fails_on("Question")
        lost = [served.post("/v1/rewards", {"answers": [
            {"prompt": prompt, "completion": completion} for prompt, completion in batch(number)]})
            for number in range(3)]  # fmt: skip
        assert lost[0].json()["rewards"] == [None] * 4 and lost[-1].status_code == 503
        assert served.http.get("/healthz").status_code == 503 and "malformed" in served.status()["problem"]
        models.fault = lambda kind, body: None
        wait_for(lambda: served.post("/v1/rewards", {"answers": [
            {"prompt": "Q?", "completion": "A."}]}).status_code == 200)  # fmt: skip
        assert served.http.get("/healthz").status_code == 200


@pytest.mark.parametrize("mode", ["pointwise", "groupwise"])
def test_what_nobody_could_judge_is_judged_when_it_is_sent_again(
    tmp_path: Path, models: LLMServer, mode: str
) -> None:
    def rejects_the_key(kind: str, body: Any) -> web.Response:
        return web.json_response({"error": {"message": "bad key", "type": "auth"}}, status=401)

    with service(tmp_path, models.url, judge_mode=mode, interval=50, breaker_pause=0.1) as served:
        answers = [{"prompt": prompt, "completion": completion} for prompt, completion in batch(1)]
        models.fault = rejects_the_key
        for _ in range(2):
            assert served.post("/v1/rewards", {"answers": answers}).status_code == 503
            time.sleep(0.2)
        models.fault = lambda kind, body: None
        reply = served.rewards(*batch(1))
        assert None not in reply["rewards"] and {row["batch"] for row in reply["results"]} == {1}
        rows = wait_for(lambda: served.run.rows(served.run.metrics))
        assert [(row["batch"], row["rows"]) for row in rows] == [(1, 4)]


def test_a_stop_does_not_wait_forever(
    tmp_path: Path, models: LLMServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server_module, "STOP_WAIT_S", 1)
    with ThreadPoolExecutor() as pool:
        with service(tmp_path, models.url, judge_mode="groupwise", interval=50) as served:
            address = f"{served.url}/v1/rewards?token={served.token}"
            waiting = pool.submit(httpx.post, address, json=BODY, timeout=30)  # for the rest of its group
            wait_for(lambda: served.status()["in_flight"] == 1)
            models.delay = 3
            wait_for(lambda: models.prompts("judge"))
        assert waiting.result().status_code == 503
    assert not [record for record in caplog.records if record.exc_info]


def test_a_restart_goes_on_where_the_run_was(tmp_path: Path, models: LLMServer) -> None:
    with service(tmp_path, models.url, interval=1) as served:
        served.rewards(*batch(1))
        wait_for(lambda: served.status()["version"] == 1)
        before = served.rewards(*batch(2)[:3])
        calls = served.status()["judge_calls"]
    with service(tmp_path, models.url, interval=1) as served:
        status = served.status()
        assert (status["version"], status["batch"]) == (1, 1)
        assert status["open_batches"] == [{"batch": 2, "version": 1, "answers": 3}]
        # A client that was not answered asks again: the same answers, the same rewards, nothing paid.
        again = served.rewards(*batch(2))
        assert again["rewards"][:3] == before["rewards"] and {row["batch"] for row in again["results"]} == {2}
        assert served.status()["judge_calls"] == calls + 1
        rows = wait_for(lambda: (rows := served.run.rows(served.run.metrics))[1:] and rows)
        assert [(row["batch"], row["rows"]) for row in rows] == [(1, 4), (2, 4)]


def test_a_service_needs_its_own_run_and_a_free_port(tmp_path: Path, models: LLMServer) -> None:
    with service(tmp_path, models.url) as served:
        port = int(served.url.rsplit(":", 1)[1])
        from mpo_lite.config_sources import load_config
        from mpo_lite.service.serving import serve

        config = load_config(given={"goal": "Be good.", "judge": "openai/j"}, environ={})
        with pytest.raises(ConfigError, match=rf"127.0.0.1:{port}: cannot listen there"):
            serve(config, Address(port=port))
        with pytest.raises(ConfigError, match="another process"), service(tmp_path, models.url, max_calls=9):
            pass
        assert "max_calls: 9" not in served.run.config_file.read_text()  # it is in use


def test_a_run_goes_on_as_it_was_begun(
    tmp_path: Path, models: LLMServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with service(tmp_path, models.url) as served:
        served.rewards(*batch(1))
    changed = pytest.raises(ConfigError, match="group_size cannot change in a run")
    with changed, service(tmp_path, models.url, group_size=3):
        pass
    with service(tmp_path, models.url, max_calls=100) as served:  # caps may
        assert served.rewards(*batch(2))["rewards"] != [None] * 4
        assert "max_calls: 100" in served.run.config_file.read_text()
    main(["runs", str(tmp_path)])
    listed = capsys.readouterr().out
    assert "stopped" in listed and "/1000" not in listed
    for command in (["resume"], ["export", "--merge", str(tmp_path / "merged")]):
        with pytest.raises(SystemExit):
            main([*command, str(tmp_path / "run")])
        assert "a service" in capsys.readouterr().err


def test_a_token_that_was_lost_does_not_open_the_service(tmp_path: Path, models: LLMServer) -> None:
    with service(tmp_path, models.url):
        pass
    (tmp_path / "run" / "token").write_text("")
    with pytest.raises(RunError, match="delete it"), service(tmp_path, models.url):
        pass


def test_a_full_disk_stops_the_service_and_gives_no_reward(
    tmp_path: Path, models: LLMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, rows: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    stopped = pytest.raises(OSError, match="No space left")
    with stopped, service(tmp_path, models.url, interval=50) as served:
        monkeypatch.setattr(owner, "journal", fail)
        refused = served.post("/v1/rewards", BODY)
        assert refused.status_code == 503 and "No space left" in refused.json()["error"]


def test_a_gate_without_prompts_says_why_the_rubric_stays(tmp_path: Path, models: LLMServer) -> None:
    with service(tmp_path, models.url, use_gate=True, interval=1) as served:
        served.rewards(*batch(1))
        wait_for(lambda: any("4 different prompts" in row.get("text", "") for _, row in served.events))


def test_the_first_answers_are_what_the_gate_rests_on(tmp_path: Path, models: LLMServer) -> None:
    settings: dict[str, Any] = {"use_gate": True, "batch_prompts": 4, "interval": 2, "gate": {"prompts": 6}}
    with service(tmp_path, models.url, **settings) as served:
        answers = [(f"Question {row}?", f"Answer {row} of some words.") for row in range(8)]
        served.rewards(*answers[:4], whole_groups=True)
        served.post("/v1/batch/close", {})
        served.rewards(*answers[4:], whole_groups=True)
        served.post("/v1/batch/close", {})
        rows = wait_for(lambda: served.run.rows(served.run.anchor))
        assert [(row["prompt"], row["completion"]) for row in rows] == answers[:6]


def test_a_malformed_reply_of_the_judges_server_costs_no_client(tmp_path: Path, models: LLMServer) -> None:
    models.fault = lambda kind, body: web.Response(status=500) if kind == "judge" else None
    with service(tmp_path, models.url, interval=50, call_timeout=2.0) as served:
        reply = served.rewards(("Q?", "A."))
        assert reply["rewards"] == [None] and reply["results"][0]["failure"] == "transport"
