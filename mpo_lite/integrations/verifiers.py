"""Rewards in verifiers and prime-rl, for the judge plugin ``mpo_judge``."""

from __future__ import annotations

from typing import Any

from mpo_lite.errors import CallFailed
from mpo_lite.integrations.client import Answer, RewardClient


async def score_trace(client: RewardClient, task: Any, trace: Any) -> float:
    """Reward of a trace's last reply in [0, 1].

    Args:
        client: Asks the service.
        task: ``verifiers.v1.TaskData``; its fields ``reference`` and ``cluster`` are sent if it has any.
        trace: ``verifiers.v1.Trace``; its metric ``mpo_version`` becomes the rubric version that judged.

    Raises:
        CallFailed: It could not be judged. verifiers then leaves the trace, and its part in the group's
            baseline, out of training.
        BudgetReached, EndpointError, Unavailable: See ``RewardClient.score``.
    """
    answer = Answer(
        task.prompt_text,
        trace.last_reply,
        truncated=bool(trace.is_truncated),
        reference=str(getattr(task, "reference", None) or ""),
        cluster=str(getattr(task, "cluster", None) or ""),
    )
    (scored,) = await client.ascore([answer])
    if scored.reward is None:
        raise CallFailed(scored.failure or "transport", f"the answer could not be judged: {scored.failure}")
    trace.record_metric("mpo_version", scored.version)
    return scored.reward
