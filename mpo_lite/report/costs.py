"""The calls of a run, what they cost and how fast they were, by model: from its ledgers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from mpo_lite.jsonl import JsonRow
from mpo_lite.report.run_data import RunData


def build_cost_table(data: RunData) -> list[JsonRow]:
    """One row per purpose and model, the one with the most calls first.

    Returns:
        ``calls``, of these ``failed`` and ``overload``; tokens ``sent``, ``received`` and ``cached`` (by the
        provider); ``usd``, with the calls in it that are ``unmetered`` and those not in it, ``unpriced``;
        ``p50`` and ``p95`` of the seconds that answered calls took, or None.
    """
    calls: defaultdict[tuple[str, str], list[JsonRow]] = defaultdict(list)
    for call in data.calls:
        calls[call["purpose"], call["model"]].append(call)
    rows = [_sum_calls(purpose, model, group) for (purpose, model), group in calls.items()]
    return sorted(rows, key=lambda row: -row["calls"])


def _sum_calls(purpose: str, model: str, calls: Sequence[JsonRow]) -> JsonRow:
    seconds = [call["seconds"] for call in calls if call["outcome"] == "ok"]
    outcomes = [call["outcome"] for call in calls]
    return {
        "purpose": purpose,
        "model": model,
        "calls": len(calls),
        "failed": outcomes.count("failed"),
        "overload": outcomes.count("overload"),
        "sent": sum(call["input_tokens"] for call in calls),
        "received": sum(call["output_tokens"] for call in calls),
        "cached": sum(call["cached_tokens"] for call in calls),
        "usd": sum(call["usd"] or 0.0 for call in calls),
        "unpriced": sum(call["usd"] is None for call in calls),
        "unmetered": sum(not call["metered"] for call in calls),
        "p50": float(np.percentile(seconds, 50)) if seconds else None,
        "p95": float(np.percentile(seconds, 95)) if seconds else None,
    }
