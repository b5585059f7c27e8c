"""Other engines' own client code against a served judge: right rewards, right versions, none invented."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from mpo_lite.integrations.client import Answer, RewardClient, Scored
from mpo_lite.sandbox.data import prompts
from tests.engines import stubs
from tests.support.llm_server import Body, LLMServer, completion_of

stubs.install()

from tests.engines.clients import ENGINES, Ask, Reward, Service  # noqa: E402

ROOT = Path(__file__).parents[2]
READY_S = 120.0
BATCHES = 20
"""Batches to a meta step: the rubric stays as it is during the tests."""
SIZE = 5
PROMPTS = [row["prompt"] for row in prompts("train")]
TEXTS = (
    "i think that {0} are good . people need {0} because they bring trust . in the end {0} are useful .",
    "{0} are good .",
    "in short {0} help , for example at work . one reason is that {0} give joy . so {0} are useful .",
    "no idea",
    "i like {0} since work goes better with them . many keep {0} . in the end {0} are useful .",
)


def group_of(prompt: str) -> list[str]:
    """Answers of different quality."""
    return [text.format(prompt.split()[-2]) for text in TEXTS]


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[Service]:
    """Starts ``mpo-lite serve`` in the main environment."""
    python = os.environ["TEST_SERVICE_PYTHON"]
    command = [python, "-m", "mpo_lite", "serve", "--port", "0", "--run-dir", str(folder / "run"), *flags]
    command += ["--group-size", str(SIZE), "--batch-prompts", "1", "-o", f"cache_dir={folder / 'cache'}"]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OPENAI_API_KEY": "none"}
    log = folder / "service.log"
    with log.open("w") as out:
        service = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environ, cwd=folder)
    try:
        url = ""
        deadline = time.monotonic() + READY_S
        while not url:
            if service.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the service did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.1)
            url = log.read_text().partition("serving at ")[2].partition(";")[0]
        yield Service(url, (folder / "run" / "token").read_text())
    finally:
        service.terminate()
        service.wait(30)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The sandbox's judge, by a rubric that has been rewritten once."""
    folder = tmp_path_factory.mktemp("sandbox")
    flags = ("--task", "sandbox", "--judge", "sandbox", "--meta", "sandbox")
    with serving(
        folder, *flags, "--no-use-gate", "--schedule", "interval", "--interval", str(BATCHES)
    ) as service:
        headers = {"authorization": f"Bearer {service.token}"}
        body = [answer for prompt in PROMPTS[:BATCHES] for answer in answers_to(prompt)]
        request = {"answers": body, "whole_groups": True}
        httpx.post(f"{service.url}/v1/rewards", json=request, headers=headers, timeout=60).raise_for_status()
        deadline = time.monotonic() + 60
        while int(httpx.get(f"{service.url}/v1/rubric", headers=headers).headers["x-mpo-version"]) < 1:
            assert time.monotonic() < deadline, "no new rubric"
            time.sleep(0.1)
        yield service


def cannot_judge_one_of_five(kind: str, body: Body) -> str | None:
    return "I would rather not say." if kind == "repair" or completion_of(body) == TEXTS[3] else None


def rejects_the_key(kind: str, body: Body) -> web.Response:
    return web.json_response({"error": {"message": "bad key", "type": "auth"}}, status=401)


@pytest.fixture(scope="module")
def judge() -> Iterator[LLMServer]:
    with LLMServer(cannot_judge_one_of_five) as server:
        yield server


