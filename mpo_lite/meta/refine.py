"""Meta steps on existing answers, without training, optionally checked against human labels.

With labels, the answers are split: the meta-judge sees one half with its labels, and the other half decides
whether a new rubric agrees better with people. The result is what an automatic prompt optimiser gives: the
baseline *autoprompt* of arXiv 2504.20157.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mpo_lite.config import Config
from mpo_lite.judge.base import Sample
from mpo_lite.judge.breaker import FailureTally
from mpo_lite.meta.cases import Background
from mpo_lite.meta.criterion_stats import criterion_stats, describe_stats
from mpo_lite.meta.gate import RECENT_ANSWERS, RECENT_GROUPS, Gate, GateResult
from mpo_lite.meta.gate_judge import BudgetedJudge
from mpo_lite.meta.history import PastVersion, RefusedProposal, describe_history
from mpo_lite.meta.margins import kendall_tau
from mpo_lite.meta.meta_judge import MetaJudge
from mpo_lite.meta.meta_model import Question
from mpo_lite.meta.objections import Objection, join_complaints
from mpo_lite.meta.sampling import find_rivals, stratified_sample
from mpo_lite.meta.step import Attempt, StepInput, StepOutcome, choose_badly_judged, improve_rubric
from mpo_lite.rubric import Rubric
from mpo_lite.tasks.spec import Task
from mpo_lite.types import Rollout, Verdict

Labels = Sequence[float | None]


@dataclass(frozen=True)
class Round:
    """One meta step on existing answers.

    Attributes:
        number: From 1.
        rubric: The rubric after it.
        outcome: What was proposed and why it was taken or not.
        agreement: Kendall's tau between people's labels and the scores of ``rubric``, on answers the
            meta-judge is not shown; None without labels.
    """

    number: int
    rubric: Rubric
    outcome: StepOutcome
    agreement: float | None


@dataclass(frozen=True)
class _Answers:
    """The first rubric, the answers, their human labels, and the rows held out from the meta-judge."""

    start: Rubric
    samples: Sequence[Sample]
    labels: Labels
    unseen: frozenset[int]

    @classmethod
    def of(cls, start: Rubric, samples: Sequence[Sample], labels: Labels, seed: int) -> _Answers:
        labels = labels or [None] * len(samples)
        labelled = [row for row, label in enumerate(labels) if label is not None]
        drawn = random.Random(f"labels-{seed}").sample(labelled, len(labelled) // 2)
        return cls(start, samples, labels, frozenset(drawn))

    @property
    def given(self) -> list[float]:
        return [label for label in self.labels if label is not None]

    def anchor(self, count: int) -> list[Sample]:
        """Answers to different prompts, to compare known-bad ones with: the better half, if labelled."""
        middle = statistics.median(self.given) if self.given else 0.0
        good = {
            sample.prompt: sample
            for sample, label in zip(self.samples, self.labels, strict=True)
            if not self.given or (label is not None and label >= middle)
        }
        return list(good.values())[:count]

    async def judge(self, gate_judge: BudgetedJudge, rubric: Rubric, number: int) -> list[Rollout]:
        """The answers that the meta-judge may see, judged."""
        rows = [row for row in range(len(self.samples)) if row not in self.unseen]
        verdicts = await gate_judge.verdicts([self.samples[row] for row in rows], rubric, number)
        rollouts: list[Rollout] = []
        for row, verdict in zip(rows, verdicts, strict=True):
            sample, label = self.samples[row], self.labels[row]
            said = (
                None
                if label is None
                else f"A person gave it {label:g} ({self._scale}, more is better); where the judge and the "
                "person disagree, the person is right."
            )
            rollouts.append(_rollout(row, sample, verdict, number, said))
        return rollouts

    async def agreement(self, gate_judge: BudgetedJudge, rubric: Rubric, number: int) -> float | None:
        """Kendall's tau of labels and scores on the unseen rows; None where there are no labels."""
        rows = sorted(self.unseen)
        if not rows:
            return None
        verdicts = await gate_judge.verdicts([self.samples[row] for row in rows], rubric, number)
        return kendall_tau([self.labels[row] for row in rows], [verdict.reward for verdict in verdicts])

    @property
    def _scale(self) -> str:
        return f"{min(self.given):g} to {max(self.given):g} were given"


