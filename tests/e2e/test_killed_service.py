"""A service that is killed again and again while clients ask it for rewards."""

import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from mpo_lite.run_dir import RunDir
from tests.support.llm_server import LLMServer, completion_of, kind_of, prompt_text
from tests.support.served import free_port

CLIENTS, ANSWERS, GROUP = 4, 60, 4


def start(folder: Path, server: LLMServer, port: int) -> "subprocess.Popen[bytes]":
    flags = ["--goal", "Answer the question.", "--judge", "openai/j", "--judge-api-base", server.url]
    flags += ["--meta", "openai/m", "--meta-api-base", server.url, "--run-dir", str(folder / "run")]
    flags += ["--cache-dir", str(folder / "cache"), "--batch-prompts", "4", "--group-size", str(GROUP)]
    flags += ["--interval", "2", "--meta-samples", "2", "--no-use-gate", "-o", "strategy=samples"]
    flags += ["--port", str(port), "--no-token", "--group-wait", "5"]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "mpo_lite", "serve", *flags], stdout=log, stderr=subprocess.STDOUT
        )


def ask(url: str, client: int) -> list[tuple[float | None, int]]:
    """Sends groups one after the other, each until it is answered; gives rewards with their versions."""
    answered: list[tuple[float | None, int]] = []
    with httpx.Client(base_url=url, timeout=20) as http:
        for number in range(ANSWERS // GROUP):
            prompt = f"Question {client}-{number}?"
            answers = [{"prompt": prompt, "completion": f"Answer {row} to {prompt}"} for row in range(GROUP)]
            while True:
                try:
                    reply = http.post("/v1/rewards", json={"answers": answers, "whole_groups": True})
                    reply.raise_for_status()
                    break
                except httpx.HTTPError:
                    time.sleep(0.2)
            answered += [(row["reward"], row["version"]) for row in reply.json()["results"]]
    return answered


@pytest.mark.slow
def test_a_killed_service_loses_no_answer_and_pays_for_none_twice(tmp_path: Path) -> None:
    port, total = free_port(), CLIENTS * ANSWERS
    run = RunDir(tmp_path / "run")
    with LLMServer(delay=0.15) as server, ThreadPoolExecutor(CLIENTS) as pool:
        process = start(tmp_path, server, port)
        clients = [pool.submit(ask, f"http://127.0.0.1:{port}", client) for client in range(CLIENTS)]
        in_flight = 0
        for kill in (1, 2):
            while not run.rollouts.exists() or len(run.rows(run.rollouts)) < kill * total / 3:
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
            in_flight += CLIENTS * GROUP
            process = start(tmp_path, server, port)
        answered = [client.result() for client in clients]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, (tmp_path / "log").read_text()
    rows = run.rows(run.rollouts)
    assert [len(replies) for replies in answered] == [ANSWERS] * CLIENTS
    assert Counter(row["verdict"]["detail"] for row in rows if row["reward"] is None) == {}
    assert Counter(row["completion"] for row in rows).most_common(1)[0][1] == 1 and len(rows) == total
    asked = Counter(completion_of(body) for body in server.requests if kind_of(prompt_text(body)) == "judge")
    # Only what was under way when the service was killed is asked for a second time.
    assert sum(asked.values()) - len(asked) <= in_flight and max(asked.values()) <= 2
    for replies in answered:  # each client sees the rubric move forwards alone
        assert [version for _, version in replies] == sorted(version for _, version in replies)
    assert max(version for replies in answered for _, version in replies) >= 1
    batches = run.rows(run.metrics)
    assert [row["batch"] for row in batches] == list(range(1, len(batches) + 1))
    assert sum(row["rows"] for row in batches) == total