@pytest.fixture(scope="module")
def faulty(judge: LLMServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose judge fails on one answer of five."""
    flags = ("--task", "sandbox", "--judge", "openai/x", "--judge-api-base", judge.url, "--baseline", "iter0")
    settings = ("--max-judge-failures", "1", "-o", "breaker_pause=1")
    with serving(tmp_path_factory.mktemp("faulty"), *flags, *settings) as service:
        yield service


def answers_to(prompt: str) -> list[dict[str, str]]:
    return [{"prompt": prompt, "completion": text} for text in group_of(prompt)]


def plain(service: Service, prompt: str) -> list[Scored]:
    """What ``POST /v1/rewards`` gives."""
    answers = [Answer(prompt, text) for text in group_of(prompt)]
    return RewardClient(service.url).score(answers, whole_groups=True)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Ask, str]:
    """An engine, and a prompt of its own."""
    return ENGINES[request.param], PROMPTS[BATCHES + list(ENGINES).index(request.param)]


def authorise(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPO_SERVE_URL", service.url)
    monkeypatch.setenv("MPO_SERVE_TOKEN", service.token)


def values(rewards: Sequence[float | None]) -> list[float | None]:
    """Engines keep rewards in 32 bits."""
    return [None if reward is None else pytest.approx(reward, abs=1e-6) for reward in rewards]


def test_the_rewards_are_the_services(
    engine: tuple[Ask, str], sandbox: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, prompt = engine
    authorise(sandbox, monkeypatch)
    rewards = ask(sandbox, prompt, group_of(prompt))
    expected = plain(sandbox, prompt)
    assert [reward.value for reward in rewards] == values([scored.reward for scored in expected])
    assert len({scored.reward for scored in expected}) > 1
    assert {scored.version for scored in expected} == {1}
    assert {reward.version for reward in rewards} <= {1, None}
    assert not any(reward.filled for reward in rewards)


def test_no_failed_judgement_becomes_a_score(
    engine: tuple[Ask, str], faulty: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, prompt = engine
    authorise(faulty, monkeypatch)
    rewards = ask(faulty, prompt, group_of(prompt))
    check_faulty(rewards, plain(faulty, prompt))


def check_faulty(rewards: Sequence[Reward], scored: Sequence[Scored]) -> None:
    """What could be judged is the service's reward; the rest is left out, or its group's mean."""
    expected = [result.reward for result in scored]
    judged = [reward for reward in expected if reward is not None]
    assert len(judged) == SIZE - 1
    if None not in [reward.value for reward in rewards]:
        expected = [sum(judged) / len(judged) if reward is None else reward for reward in expected]
        if rewards[0].filled is not None:
            assert sum(bool(reward.filled) for reward in rewards) == 1
    assert [reward.value for reward in rewards] == values(expected)


@pytest.mark.parametrize("name", ["openrlhf", "slime", "verl_manager", "swift"])
def test_an_outage_of_the_judge_is_waited_out(
    name: str, judge: LLMServer, faulty: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the service for engines that give up after some seconds, by our client for the others."""
    authorise(faulty, monkeypatch)
    monkeypatch.setattr(judge, "fault", rejects_the_key)
    recovery = threading.Timer(7, setattr, (judge, "fault", cannot_judge_one_of_five))
    recovery.start()
    prompt = PROMPTS[BATCHES + 20 + list(ENGINES).index(name)]
    rewards = ENGINES[name](faulty, prompt, group_of(prompt))
    recovery.join()
    check_faulty(rewards, plain(faulty, prompt))


def test_the_plain_client_fills_on_request(faulty: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    authorise(faulty, monkeypatch)
    prompt = PROMPTS[BATCHES + len(ENGINES)]
    answers = [Answer(prompt, text) for text in group_of(prompt)]
    scored = RewardClient(faulty.url).score(answers, whole_groups=True, fill=True)
    judged = [result.reward for result in scored if not result.filled and result.reward is not None]
    (filled,) = [result for result in scored if result.filled]
    assert filled.reward == pytest.approx(sum(judged) / len(judged))
    assert filled.failure


@pytest.mark.parametrize("name", ENGINES)
def test_the_client_is_the_engines_own(name: str) -> None:
    """Nothing here stands for the code that asks."""
    packages = {"openrlhf": "openrlhf", "verl_function": "verl", "swift": "swift", "verifiers": "verifiers"}
    if package := packages.get(name):
        assert ".venv-engines" in str(sys.modules[package].__file__)
