"""Pairs: an answer next to the initial policy's to the same prompt, which shows what training changed.

What the policy learned to do for reward is hard to see in one answer, and plain next to the answer it would
have given before. The idea of eliciting criteria from pairs is that of OnlineRubrics (arXiv 2510.07284).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mpo_lite.meta.cases.base import Block, Case, verdict_block
from mpo_lite.meta.cases.samples import samples
from mpo_lite.types import Rollout


def pairs(chosen: Sequence[Rollout], reference: Mapping[str, Rollout]) -> list[Case]:
    """A pair where the reference has the prompt, and the rollout alone where not; see ``Strategy``."""
    cases: list[Case] = []
    for rollout in chosen:
        before = reference.get(rollout.prompt)
        cases += [_pair(before, rollout)] if before else samples([rollout], reference)
    return cases


def _pair(before: Rollout, now: Rollout) -> Case:
    reward = "" if before.reward is None else f" (reward under this rubric: {before.reward:.2f})"
    blocks = (
        Block("", "task", now.prompt),
        Block(f"The answer before training{reward}:", "initial", before.completion),
        Block("The answer now:", "completion", now.completion),
        verdict_block(now.verdict, now.label),
    )
    return Case("compare", now, blocks)
