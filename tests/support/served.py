"""A service for tests: in a thread of this process, on a free port, judged by a local model server."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from mpo_lite.config_sources import load_config
from mpo_lite.jsonl import JsonRow
from mpo_lite.run_dir import RunDir
from mpo_lite.service.server import Address
from mpo_lite.service.serving import serve

SETTINGS: dict[str, Any] = {
    "goal": "Answer the question.",
    "batch_prompts": 2,
    "group_size": 2,
    "interval": 1,
    "steps": 1000,
    "meta_samples": 2,
    "use_gate": False,
    "strategy": "samples",
    "schedule": "interval",
    "breaker_pause": 0.5,
    "max_judge_failures": 1.0,
}


def free_port() -> int:
    """A port that nothing listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Served:
    """A running service: ``post`` and ``get`` send its token."""

    def __init__(self, url: str, token: str, run: RunDir, events: list[tuple[str, JsonRow]]) -> None:
        self.url, self.token, self.run, self.events = url, token, run, events
        self.http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=30)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return self.http.post(path, json=body, **options)

    def rewards(self, *answers: tuple[str, str], **fields: Any) -> JsonRow:
        """What ``/v1/rewards`` says of (prompt, completion) pairs."""
        rows = [{"prompt": prompt, "completion": completion} for prompt, completion in answers]
        reply = self.post("/v1/rewards", {"answers": rows, **fields})
        assert reply.status_code == 200, reply.text
        return reply.json()

    def status(self) -> JsonRow:
        return self.http.get("/v1/status").json()


@contextmanager
def service(
    folder: Path, judge_url: str, address: Address | None = None, **settings: Any
) -> Iterator[Served]:
    """Runs a service in ``folder/run``; when the block ends, it is asked to stop and waited for."""
    models = {
        "judge": "openai/j",
        "judge_api_base": judge_url,
        "meta": "openai/m",
        "meta_api_base": judge_url,
    }
    given = SETTINGS | models | {"run_dir": folder / "run", "cache_dir": folder / "cache"} | settings
    config = load_config(given=given, environ={})
    events: list[tuple[str, JsonRow]] = []
    ready, problems, found = threading.Event(), list[BaseException](), dict[str, str]()

    def note_ready(url: str, token: str) -> None:
        found.update(url=url, token=token)
        ready.set()

    def work() -> None:
        try:
            where = address or Address(group_wait_s=1.0)
            serve(config, replace(where, port=0), lambda kind, row: events.append((kind, row)), note_ready)
        except BaseException as error:  # noqa: BLE001 raised again in the test's thread
            problems.append(error)
        ready.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(60)
    if problems:
        raise problems[0]
    run = RunDir(folder / "run")
    served = Served(found["url"], found["token"], run, events)
    try:
        with served.http:
            yield served
    finally:
        (run.path / "STOP").touch()
        thread.join(60)
        assert not thread.is_alive()
        if problems:
            raise problems[0]