async def refine_rubric(
    meta: MetaJudge,
    gate_judge: BudgetedJudge,
    task: Task,
    config: Config,
    rubric: Rubric,
    samples: Sequence[Sample],
    labels: Labels = (),
    on_round: Callable[[Round], None] = lambda _: None,
) -> list[Round]:
    """Refines a rubric.

    Args:
        meta: Proposes.
        gate_judge: Judges the answers.
        task: Declares the sentinels.
        config: ``rounds``, ``meta_samples``, ``use_gate``, ``strategy``, ``prescreen``, ``gate``, ``seed``
            and ``max_judge_failures``.
        rubric: Where to begin.
        samples: Answers, of any quality; at least two different prompts among them.
        labels: What people gave each, on any scale, more is better; None where nobody did. Or none at all.
        on_round: Called after each round.

    Returns:
        The rounds; the last one's rubric is the result.

    Raises:
        StopRun: A cap is reached, or more answers could not be judged than ``max_judge_failures`` allows.
        EndpointError: A model rejects calls permanently.
    """
    data = _Answers.of(rubric, samples, labels, config.seed)
    # With labels, the order that people gave counts, and not that of the old rubric.
    thresholds = config.gate.model_copy(update={"agreement": -1.0}) if data.unseen else config.gate
    gate = Gate(gate_judge, data.anchor(config.gate.prompts), task, thresholds)
    rounds: list[Round] = []
    for number in range(1, config.rounds + 1):
        shown = await data.judge(gate_judge, rubric, number)
        FailureTally.of([one.verdict for one in shown], config.max_judge_failures).check("answer")
        before = await data.agreement(gate_judge, rubric, number)
        material = await _material(meta, rubric, shown, data, config, rounds)
        outcome = await improve_rubric(meta, gate if config.use_gate else None, material, config.strategy)
        after = before
        if outcome.rubric and before is not None:
            after = await data.agreement(gate_judge, outcome.rubric, number)
            if after is None or after < before:
                outcome, after = _reject(outcome, before, after), before
        rubric = outcome.rubric or rubric
        rounds.append(Round(number, rubric, outcome, after))
        on_round(rounds[-1])
    return rounds


async def propose_once(
    meta: MetaJudge,
    rubric: Rubric,
    samples: Sequence[Sample],
    verdicts: Sequence[Verdict],
    draw: int,
    count: int,
) -> StepOutcome:
    """One meta step on judged answers, without a gate: shows whether a meta-judge is up to it.

    Args:
        meta: Proposes.
        rubric: What the answers were judged by.
        samples: N answers.
        verdicts: Theirs.
        draw: Another draw gets answers of its own from the meta-judge.
        count: How many answers to show it, at most.

    Raises:
        StopRun: A cap is reached.
        EndpointError: The meta-judge rejects calls permanently.
    """
    rollouts = [
        _rollout(row, sample, verdict)
        for row, (sample, verdict) in enumerate(zip(samples, verdicts, strict=True))
    ]
    chosen = stratified_sample(rollouts, count, "propose-once")
    if not chosen:
        return StepOutcome((Attempt("failed", None, "no judged answers to learn from"),))
    question = Question(rubric, f"batch-{draw}", describe_stats(criterion_stats(rubric, rollouts, {})))
    background = Background(references=_references(samples))
    return await improve_rubric(meta, None, StepInput(question, chosen, draw, background), "samples")


