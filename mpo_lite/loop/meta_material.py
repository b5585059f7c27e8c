"""What a meta step within a run goes by: the rollouts that are analysed, and what is shown with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mpo_lite.judge.base import Sample
from mpo_lite.loop.session import Session
from mpo_lite.meta.cases import Background
from mpo_lite.meta.gate import RECENT_ANSWERS, RECENT_GROUPS
from mpo_lite.meta.meta_model import Question
from mpo_lite.meta.sampling import find_rivals, stratified_sample
from mpo_lite.meta.step import choose_badly_judged
from mpo_lite.rubric import Rubric
from mpo_lite.types import Rollout, Verdict


async def choose_rollouts(
    session: Session,
    question: Question,
    judged: Sequence[Rollout],
    probes: Sequence[Rollout],
    seed: str,
    suspicious: Sequence[str],
) -> list[Rollout]:
    """The rollouts that the step analyses."""
    config = session.config
    if config.prescreen:
        assert session.meta is not None
        candidates = [*probes, *judged]
        background = Background(references=_references(session, candidates))
        return await choose_badly_judged(
            session.meta, question, candidates, config.meta_samples, seed, suspicious, background
        )
    return [*probes, *stratified_sample(judged, config.meta_samples - len(probes), seed, suspicious)]


async def gather_background(
    session: Session,
    rubric: Rubric,
    judged: Sequence[Rollout],
    chosen: Sequence[Rollout],
    initial: Mapping[str, Rollout],
) -> Background:
    """What the meta-judge can be shown with the chosen rollouts."""
    return Background(
        initial,
        find_rivals(chosen, judged),
        _references(session, chosen),
        await session.models.plans(map(session.context.sample_of, chosen), rubric),
    )


def _references(session: Session, rollouts: Sequence[Rollout]) -> dict[str, str]:
    row, shown = session.state.prompts.row, session.task.shown_reference
    return {rollout.prompt: shown(row(rollout.prompt)) for rollout in rollouts}


def find_unsure(rollouts: Sequence[Rollout], repeats: Mapping[str, Verdict]) -> list[str]:
    """Ids of the rollouts whose two judgements differ, those that differ most first."""
    gaps: dict[str, float] = {}
    for rollout in rollouts:
        first, again = rollout.verdict.reward, repeats.get(rollout.id)
        if first is not None and again and again.reward is not None and again.reward != first:
            gaps[rollout.id] = abs(again.reward - first)
    return sorted(gaps, key=lambda name: -gaps[name])


def group_verdicts(rollouts: Sequence[Rollout]) -> dict[tuple[int, str], list[Verdict]]:
    """Verdicts of each prompt group that a judge decided on."""
    groups: dict[tuple[int, str], list[Verdict]] = {}
    for rollout in rollouts:
        if rollout.verdict.source == "judge":
            groups.setdefault((rollout.batch, rollout.prompt), []).append(rollout.verdict)
    return groups


def recent_groups(session: Session, rollouts: Sequence[Rollout]) -> list[list[Sample]]:
    """The latest prompt groups, some answers of each."""
    groups: dict[tuple[int, str], list[Sample]] = {}
    for rollout in rollouts:
        if rollout.verdict.source == "judge":
            groups.setdefault((rollout.batch, rollout.prompt), []).append(session.context.sample_of(rollout))
    return [group[:RECENT_ANSWERS] for group in list(groups.values())[-RECENT_GROUPS:]]
