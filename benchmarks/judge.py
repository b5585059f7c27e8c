"""The judge client against local servers: calls, tokens, time, waste, faults, kills, parser, busy servers.

    python benchmarks/judge.py                  # all eight parts, about seventeen minutes
    python benchmarks/judge.py --only time,rate --repeats 5

Prints tables and writes JSON. The servers judge nothing (``stub_server.py``): these figures are about the
client. Where ways are compared, their runs alternate within one process, and medians are shown.
"""

import argparse
import asyncio
import gc
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm
from busy import saturation, slowdown
from harness import (
    MODEL,
    Stub,
    client,
    judge,
    measured,
    open_sockets,
    resident_mb,
    rubric,
    samples,
    stub,
    tasks_now,
)
from judge_texts import calls_and_tokens, parser, turns
from stub_server import HELPLESS, fault_of

from mpo_lite.judge.base import Sample, verdict_schema
from mpo_lite.judge.pointwise import PointwiseJudge
from mpo_lite.llm import event_loop, transport
from mpo_lite.llm.cache import AnswerCache
from mpo_lite.llm.error_mapping import Retryable
from mpo_lite.llm.models import Backend
from mpo_lite.llm.structured_output import mode_params

CALLS, AT_ONCE = 500, 64
Requests = list[list[dict[str, Any]]]
Way = Callable[[], Coroutine[Any, Any, Any]]


async def plain(server: Stub, requests: Requests, at_once: int, chain: bool = False) -> None:
    """A semaphore over LiteLLM, as most code has it; ``chain``: the paper's turns, one after the other."""
    schema = mode_params("json_schema", verdict_schema(rubric(6)))
    gate, session = asyncio.Semaphore(at_once), await transport.open_session()

    async def one(messages: list[dict[str, Any]]) -> None:
        for turn in turns(rubric(6), Sample("p", messages[-1]["content"])) if chain else (messages,):
            async with gate:
                await litellm.acompletion(
                    model=MODEL, messages=turn, api_base=server.url, api_key="none", shared_session=session,
                    timeout=60, num_retries=0, max_retries=0, max_tokens=1024, temperature=0.0, **schema,
                )  # fmt: skip

    try:
        await asyncio.gather(*(one(messages) for messages in requests))
    finally:
        await session.close()


def ways(single: PointwiseJudge, server: Stub, latency: float, chain: bool) -> dict[str, Way]:
    """The ways to judge 500 samples, by name."""
    batch, by = samples(CALLS), rubric(6)
    requests = [list(single.build_call(sample, by).messages) for sample in batch]
    found: dict[str, Way] = {
        f"mpo-lite, {latency:g} s": partial(single.verdicts, batch, by),
        f"semaphore over LiteLLM, {latency:g} s": partial(plain, server, requests, AT_ONCE),
    }
    if latency == 0.2:
        found["mpo-lite, from the cache"] = partial(single.verdicts, batch, by)
    if chain:
        found[f"the paper's 12 calls in a row, {latency:g} s"] = partial(
            plain, server, requests, AT_ONCE, chain=True
        )
    return found


