"""Several judgements of one completion: by several judges, or by one judge asked several times."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mpo_lite.config import Config
from mpo_lite.judge.base import CallCost, Judge, Sample, gather_with_deadline
from mpo_lite.judge.groupwise import GroupwiseJudge
from mpo_lite.judge.planned import PlannedJudge
from mpo_lite.judge.pointwise import PointwiseJudge
from mpo_lite.llm.client import Client
from mpo_lite.llm.ledger import Purpose
from mpo_lite.llm.models import Backend
from mpo_lite.rubric import Rubric
from mpo_lite.types import Assessment, Brief, Verdict


@dataclass(frozen=True)
class Panel:
    """The mean of several judges.

    All of them must judge a completion: in a mean over those that happened to answer, rewards would depend on
    which judge was missing.

    Attributes:
        members: Name → judge; all in the same mode.
    """

    members: dict[str, Judge]

    @property
    def cost(self) -> CallCost:
        """See ``Judge.cost``."""
        member = next(iter(self.members.values()))
        return replace(member.cost, judges=len(self.members))

    async def verdicts(self, samples: Sequence[Sample], rubric: Rubric) -> list[Verdict]:
        """See ``Judge.verdicts``."""
        return [combine_verdicts(by_judge) for by_judge in await self.verdicts_by_judge(samples, rubric)]

    async def verdicts_by_judge(self, samples: Sequence[Sample], rubric: Rubric) -> list[dict[str, Verdict]]:
        """For each sample: the name of each judge → its verdict."""
        works = [judge.verdicts(samples, rubric) for judge in self.members.values()]
        verdicts = await gather_with_deadline(works, list[Verdict]())
        return [dict(zip(self.members, row, strict=True)) for row in zip(*verdicts, strict=True)]


def combine_verdicts(verdicts: dict[str, Verdict]) -> Verdict:
    """Combines the verdicts of all judges into one.

    Returns:
        The mean reward, and per criterion the lower median of the levels with every judge's reason; no reward
        if any judge gave none.
    """
    panel = list(verdicts.values())
    judges = " + ".join(dict.fromkeys(verdict.judge for verdict in panel))
    # One missing reward makes the whole panel's missing; see Panel.
    if missing := next((verdict for verdict in panel if verdict.reward is None), None):
        return replace(missing, judge=judges)
    rewards = [verdict.reward or 0.0 for verdict in panel]
    assessments = {
        name: Assessment(
            "\n".join(
                f"{judge} ({verdict.assessments[name].level}): {verdict.assessments[name].reason}"
                for judge, verdict in verdicts.items()
            ),
            # With an even number of judges, the stricter of the two middle levels.
            statistics.median_low(verdict.assessments[name].level for verdict in panel),
        )
        for name in panel[0].assessments
    }
    disagreement = max(rewards) - min(rewards)
    mean, set_hash = statistics.fmean(rewards), panel[0].set_hash
    return Verdict(mean, set_hash, assessments, judge=judges, disagreement=disagreement)


def build_judge(
    config: Config,
    client: Client,
    backends: Sequence[Backend],
    brief: Brief,
    purpose: Purpose = "judge",
    draw: str = "",
) -> Judge:
    """Builds the judge that a configuration describes: one model asked once, or a panel.

    Args:
        config: Sets mode, replicates and timeout.
        client: Asks the models.
        backends: The panel's models, at least one.
        brief: What they are told of the task.
        purpose: Category under which the ledger counts their calls.
        draw: Distinguishes a second judgement of the same answers from the first.
    """
    members: dict[str, Judge] = {}
    for backend in backends:
        for replicate in range(config.replicates):
            # The first one keeps the plain cache key: more replicates reuse the verdicts of fewer.
            replicate_draw = f"{draw}replicate-{replicate}" if replicate else draw
            single = PointwiseJudge(client, backend, brief, config.batch_timeout, replicate_draw, purpose)
            name = backend.label + (f" #{replicate + 1}" if config.replicates > 1 else "")
            members[name] = _apply_mode(config, single)
    return Panel(members) if len(members) > 1 else next(iter(members.values()))


def _apply_mode(config: Config, single: PointwiseJudge) -> Judge:
    if config.judge_mode == "groupwise":
        return GroupwiseJudge(single, config.group_size)
    return PlannedJudge(single) if config.judge_mode == "planned" else single
