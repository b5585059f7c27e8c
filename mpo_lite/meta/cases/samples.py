"""The paper's way: each answer by itself, with its verdict (arXiv 2504.20157, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

from mpo_lite.meta.cases.base import Background, Case, show_answer, show_verdict
from mpo_lite.types import Rollout


def samples(chosen: Sequence[Rollout], background: Background) -> list[Case]:
    """One case per rollout; see ``Strategy``."""
    return [
        Case(
            "analyse",
            rollout,
            (
                *background.show_task(rollout.prompt),
                show_answer(rollout, "The answer"),
                show_verdict(rollout.verdict, rollout.label),
            ),
        )
        for rollout in chosen
    ]
