"""The spend of commands that do not train, in words."""

from __future__ import annotations

from mpo_lite.sanitize import pluralize


def format_spend(usd: float | None, unmetered: int = 0) -> str:
    """The spend, e.g. ``$0.0412``, and how many calls in it are counted at their highest possible cost."""
    if not unmetered:
        return "unpriced" if usd is None else f"${usd:.4f}"
    calls = pluralize(unmetered, "call")
    return f"unpriced, {calls} unmetered" if usd is None else f"${usd:.4f} at most ({calls} unmetered)"
