"""Examples for objections: what a refused rubric paid for, as the meta-judge is shown it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from mpo_lite.meta.gate_judge import BudgetedJudge
from mpo_lite.meta.objections import Objection
from mpo_lite.meta.sentinels import PlantedAnswer, Scores
from mpo_lite.rubric import Rubric


async def add_examples(
    objections: Sequence[Objection],
    plant: Callable[[str], Sequence[PlantedAnswer]],
    rubric: Rubric,
    honest: Scores,
    gate_judge: BudgetedJudge,
    batch: int,
) -> tuple[Objection, ...]:
    """The objections, those to a kind of planted answer with the one that earned most; no call is made.

    Args:
        objections: To ``rubric``.
        plant: The planted answers of a kind; none for an id that is no kind.
        rubric: What was refused.
        honest: What it gives the anchor's answers.
        gate_judge: Knows the verdicts.
        batch: Generation batches done.
    """
    illustrated: list[Objection] = []
    for objection in objections:
        planted = plant(objection.id)
        rewards = gate_judge.recall([answer.sample for answer in planted], rubric)
        gains = [
            (reward - (honest[answer.place] or 0.0), -place)
            for place, (answer, reward) in enumerate(zip(planted, rewards, strict=True))
            if reward is not None
        ]
        if gains:
            sample = planted[-max(gains)[1]].sample
            (verdict,) = await gate_judge.verdicts([sample], rubric, batch)
            objection = replace(objection, example=(sample, verdict))
        illustrated.append(objection)
    return tuple(illustrated)
