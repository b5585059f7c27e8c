"""What a strategy makes of chosen rollouts: cases, each examined by the meta-judge in one analysis."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from mpo_lite.types import Rollout, Verdict


class Block(NamedTuple):
    """One piece of material: a line of ours above it, its tag, and its text, which may be hostile."""

    lead: str
    tag: str
    text: str


@dataclass(frozen=True)
class Case:
    """What one analysis looks at.

    Attributes:
        template: Name below ``prompts/meta/`` of the question about it.
        rollout: The answer it is about; criteria that come out of it name this one as their source.
        blocks: What is shown.
    """

    template: str
    rollout: Rollout
    blocks: tuple[Block, ...]


class Strategy(Protocol):
    """Makes cases of rollouts."""

    def __call__(self, chosen: Sequence[Rollout], reference: Mapping[str, Rollout]) -> list[Case]:
        """Decides what is shown together.

        Args:
            chosen: Judged rollouts, at least one.
            reference: Prompt → the initial policy's answer to it, judged by the same rubric if at all.

        Returns:
            One case per chosen rollout, in order.
        """
        ...


def verdict_block(verdict: Verdict, label: str | None = None) -> Block:
    """The block that shows a verdict with the judge's reasons and, where there is one, a person's label."""
    assessed = {
        name: {"reason": assessment.reason, "level": assessment.level}
        for name, assessment in verdict.assessments.items()
    }
    lead = f"Reward under this rubric: {verdict.reward:.2f} (0 is worst, 1 is best)"
    if label:
        lead += f"\n{label}"
    text = json.dumps(assessed, ensure_ascii=False, indent=1)
    return Block(f"{lead}\nThe judge's assessment:", "verdict", text)
