"""What the benchmarks of the client share: a stub server's process, clients, samples, and measures."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm

from mpo_lite.judge.base import Sample
from mpo_lite.judge.pointwise import PointwiseJudge
from mpo_lite.llm import event_loop
from mpo_lite.llm.budget import Budget
from mpo_lite.llm.cache import AnswerCache
from mpo_lite.llm.client import Client
from mpo_lite.llm.ledger import Ledger
from mpo_lite.llm.models import Backend
from mpo_lite.rubric import Criterion, Rubric
from mpo_lite.types import Brief

HERE = Path(__file__).parent
PERSONA = "You are an experienced teacher of writing who reads essays of students closely and fairly."
ESSAY = "Dogs have lived with people for thousands of years, and what they give is easily named. " * 16
MODEL = "openai/m"


def rubric(criteria: int) -> Rubric:
    """Criteria of the length that meta-judges write."""
    levels = ("It is missing.", "It is there in a part of the essay only.", "It carries the whole essay.")
    description = (
        "Whether the essay states its claim early, gives reasons of its own for it and returns to it."
    )
    return Rubric(
        criteria=tuple(Criterion(id=f"c{n}", description=description, levels=levels) for n in range(criteria))
    )


def samples(count: int, first: int = 0) -> list[Sample]:
    return [Sample("Write an essay on dogs.", f"item {n} {ESSAY}") for n in range(first, first + count)]


class Stub:
    """A stub server, at the API base ``url``."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.root = url.removesuffix("/v1")

    def set(self, **settings: Any) -> None:
        data = json.dumps(settings).encode()
        request = urllib.request.Request(f"{self.root}/set", data, {"content-type": "application/json"})
        urllib.request.urlopen(request).close()

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.root}/stats") as answer:
            return json.load(answer)


@contextmanager
def stub() -> Iterator[Stub]:
    process = subprocess.Popen(
        [sys.executable, str(HERE / "stub_server.py")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    try:
        yield Stub(f"http://127.0.0.1:{process.stdout.readline().strip()}/v1")
    finally:
        process.kill()
        process.wait()


@contextmanager
def client(concurrency: int = 64, folder: Path | None = None, **limits: float) -> Iterator[Client]:
    with tempfile.TemporaryDirectory() as fresh:

        async def build() -> Client:
            ledger = Ledger()
            return Client(AnswerCache(folder or Path(fresh)), ledger, Budget(ledger), concurrency, **limits)

        made = event_loop.wait(build())
        try:
            yield made
        finally:
            event_loop.wait(made.close())
            made.cache.close()


def judge(of: Client, server: Stub) -> PointwiseJudge:
    return PointwiseJudge(of, Backend("m", MODEL, server.url, "none", price=(1.0, 1.0)), Brief(PERSONA))


def measured(work: Coroutine[Any, Any, Any]) -> tuple[float, float]:
    """Wall and CPU seconds of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    event_loop.wait(work)
    return time.perf_counter() - wall, time.process_time() - cpu


def tokens_of(messages: list[dict[str, Any]]) -> int:
    """Tokens of a conversation by OpenAI's cl100k vocabulary, which LiteLLM brings along."""
    return litellm.token_counter(model="gpt-4", messages=messages)


async def tasks_now() -> int:
    return len(asyncio.all_tasks())


def open_sockets() -> int:
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the folder's own is gone by now
            count += os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    return count


def resident_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
