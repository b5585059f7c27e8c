"""Several judgements of one completion: by several judges, or by one judge asked again."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mpo_lite.config import Config
from mpo_lite.judge.base import Judge, Sample, gather_with_deadline
from mpo_lite.judge.groupwise import GroupwiseJudge
from mpo_lite.judge.planned import PlannedJudge
from mpo_lite.judge.pointwise import PointwiseJudge
from mpo_lite.llm.client import Client
from mpo_lite.llm.ledger import Purpose
from mpo_lite.llm.models import Backend
from mpo_lite.rubric import Rubric
from mpo_lite.types import Assessment, Verdict


@dataclass(frozen=True)
class Panel:
    """The mean of several judges.

    All of them must judge a completion: in a mean over those that happened to answer, rewards would move by
    who was missing.

    Attributes:
        members: Name → judge.
    """

    members: dict[str, Judge]

    async def verdicts(self, samples: Sequence[Sample], rubric: Rubric) -> list[Verdict]:
        """See ``Judge.verdicts``."""
        works = [judge.verdicts(samples, rubric) for judge in self.members.values()]
        found = await gather_with_deadline(works, list[Verdict]())
        return [combine(dict(zip(self.members, each, strict=True))) for each in zip(*found, strict=True)]


def combine(verdicts: dict[str, Verdict]) -> Verdict:
    """One verdict out of those of all judges.

    Returns:
        The mean reward, and per criterion the lower median of the levels with every judge's reason; without a
        reward where any judge gave none.
    """
    given = list(verdicts.values())
    judges = " + ".join(dict.fromkeys(verdict.judge for verdict in given))
    if missing := next((verdict for verdict in given if verdict.reward is None), None):
        return replace(missing, judge=judges)
    rewards = [verdict.reward or 0.0 for verdict in given]
    assessments = {
        name: Assessment(
            "\n".join(
                f"{judge} ({verdict.assessments[name].level}): {verdict.assessments[name].reason}"
                for judge, verdict in verdicts.items()
            ),
            statistics.median_low(verdict.assessments[name].level for verdict in given),
        )
        for name in given[0].assessments
    }
    spread = max(rewards) - min(rewards)
    mean, identity = statistics.fmean(rewards), given[0].set_hash
    return Verdict(mean, identity, assessments, judge=judges, disagreement=spread)


def build_judge(
    config: Config,
    client: Client,
    backends: Sequence[Backend],
    persona: str,
    purpose: Purpose = "judge",
    draw: str = "",
) -> Judge:
    """The judge that a configuration asks for: one model asked once, or a panel.

    Args:
        config: Decides mode, replicates and time.
        client: Asks the models.
        backends: The panel's models, at least one.
        persona: Who they are to be.
        purpose: What the ledger counts their calls as.
        draw: Gives a second judgement of the same answers a draw of its own.
    """
    members: dict[str, Judge] = {}
    for which in backends:
        for replicate in range(config.replicates):
            own = f"{draw}replicate-{replicate}" if replicate else draw
            single = PointwiseJudge(client, which, persona, config.batch_timeout, own, purpose)
            name = which.label + (f" #{replicate + 1}" if config.replicates > 1 else "")
            members[name] = _in_mode(config, single)
    return Panel(members) if len(members) > 1 else next(iter(members.values()))


def _in_mode(config: Config, single: PointwiseJudge) -> Judge:
    if config.judge_mode == "groupwise":
        return GroupwiseJudge(single, config.group_size)
    return PlannedJudge(single) if config.judge_mode == "planned" else single
