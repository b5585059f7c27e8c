"""What a figure comes to that rests on things nobody knows before: in the middle, at least and at most."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mpo_lite.llm import transport
from mpo_lite.llm.models import Backend

Values = Mapping[str, float]
"""Factor → its value."""
Figure = Callable[[Values], float]
CACHED_PREFIX_TOKENS = 1024
"""Shortest prefix that providers cache (OpenAI, Anthropic's Sonnet)."""


@dataclass(frozen=True)
class Load:
    """Calls to one model and their tokens, all in all.

    Attributes:
        backend: The model.
        calls: Calls, repeated ones included.
        input_tokens: Tokens sent.
        output_tokens: Tokens received.
        prefix_tokens: Of the tokens sent with a call, those that equal the ones of the call before.
        cached: Share of the calls that find these in the provider's cache.
    """

    backend: Backend
    calls: float
    input_tokens: float
    output_tokens: float
    prefix_tokens: float = 0.0
    cached: float = 0.0

    @property
    def usd(self) -> float:
        """USD; not a number where the price is unknown."""
        pricing = transport.pricing(self.backend)
        if pricing is None:
            return math.nan
        prefix = self.prefix_tokens if self.prefix_tokens >= CACHED_PREFIX_TOKENS else 0.0
        read = self.calls * prefix * self.cached
        fresh = (self.input_tokens - read) * (
            pricing.input if self.cached else max(pricing.input, pricing.written)
        )
        return (fresh + read * pricing.cached + self.output_tokens * pricing.output) / 1e6


@dataclass(frozen=True)
class Factor:
    """Something that is not known yet.

    Attributes:
        name: How it is called.
        low: Its value where the figure comes out least.
        middle: Its likeliest value.
        high: Its value where the figure comes out most.
        spec: How its values are written.
    """

    name: str
    low: float
    middle: float
    high: float
    spec: str = ".0f"

    def __str__(self) -> str:
        return f"{self.name}: {self.low:{self.spec}} to {self.high:{self.spec}}"


def span(factors: Mapping[str, Factor], figure: Figure) -> tuple[float, float, float]:
    """Low, middle and high of a figure.

    The middle takes all factors at their middle. Each alone moves the figure by so much to either side; as
    they do not move together, the figure moves by the root of the sum of these squares.
    """
    middle = {name: factor.middle for name, factor in factors.items()}
    at_middle = figure(middle)
    moved = [
        [figure({**middle, name: value}) - at_middle for value in (factor.low, factor.high)]
        for name, factor in factors.items()
    ]
    below = math.hypot(*(min(*pair, 0.0) for pair in moved))
    above = math.hypot(*(max(*pair, 0.0) for pair in moved))
    least = figure({name: factor.low for name, factor in factors.items()})
    return max(at_middle - below, least), at_middle, at_middle + above
