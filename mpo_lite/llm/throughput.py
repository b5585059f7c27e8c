"""How many answers per second a backend gives, and with how many calls in flight."""

from __future__ import annotations

from dataclasses import dataclass
from math import log


@dataclass(frozen=True)
class Round:
    """Measurements over a number of consecutive answers.

    Attributes:
        rate: Answers per second, above 0.
        in_flight: Calls in flight on average, above 0.
        latency: 90th percentile of the seconds that answers took.
    """

    rate: float
    in_flight: float
    latency: float

    def gain_over(self, other: Round) -> float:
        """Elasticity of the rate: 1 if it grew in step with the calls in flight, 0 if those only queued."""
        return log(self.rate / other.rate) / log(self.in_flight / other.in_flight)


class Meter:
    """Measures rounds. Time without any call in flight does not count: traffic comes in bursts."""

    def __init__(self) -> None:
        self._in_flight, self._now = 0, 0.0
        self.restart()

    def restart(self) -> None:
        """Begins a round."""
        self._busy_s = self._call_s = 0.0
        self._latencies: list[float] = []

    def set_in_flight(self, in_flight: int, now: float) -> None:
        """Sets how many calls are in flight from ``now`` on."""
        if self._in_flight:
            self._busy_s += now - self._now
            self._call_s += (now - self._now) * self._in_flight
        self._in_flight, self._now = in_flight, now

    def record_answer(self, seconds: float) -> None:
        """Counts an answer that took ``seconds``."""
        self._latencies.append(seconds)

    def take_round(self, answers: int) -> Round | None:
        """The round, once it has that many answers, and begins the next one; None before."""
        latencies, busy_s, call_s = sorted(self._latencies), self._busy_s, self._call_s
        if len(latencies) < answers or not call_s:
            return None
        self.restart()
        slow = latencies[int(0.9 * (len(latencies) - 1))]
        return Round(len(latencies) / busy_s, call_s / busy_s, slow)
