"""What a strategy makes of chosen rollouts: cases, each examined by the meta-judge in one analysis."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

from mpo_lite.judge.base import Sample, answer_block, task_blocks
from mpo_lite.prompts import Block
from mpo_lite.types import Rollout, Verdict


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


@dataclass(frozen=True)
class Background:
    """What is shown with the chosen rollouts.

    Attributes:
        initial: Prompt → the initial policy's answer to it, judged by the same rubric if at all.
        rivals: Id of a rollout → the answer of its prompt group whose reward is farthest from its own.
        references: Prompt → its reference, where the task lets judges see it.
        plans: Prompt → the plan by which its answers were judged.
    """

    initial: Mapping[str, Rollout] = field(default_factory=dict[str, Rollout])
    rivals: Mapping[str, Rollout] = field(default_factory=dict[str, Rollout])
    references: Mapping[str, str] = field(default_factory=dict[str, str])
    plans: Mapping[str, str] = field(default_factory=dict[str, str])

    def show_task(self, prompt: str) -> list[Block]:
        """A prompt with its reference and its plan."""
        blocks = task_blocks("", prompt, self.references.get(prompt, ""))
        if plan := self.plans.get(prompt):
            blocks.append(Block("The judge's plan, made before it saw an answer:", "plan", plan))
        return blocks


class Strategy(Protocol):
    """Makes cases of rollouts."""

    def __call__(self, chosen: Sequence[Rollout], background: Background) -> list[Case]:
        """Decides what is shown together.

        Args:
            chosen: Judged rollouts, at least one.
            background: What can be shown with them.

        Returns:
            One case per chosen rollout, in order.
        """
        ...


def show_answer(rollout: Rollout, name: str, tag: str = "completion") -> Block:
    """An answer under its name, marked if it was cut off."""
    sample = Sample(rollout.prompt, rollout.completion, truncated=rollout.truncated)
    return answer_block(sample, name)._replace(tag=tag)


def show_verdict(verdict: Verdict, label: str | None = None, tag: str = "verdict") -> Block:
    """A verdict with the judge's reasons and, where there is one, a person's label."""
    lead = f"Its reward under the current rubric: {verdict.reward:.2f} (0 is worst, 1 is best)"
    if label:
        lead += f"\n{label}"
    return Block(f"{lead}\nThe judge's assessment:", tag, verdict_json(verdict))


def verdict_json(verdict: Verdict) -> str:
    """The judge's reason and level for each criterion."""
    assessed = {name: asdict(assessment) for name, assessment in verdict.assessments.items()}
    return json.dumps(assessed, ensure_ascii=False, indent=1)
