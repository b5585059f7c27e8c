"""The service's figures for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from mpo_lite.service.batches import Score
from mpo_lite.service.owner import RubricOwner

SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
"""Bounds of the latency histogram."""


class Metrics:
    """Counts rewards; everything else is read from the owner when asked for.

    Args:
        owner: Of the run.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, owner: RubricOwner) -> None:
        self._registry = registry = CollectorRegistry()
        self._rewards = Counter(
            "mpo_answers", "Answers by outcome: judged, failed, filled", ["outcome"], registry=registry
        )
        self._seconds = Histogram(
            "mpo_request_seconds", "Time until a request was answered", buckets=SECONDS, registry=registry
        )
        status = owner.status
        for name, description in (
            ("version", "Current rubric version"),
            ("batch", "Batches done"),
            ("in_flight", "Answers being judged"),
            ("usd", "Spend so far in USD, where prices are known"),
            ("judge_calls", "Calls of the judge"),
            ("meta_calls", "Calls of the meta-judge"),
            ("gate_calls", "Calls of the judge for the gate"),
        ):
            gauge = Gauge(f"mpo_{name}", description, registry=registry)
            gauge.set_function(lambda name=name: float(status()[name] or 0))
        alarms = Gauge("mpo_alarms", "Active alarms", registry=registry)
        alarms.set_function(lambda: float(len(status()["alarms"])))

    def count(self, scores: Sequence[Score]) -> None:
        """Counts what came of answers."""
        for score in scores:
            outcome = "filled" if score.is_filled else "failed" if score.reward is None else "judged"
            self._rewards.labels(outcome).inc()

    @contextmanager
    def timed(self) -> Generator[None]:
        """Measures how long a request takes, also one that fails."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._seconds.observe(time.monotonic() - started)

    def render(self) -> bytes:
        """The figures as Prometheus reads them."""
        return generate_latest(self._registry)
