"""Answers from the columns that TRL and ms-swift pass to a reward function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mpo_lite.integrations.client import Answer, Content


def answers_from_columns(
    prompts: Sequence[Content], completions: Sequence[Content], columns: Mapping[str, Any]
) -> list[Answer]:
    """Answers with what the data set says of them.

    Args:
        prompts: N prompts.
        completions: N answers.
        columns: Column → N values; ``prompt_id``, ``is_truncated``, ``reference`` and ``cluster`` are used
            where there are any.
    """

    def column(name: str) -> Sequence[Any]:
        return columns.get(name) or [None] * len(completions)

    names = ("prompt_id", "is_truncated", "reference", "cluster")
    rows = zip(prompts, completions, *map(column, names), strict=True)
    return [
        Answer(
            prompt,
            completion,
            group=str(group or ""),
            truncated=bool(truncated),
            reference=str(reference or ""),
            cluster=str(cluster or ""),
        )
        for prompt, completion, group, truncated, reference, cluster in rows
    ]


def step_of(trainer_state: Any) -> int | None:
    """The training step, where the engine passes its state."""
    return None if trainer_state is None else int(trainer_state.global_step)