def wall_time(server: Stub, repeats: int) -> dict[str, Any]:
    """2. Wall time over the latency limit, and CPU per verdict: 500 samples, 6 criteria, 64 calls at once."""
    found: dict[str, list[tuple[float, float]]] = {}
    # A full pass of the collector over LiteLLM's 400,000 objects takes 0.13 s and falls on a way by chance.
    gc.collect()
    gc.freeze()
    for turn in range(repeats):
        for latency in (1.0, 0.2):
            server.set(latency=latency)
            with client(AT_ONCE) as of:
                single = judge(of, server)
                # The limiter finds its limit.
                event_loop.wait(single.verdicts(samples(4 * AT_ONCE, 10_000), rubric(6)))
                options = ways(single, server, latency, chain=turn == 0 and latency == 0.2)
                # The cache is warm only after our own run; the two that are compared take turns.
                last = list(options)[turn % 2]
                for name in sorted(options, key=lambda name: ("cache" in name, name == last)):
                    wall, cpu = measured(options[name]())
                    limit = CALLS * latency / AT_ONCE
                    found.setdefault(name, []).append((wall / limit, 1000 * cpu / CALLS))
    rows = [
        {
            "way": name,
            "wall / limit": round(statistics.median(wall for wall, _ in runs), 2),
            "CPU ms per verdict": round(statistics.median(cpu for _, cpu in runs), 2),
            "runs": len(runs),
        }
        for name, runs in found.items()
    ]
    by_name = {row["way"]: row for row in rows}
    over = [
        by_name[f"mpo-lite, {latency:g} s"]["CPU ms per verdict"]
        - by_name[f"semaphore over LiteLLM, {latency:g} s"]["CPU ms per verdict"]
        for latency in (1.0, 0.2)
    ]
    hit = by_name["mpo-lite, from the cache"]["CPU ms per verdict"]
    return {
        "rows": rows,
        "own CPU ms per call": [round(each, 2) for each in over],
        "holds": by_name["mpo-lite, 1 s"]["wall / limit"] <= 1.25 and max(over) <= 1.0 and hit <= 0.5,
    }


def rate_limit(server: Stub, repeats: int) -> dict[str, Any]:
    """3. Attempts wasted at a limit of 40 requests per second."""
    calls, by, rows = 1200, rubric(1), []

    async def fixed() -> None:
        gate, session = asyncio.Semaphore(128), await transport.open_session()

        async def one(sample: Sample) -> None:
            for attempt in range(12):
                try:
                    async with gate:
                        await transport.attempt(
                            Backend("m", MODEL, server.url, "none"),
                            [{"role": "user", "content": sample.completion}],
                            {"max_tokens": 64}, session, 60.0,
                        )  # fmt: skip
                    return
                except Retryable:
                    await asyncio.sleep(random.random() * 0.25 * 2**attempt)

        try:
            await asyncio.gather(*(one(sample) for sample in samples(calls)))
        finally:
            await session.close()

    for retry_after in (None, 0.5):
        for name in ("mpo-lite", "fixed 128 and backoff"):
            server.set(latency=0.2, rate=40, retry_after=retry_after)
            judged = calls
            with client(128) as of:
                if name == "mpo-lite":
                    verdicts: list[Any] = []

                    async def ours() -> None:
                        verdicts.extend(await judge(of, server).verdicts(samples(calls), by))  # noqa: B023

                    wall, _ = measured(ours())
                    judged = sum(verdict.reward is not None for verdict in verdicts)
                else:
                    wall, _ = measured(fixed())
            stats = server.stats()
            rows.append(
                {
                    "way": name,
                    "Retry-After": retry_after or "none",
                    "attempts": stats["requests"],
                    "wasted": round(stats["rejected"] / stats["requests"], 3),
                    "judged": f"{judged}/{calls}",
                    "wall / limit": round(wall / (calls / 40), 2),
                }
            )
    ours_rows = [row for row in rows if row["way"] == "mpo-lite"]
    return {
        "rows": rows,
        "holds": all(row["wasted"] <= 0.1 and row["judged"] == f"{calls}/{calls}" for row in ours_rows),
    }


