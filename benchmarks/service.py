"""The reward service with a stub judge: what a reward costs, how many fit, kills, clients that misbehave.

    python benchmarks/service.py                 # all parts, about fifteen minutes on two cores
    python benchmarks/service.py --only kills --rewards 10000

Prints tables and writes JSON. The judge is ``stub_server.py``, which judges nothing: these figures are about
the service. CPU time is that of its process; where ways are compared, their runs alternate, and medians are
shown.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
from harness import ESSAY, HERE, MODEL, Stub, client, judge, measured, rubric, samples, stub

from mpo_lite.jsonl import read_rows
from mpo_lite.rubric import dump_rubric
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.judge_server import running

CRITERIA = 4
GROUP = 8
TICKS = os.sysconf("SC_CLK_TCK")


class Service:
    """A service in a process of its own."""

    def __init__(self, folder: Path, judge_url: str, meta_url: str, *flags: str) -> None:
        self.folder, self.run = folder, RunDir(folder / "run")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        (folder / "rubric.yaml").write_text(dump_rubric(rubric(CRITERIA)))
        self.flags = [
            "--goal", "Answer the question.", "--rubric", str(folder / "rubric.yaml"), "--no-token",
            "--judge", MODEL, "--judge-api-base", judge_url, "--port", str(self.port),
            "--run-dir", str(self.run.path), "--cache-dir", str(folder / "cache"),
            "--meta", "openai/sandbox-meta", "--meta-api-base", meta_url, *flags,
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "mpo_lite", "serve", *self.flags]
        environ = os.environ | {"OMP_NUM_THREADS": "1"}
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environ)

    def wait(self) -> None:
        while True:
            try:
                httpx.get(f"{self.url}/healthz")
                return
            except httpx.HTTPError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.1)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory_mb(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextmanager
def serving(judge_url: str, *flags: str) -> Iterator[Service]:
    with tempfile.TemporaryDirectory() as folder, running(seed=0) as meta_url:
        service = Service(Path(folder), judge_url, meta_url, *flags)
        try:
            service.wait()
            yield service
        finally:
            if service.process.poll() is None:
                service.stop()


async def ask(
    url: str, first: int, count: int, at_once: int, per_request: int, patience_s: float
) -> list[Any]:
    """Sends answers, ``per_request`` to a prompt; gives each request's seconds, rewards, versions."""
    slots = asyncio.Semaphore(at_once)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)

    async def one(http: httpx.AsyncClient, start: int) -> tuple[float, list[Any], list[int]]:
        prompt = f"Write essay {start} on dogs."
        numbers = range(start, start + per_request)
        answers = [{"prompt": prompt, "completion": f"item {number} {ESSAY}"} for number in numbers]
        body = {"answers": answers, "whole_groups": True}
        async with slots:
            until = time.monotonic() + patience_s
            while True:
                began = time.monotonic()
                try:
                    reply = await http.post("/v1/rewards", json=body)
                    reply.raise_for_status()
                    break
                except httpx.HTTPError:
                    if time.monotonic() > until:
                        raise
                    await asyncio.sleep(0.2)
        results = reply.json()["results"]
        seconds = time.monotonic() - began
        return seconds, [row["reward"] for row in results], [row["version"] for row in results]

    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as http:
        starts = range(first, first + count, per_request)
        return await asyncio.gather(*(one(http, start) for start in starts))


def ask_in_process(*arguments: Any) -> list[Any]:
    return asyncio.run(ask(*arguments))


def load(url: str, clients: int, count: int, at_once: int, per_request: int, patience_s: float = 60) -> Any:
    """Asks from several processes; gives what ``ask`` gives per process, and the seconds of all."""
    share = count // clients // per_request * per_request
    with ProcessPoolExecutor(clients) as pool:
        list(pool.map(abs, range(clients)))  # started, before time is taken
        began = time.monotonic()
        works = [
            pool.submit(ask_in_process, url, number * share, share, at_once, per_request, patience_s)
            for number in range(clients)
        ]
        return [work.result() for work in works], time.monotonic() - began


def overhead(server: Stub, rewards: int, repeats: int) -> dict[str, Any]:
    """CPU per reward in the service, and of the same judge in process."""
    kinds: dict[str, list[float]] = {"in process": [], "one per request": [], f"{GROUP} per request": []}
    for _ in range(repeats):
        with client() as made:
            work = judge(made, server).verdicts(samples(rewards), rubric(CRITERIA))
            kinds["in process"].append(measured(work)[1] / rewards * 1e3)
        for per_request, name in ((1, "one per request"), (GROUP, f"{GROUP} per request")):
            with serving(server.url, "--baseline", "iter0") as service:
                load(service.url, 1, 64, 8, per_request)  # imports and connections are not counted
                before = service.cpu_s()
                asyncio.run(ask(service.url, 1000, rewards, 64, per_request, 60))
                kinds[name].append((service.cpu_s() - before) / rewards * 1e3)
    table = {name: round(statistics.median(values), 2) for name, values in kinds.items()}
    print("\n| way | CPU per reward, ms | more than in process |\n|---|---|---|")
    for name, value in table.items():
        print(f"| {name} | {value:.2f} | {value - table['in process']:+.2f} |")
    return table


