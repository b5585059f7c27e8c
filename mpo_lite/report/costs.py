"""What the models of a run were asked, what it cost, and how fast they were: read from its ledgers."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from mpo_lite.jsonl import JsonRow
from mpo_lite.llm.ledger import read_calls
from mpo_lite.run_dir import RunDir


def accounts(run: RunDir) -> list[JsonRow]:
    """One row per purpose and model, the most asked first.

    Returns:
        ``calls``, of these ``failed`` and ``overload``; tokens ``sent``, ``received`` and ``cached`` (by the
        provider); ``usd``, with the calls in it that are ``unmetered`` and those beside it that are
        ``unpriced``; ``p50`` and ``p95`` of the seconds that calls took which were answered, or None.
    """
    rows: defaultdict[tuple[str, str], list[JsonRow]] = defaultdict(list)
    for path in run.ledgers().values():
        for row in read_calls(path):
            rows[row["purpose"], row["model"]].append(row)
    told = [_account(purpose, model, calls) for (purpose, model), calls in rows.items()]
    return sorted(told, key=lambda row: -row["calls"])


def _account(purpose: str, model: str, calls: list[JsonRow]) -> JsonRow:
    seconds = [row["seconds"] for row in calls if row["outcome"] == "ok"]
    outcomes = [row["outcome"] for row in calls]
    return {
        "purpose": purpose,
        "model": model,
        "calls": len(calls),
        "failed": outcomes.count("failed"),
        "overload": outcomes.count("overload"),
        "sent": sum(row["input_tokens"] for row in calls),
        "received": sum(row["output_tokens"] for row in calls),
        "cached": sum(row["cached_tokens"] for row in calls),
        "usd": sum(row["usd"] or 0.0 for row in calls),
        "unpriced": sum(row["usd"] is None for row in calls),
        "unmetered": sum(not row["metered"] for row in calls),
        "p50": float(np.percentile(seconds, 50)) if seconds else None,
        "p95": float(np.percentile(seconds, 95)) if seconds else None,
    }
