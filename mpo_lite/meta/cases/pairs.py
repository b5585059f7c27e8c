"""Pairs: an answer next to another one to the same prompt, because differences are easier to see than faults.

Next to the initial policy's answer it shows what training changed (the idea of eliciting criteria from such
pairs is that of OnlineRubrics, arXiv 2510.07284). Next to the answer of its group that was paid least or most
by comparison it shows what training is about to change: the difference that becomes the advantage.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpo_lite.meta.cases.base import Background, Case, show_answer, show_verdict
from mpo_lite.meta.cases.samples import samples
from mpo_lite.types import Rollout


def pairs(chosen: Sequence[Rollout], background: Background) -> list[Case]:
    """Pairs where the prompt has another answer, and the rollout alone where not; see ``Strategy``."""
    cases: list[Case] = []
    for rollout in chosen:
        before, rival = background.initial.get(rollout.prompt), background.rivals.get(rollout.id)
        if before:
            cases.append(_before_and_now(before, rollout, background))
        elif rival:
            cases.append(_two_of_a_group(rollout, rival, background))
        else:
            cases += samples([rollout], background)
    return cases


def _before_and_now(before: Rollout, now: Rollout, background: Background) -> Case:
    reward = "" if before.reward is None else f", reward {before.reward:.2f} under the current rubric"
    blocks = (
        *background.show_task(now.prompt),
        show_answer(before, f"The answer before training{reward}", "initial"),
        show_answer(now, "The answer now"),
        show_verdict(now.verdict, now.label),
    )
    return Case("compare", now, blocks)


def _two_of_a_group(rollout: Rollout, rival: Rollout, background: Background) -> Case:
    blocks = (
        *background.show_task(rollout.prompt),
        show_answer(rollout, "One answer"),
        show_verdict(rollout.verdict, rollout.label),
        show_answer(rival, "The other answer", "rival"),
        show_verdict(rival.verdict, rival.label, "rival_verdict"),
    )
    return Case("contrast", rollout, blocks)
