"""The judge client against busy servers: one that queues, one that batches, one that slows down."""

import asyncio
import time
from pathlib import Path
from typing import Any

from harness import Stub, client, judge, rubric, samples

from mpo_lite.judge.base import Sample
from mpo_lite.llm import event_loop
from mpo_lite.llm.client import Client
from mpo_lite.llm.limiter import Limiter

CEILING = 64
WARM_UP_S = 15.0
FIGURE = Path("docs/slowdown.png")
Traced = list[tuple[float, float, int]]


class Fixed(Limiter):
    """A limit that stays: what a semaphore is."""

    def _set_limit(self, limit: float) -> None:
        self.limit = float(self._ceiling)


class RunDir:
    """Samples judged under watch.

    Attributes:
        queues: Whether the server queues, and so counts what it has worked at.
        seconds: From the first call to the last verdict.
        judged: Samples with a reward.
        timeouts: Attempts given up, with the second they were.
        trace: Second, limit and answers so far, four times a second.
    """

    def __init__(
        self, server: Stub, calls: int, timeout_s: float, fixed: bool, most_s: float, queues: bool = True
    ) -> None:
        self.queues = queues
        self.timeouts: list[float] = []
        self.trace: Traced = []
        self.judged = 0
        with client(CEILING, timeout_s=timeout_s) as of:
            limiter = (Fixed if fixed else Limiter)(CEILING, timeout_s)
            if fixed:
                limiter.limit = CEILING
            of._sender._limiters["m"] = limiter
            timed_out, self.began = limiter.record_timeout, time.monotonic()

            def counted(place: Any) -> None:
                self.timeouts.append(time.monotonic() - self.began)
                timed_out(place)

            limiter.record_timeout = counted
            event_loop.wait(self._watched(of, server, samples(calls), most_s))
            self.seconds = time.monotonic() - self.began
            self.work = server.stats()["worked"]

    async def _watched(self, of: Client, server: Stub, batch: list[Sample], most_s: float) -> None:
        single, limiter = judge(of, server), of._sender._limiters["m"]
        tasks = [asyncio.ensure_future(single.judge_one(sample, rubric(2))) for sample in batch]
        while not all(task.done() for task in tasks) and time.monotonic() - self.began < most_s:
            self.trace.append((time.monotonic() - self.began, limiter.limit, limiter._answers))
            await asyncio.sleep(0.25)
        self.judged = sum(task.done() and task.result().reward is not None for task in tasks)
        for task in [*tasks, *of._flights.values()]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def row(self, server: str, limit: str, most: float | None) -> dict[str, Any]:
        rate = self.judged / self.seconds
        return {
            "server": server, "limit": limit, "judged": self.judged, "seconds": round(self.seconds, 1),
            "answers/s": round(rate, 2), "of the server's": round(rate / most, 3) if most else "",
            "time-outs": len(self.timeouts), "after warm-up": sum(at > WARM_UP_S for at in self.timeouts),
            "work thrown away": round(1 - self.judged / self.work, 3) if self.queues else "",
            "limit at the end": round(self.trace[-1][1]),
        }  # fmt: skip


def saturation(server: Stub, repeats: int) -> dict[str, Any]:
    """7. A saturated server: 8 calls at a time, 2 s each; and one that batches, 0.5 s x (1 + n/16)."""
    rows: list[dict[str, Any]] = []
    # The queue last: what is abandoned there is still counted as in flight for a while.
    for fixed in (True, False):
        server.set(latency=0.5, half=16)
        run = RunDir(server, 2000, 20.0, fixed, most_s=130.0, queues=False)
        most = rows[-1]["answers/s"] if not fixed else None
        rows.append(run.row("batching", f"fixed {CEILING}" if fixed else "ours", most))
    for timeout_s in (20.0, 12.0):
        name = f"queue, time-out {timeout_s:g} s"
        for fixed in (False, True):
            server.set(latency=2.0, slots=8)
            run = RunDir(server, 400, timeout_s, fixed, most_s=130.0)
            rows.append(run.row(name, f"fixed {CEILING}" if fixed else "ours", 4.0))
    ours = [row for row in rows if row["limit"] == "ours"]
    return {
        "rows": rows,
        "holds": all(
            row["of the server's"] >= (0.9 if row["server"] == "batching" else 0.95)
            and not row["after warm-up"]
            and (row["work thrown away"] or 0) <= 0.02
            for row in ours
        ),
    }


async def _slow_down(server: Stub, slow: dict[str, Any]) -> None:
    for wait_s, settings in ((4.0, slow), (60.0, {"slots": 32, "latency": 0.5})):
        await asyncio.sleep(wait_s)
        await asyncio.to_thread(lambda settings=settings: server.set(go_on=True, **settings))


def slowdown(server: Stub, repeats: int) -> dict[str, Any]:
    """8. A thousand calls; the server, 32 at once and 0.5 s each, does a tenth of it for a minute."""
    rows: list[dict[str, Any]] = []
    traces: dict[str, Traced] = {}
    for name, slow in (
        ("a tenth of the places", {"slots": 3, "latency": 0.5}),
        ("ten times slower", {"slots": 32, "latency": 5.0}),
    ):
        server.set(latency=0.5, slots=32)
        change = event_loop.submit(_slow_down(server, slow))
        run = RunDir(server, 1000, 8.0, fixed=False, most_s=200.0)
        change.result(100)
        lows = [limit for at, limit, _ in run.trace if 10 < at < 64]
        after = [limit for at, limit, _ in run.trace if at > 64]
        found = run.row(name, "ours", None)
        del found["of the server's"], found["after warm-up"]
        rows.append(
            found
            | {"limit before": round(max(limit for at, limit, _ in run.trace if at < 4)),
               "lowest in the minute": round(min(lows)), "highest after": round(max(after, default=0))}
        )  # fmt: skip
        traces[name] = run.trace
    draw(traces)
    return {
        "rows": rows,
        "trace": {
            name: " ".join(f"{at:.0f}s:{limit:.0f}" for at, limit, _ in trace[::4])
            for name, trace in traces.items()
        },
        "holds": all(
            row["judged"] == 1000 and row["highest after"] > row["lowest in the minute"] for row in rows
        ),
    }


def draw(traces: dict[str, Traced]) -> None:
    """Limit and answers per second over time."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(traces), figsize=(10, 5), sharex=True, sharey="row", squeeze=False)
    for column, (name, trace) in enumerate(traces.items()):
        upper, lower = axes[0][column], axes[1][column]
        times, limits, _ = zip(*trace, strict=True)
        upper.step(times, limits, where="post", color="#2563eb")
        window = 8  # two seconds
        rates = [
            (now[2] - then[2]) / (now[0] - then[0]) for then, now in zip(trace, trace[window:], strict=False)
        ]
        lower.plot(times[window:], rates, color="#b45309")
        for axis in (upper, lower):
            axis.axvspan(4, 64, color="#e5e7eb")
            axis.set_ylim(bottom=0)
        upper.set_title(f"{name} for a minute")
        lower.set_xlabel("seconds")
    axes[0][0].set_ylabel("limit on calls in flight")
    axes[1][0].set_ylabel("answers per second")
    figure.tight_layout()
    figure.savefig(FIGURE, dpi=110)
    plt.close(figure)
