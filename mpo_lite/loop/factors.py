"""What a figure comes to that rests on things nobody knows before: in the middle, at least and at most."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Values = Mapping[str, float]
"""Factor → its value."""
Figure = Callable[[Values], float]


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