def faults(server: Stub, repeats: int) -> dict[str, Any]:
    """4. Ten thousand calls, a fifth of them with faults of all kinds."""
    share, by, whole = 0.2, rubric(2), 10_000
    server.set(latency=0.02, faults=share)
    wrong, memory = 0, []
    with client() as first:  # LiteLLM starts a worker of its own with the first call
        event_loop.wait(judge(first, server).verdicts(samples(20, whole), by))
    with client(64, timeout_s=10.0, verdict_s=120.0) as of:
        single = judge(of, server)
        tasks = event_loop.wait(tasks_now())
        sockets = open_sockets()
        for first in range(0, whole, 2000):
            verdicts = event_loop.wait(single.verdicts(samples(2000, first), by))
            for item, verdict in enumerate(verdicts, start=first):
                helpless = fault_of(item, share) in HELPLESS
                right = None if helpless else item % 3 / 2
                wrong += verdict.reward != right
            memory.append(resident_mb())
        limiter = of._sender._limiters["m"]
        left = {"slots": limiter._in_flight + len(limiter._waiting), "flights": len(of._flights)}
        left["reserved"] = of.budget._reserved["calls"]
        event_loop.wait(of.close())
        left["tasks"] = event_loop.wait(tasks_now()) - tasks
        left["sockets"] = open_sockets() - sockets
    bad = sum(fault_of(item, share) is not None for item in range(whole))
    helpless = sum(fault_of(item, share) in HELPLESS for item in range(whole))
    growth = memory[-1] - memory[1]
    row = {
        "calls": whole, "with a fault": bad, "without a score": helpless, "wrong": wrong,
        "attempts": server.stats()["requests"], **{f"left {name}": count for name, count in left.items()},
        "MB after 4,000": round(memory[1]), "MB at the end": round(memory[-1]),
    }  # fmt: skip
    return {"rows": [row], "holds": wrong == 0 and not any(left.values()) and growth < 25}


def kills(server: Stub, repeats: int) -> dict[str, Any]:
    """5. A process killed five times in the middle of a thousand calls."""
    calls, draw, rows = 1000, random.Random(0), []
    server.set(latency=0.2)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--child", server.url, folder, str(calls)]
        committed: dict[int, int] = {}
        again = 0
        for number in range(6):
            before = server.stats()
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            target = before["requests"] + draw.randint(60, 140)
            while number < 5 and process.poll() is None and server.stats()["requests"] < target:
                time.sleep(0.01)
            flying = 0
            if number < 5:
                process.send_signal(signal.SIGKILL)
                flying = 64
            process.wait()
            time.sleep(0.5)
            stats = {int(item): count for item, count in server.stats()["items"].items()}
            again += sum(stats[item] > count for item, count in committed.items())
            committed = {item: stats[item] for item in kept_items(Path(folder))}
            rows.append(
                {
                    "process": number + 1,
                    "killed": number < 5,
                    "answers kept": len(committed),
                    "in flight at most": flying,
                }
            )
        stats = server.stats()
    repeated = stats["requests"] - calls
    return {
        "rows": rows,
        "committed answers asked for again": again,
        "requests repeated": repeated,
        "holds": again == 0 and repeated <= 5 * 64 and len(committed) == calls,
    }


def kept_items(folder: Path) -> list[int]:
    store = AnswerCache(folder)
    try:
        return [int(entry["text"].split("item-")[1].split('"')[0]) for _, entry in store.entries()]
    finally:
        store.close()


PARTS = {
    "tokens": calls_and_tokens,
    "time": wall_time,
    "rate": rate_limit,
    "faults": faults,
    "kills": kills,
    "parser": parser,
    "saturation": saturation,
    "slowdown": slowdown,
}


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows]
    return "\n".join(lines)


def child(url: str, folder: str, calls: int) -> None:
    """The process that is killed."""
    with client(64, Path(folder)) as of:
        event_loop.wait(judge(of, Stub(url)).verdicts(samples(calls), rubric(1)))


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    options.add_argument("--repeats", type=int, default=3, help="runs of each way that is timed")
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/judge.json"))
    options.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.child:
        child(given.child[0], given.child[1], int(given.child[2]))
        return
    given.out.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(given.out.read_text()) if given.out.exists() else {}
    for name in given.only.split(","):
        with stub() as server:
            started = time.monotonic()
            results[name] = found = PARTS[name](server, given.repeats)
        print(f"\n{PARTS[name].__doc__} ({time.monotonic() - started:.0f} s)\n\n{table(found['rows'])}")
        print(
            "\n".join(f"{key}: {value}" for key, value in found.items() if key not in ("rows", "trace")),
            flush=True,
        )
        given.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