async def _material(
    meta: MetaJudge,
    rubric: Rubric,
    shown: Sequence[Rollout],
    data: _Answers,
    config: Config,
    rounds: Sequence[Round],
) -> StepInput:
    """What the next round has to go by."""
    number = len(rounds) + 1
    figures = describe_stats(criterion_stats(rubric, shown, {}))
    question = Question(rubric, f"batch-{number}", figures, _history(data.start, rounds))
    seed, count = f"refine-{config.seed}-{number}", config.meta_samples
    wrong = _most_wrong(shown, data.labels)
    background = Background(references=_references(data.samples))
    if config.prescreen:
        chosen = await choose_badly_judged(meta, question, shown, count, seed, wrong, background)
    else:
        chosen = stratified_sample(shown, count, seed, wrong)
    groups: dict[str, list[Sample]] = {}
    for rollout in shown:
        groups.setdefault(rollout.prompt, []).append(data.samples[rollout.row])
    several = [group[:RECENT_ANSWERS] for group in groups.values() if len(group) > 1][:RECENT_GROUPS]
    if data.given:
        several = []  # labels decide better than a threshold whether answers should differ
    rivals = find_rivals(chosen, shown)
    return StepInput(question, chosen, number, replace(background, rivals=rivals), several)


def _history(start: Rubric, rounds: Sequence[Round]) -> str:
    """What became of the rubrics and proposals of the rounds so far."""
    versions = [PastVersion("v0", start, "the first rubric", "")]
    refused: list[RefusedProposal] = []
    for round_ in rounds:
        current = versions[-1].rubric
        for attempt in round_.outcome.attempts:
            if attempt.status == "refused" and attempt.rubric:
                when = f"in round {round_.number}"
                reason = join_complaints(attempt.gate_result.objections)
                refused.append(RefusedProposal(when, attempt.rubric, current, reason))
        if round_.outcome.rubric:
            agreement = (
                ""
                if round_.agreement is None
                else (f"Its scores agree with people's labels by Kendall's tau {round_.agreement:.2f}.")
            )
            origin = f"your proposal in round {round_.number}"
            versions.append(PastVersion(f"v{len(versions)}", round_.outcome.rubric, origin, agreement))
    return describe_history(versions, refused)


def _rollout(
    row: int, sample: Sample, verdict: Verdict, version: int = 0, label: str | None = None
) -> Rollout:
    """A judged answer that comes from elsewhere than training."""
    return Rollout(
        batch=0,
        row=row,
        prompt=sample.prompt,
        completion=sample.completion,
        verdict=verdict,
        version=version,
        reward=verdict.reward,
        cluster=sample.cluster,
        label=label,
        truncated=sample.truncated,
    )


def _references(samples: Sequence[Sample]) -> dict[str, str]:
    return {sample.prompt: sample.reference for sample in samples}


def _most_wrong(shown: Sequence[Rollout], labels: Labels) -> list[str]:
    """Ids of labelled answers, those first whose place among the scores is farthest from that among the
    labels.
    """
    both = [
        (rollout.reward, label, rollout.id)
        for rollout in shown
        if (label := labels[rollout.row]) is not None and rollout.reward is not None
    ]
    by_score = {name: place for place, (_, _, name) in enumerate(sorted(both))}
    by_label = {
        name: place for place, (_, _, name) in enumerate(sorted(both, key=lambda one: (one[1], one[2])))
    }
    return sorted(by_score, key=lambda name: -abs(by_score[name] - by_label[name]))


def _reject(outcome: StepOutcome, before: float, after: float | None) -> StepOutcome:
    """The outcome after the labels have rejected the proposal."""
    last = outcome.attempts[-1]
    now = "unknown" if after is None else f"{after:.2f}"
    complaint = "it agrees less with people's labels"
    reason = f"{complaint} (Kendall's tau {now}, before {before:.2f})"
    figures = {**last.gate_result.figures, "labels_before": before} | (
        {} if after is None else {"labels": after}
    )
    gate_result = GateResult((Objection("labels", reason, complaint),), figures)
    attempt = Attempt("refused", last.rubric, reason, gate_result)
    return StepOutcome((*outcome.attempts[:-1], attempt), outcome.samples, outcome.failed)