def throughput(server: Stub, rewards: int) -> list[dict[str, Any]]:
    """Rewards per second and latency, by client processes and the judge's latency."""
    rows: list[dict[str, Any]] = []
    print("\n| judge | clients | at once | rewards/s | p50, ms | p99, ms | CPU per reward, ms | memory, MB |")
    print("|---|---|---|---|---|---|---|---|")
    for latency in (0.0, 0.5):
        for clients, at_once in ((1, 1), (1, 32), (2, 32), (4, 32)):
            count = rewards if at_once > 1 else rewards // (1 if not latency else 20)
            server.set(latency=latency)
            with serving(server.url, "--baseline", "iter0", "--concurrency", "256") as service:
                load(service.url, 1, 64, 8, 1)
                before = service.cpu_s()
                replies, seconds = load(service.url, clients, count, at_once, 1)
                cpu = service.cpu_s() - before
                times = sorted(reply[0] * 1e3 for process in replies for reply in process)
                row = {
                    "judge_s": latency, "clients": clients, "at_once": at_once,
                    "per_s": round(len(times) / seconds, 1), "p50_ms": round(times[len(times) // 2], 1),
                    "p99_ms": round(times[int(len(times) * 0.99)], 1),
                    "cpu_ms": round(cpu / len(times) * 1e3, 2), "memory_mb": round(service.memory_mb()),
                }  # fmt: skip
            rows.append(row)
            print(f"| {latency:g} s | {' | '.join(str(row[name]) for name in list(row)[1:])} |", flush=True)
    return rows


def kills(server: Stub, rewards: int, times: int) -> dict[str, Any]:
    """Rewards for four client processes while the service is killed again and again."""
    server.set(latency=0.05)
    flags = [
        "--batch-prompts",
        "16",
        "--group-size",
        str(GROUP),
        "--interval",
        "10",
        "--no-use-gate",
        "-o",
        "strategy=samples",
    ]
    clients, at_once, draw = 4, 4, random.Random(0)
    with serving(server.url, *flags) as service, ProcessPoolExecutor(clients) as pool:
        share = rewards // clients // GROUP * GROUP
        works = [
            pool.submit(ask_in_process, service.url, number * share, share, at_once, GROUP, 600)
            for number in range(clients)
        ]
        places = sorted(draw.randrange(rewards // 10, rewards) for _ in range(times))
        memory: list[tuple[int, float]] = []
        while not all(work.done() for work in works):
            done = service.run.rollouts.read_bytes().count(b"\n") if service.run.rollouts.exists() else 0
            memory.append((done, round(service.memory_mb())))
            if places and done >= places[0]:
                places.pop(0)
                service.kill()
                service.start()
                service.wait()
            time.sleep(0.5)
        replies = [reply for work in works for reply in work.result()]
        service.stop()
        rows = read_rows(service.run.rollouts)
        metrics = read_rows(service.run.metrics)
        versions = [max(reply[2]) for work in works for reply in work.result()]
        paid = server.stats()["items"]
        result = {
            "rewards": sum(len(reply[1]) for reply in replies),
            "none": sum(reward is None for reply in replies for reward in reply[1]),
            "kills": times,
            "journalled": len(rows),
            "journalled_twice": len(rows) - len({row["completion"] for row in rows}),
            "judged_twice": sum(int(count) - 1 for count in paid.values()),
            "in_flight_at_kills": times * clients * at_once * GROUP,
            "batches": len(metrics),
            "version": max(versions),
            "version_went_back": sum(b["version"] < a["version"] for a, b in pairwise(metrics)),
            "memory_mb": [memory[place] for place in range(0, len(memory), max(1, len(memory) // 8))],
        }  # fmt: skip
    print("\n| | |\n|---|---|")
    for name, value in result.items():
        print(f"| {name} | {value} |")
    return result


def harm(server: Stub, rewards: int) -> dict[str, Any]:
    """Latency of honest requests alone, and while clients misbehave."""
    server.set(latency=0.0)
    table: dict[str, Any] = {}
    with serving(server.url, "--baseline", "iter0") as service:
        load(service.url, 1, 64, 8, 1)

        def measure(name: str, first: int) -> None:
            replies = asyncio.run(ask(service.url, first, rewards, 8, 1, 60))
            times = sorted(reply[0] * 1e3 for reply in replies)
            table[name] = [round(times[len(times) // 2], 1), round(times[int(len(times) * 0.99)], 1)]

        measure("alone", 10_000)
        idle = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(1000)]
        measure("1,000 idle connections", 20_000)
        head = b"POST /v1/rewards HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n"
        for each in idle[:100]:
            each.sendall(head + b"{")
        measure("and 100 that send a byte and wait", 30_000)
        answers = [
            httpx.post(f"{service.url}/v1/rewards", content=b"x" * 10_000_000).status_code for _ in range(5)
        ]
        measure("after five bodies of 10 MB", 40_000)
        table["10 MB is answered"] = answers
        for each in idle:
            each.close()
    print("\n| | p50, ms | p99, ms |\n|---|---|---|")
    for name, values in table.items():
        print(f"| {name} | {' | '.join(map(str, values))} |")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="overhead,throughput,kills,harm")
    parser.add_argument("--rewards", type=int, default=10_000, help="of the part kills")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "service.json")
    options = parser.parse_args()
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    with stub() as server:
        for part in options.only.split(","):
            if part == "overhead":
                results[part] = overhead(server, 1000, options.repeats)
            elif part == "throughput":
                results[part] = throughput(server, 2000)
            elif part == "kills":
                results[part] = kills(server, options.rewards, options.kills)
            elif part == "harm":
                results[part] = harm(server, 400)
            options.out.parent.mkdir(exist_ok=True)
            options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
