"""The paper's way: each answer by itself, with its verdict (arXiv 2504.20157, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mpo_lite.meta.cases.base import Block, Case, verdict_block
from mpo_lite.types import Rollout


def samples(chosen: Sequence[Rollout], reference: Mapping[str, Rollout]) -> list[Case]:
    """One case per rollout; see ``Strategy``."""
    return [
        Case(
            "analyse",
            rollout,
            (
                Block("", "task", rollout.prompt),
                Block("", "completion", rollout.completion),
                verdict_block(rollout.verdict, rollout.label),
            ),
        )
        for rollout in chosen
    ]
