"""Meta steps on existing answers, without training, optionally checked against human labels.

With labels, the answers are split: the meta-judge sees one half with its labels, and the other half decides
whether a new rubric agrees better with people. The result is what an automatic prompt optimiser gives: the
baseline *autoprompt* of arXiv 2504.20157.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mpo_lite.config import Config
from mpo_lite.judge.base import Sample
from mpo_lite.judge.breaker import FailureTally
from mpo_lite.meta.criterion_stats import criterion_stats, describe_stats
from mpo_lite.meta.gate import Gate, GateResult
from mpo_lite.meta.gate_judge import BudgetedJudge
from mpo_lite.meta.margins import kendall_tau
from mpo_lite.meta.meta_judge import MetaJudge
from mpo_lite.meta.objections import Objection
from mpo_lite.meta.sampling import stratified_sample
from mpo_lite.meta.step import Attempt, StepInput, StepOutcome, improve_rubric
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
    """The answers, their human labels, and the rows that are held out from the meta-judge."""

    samples: Sequence[Sample]
    labels: Labels
    unseen: frozenset[int]

    @classmethod
    def of(cls, samples: Sequence[Sample], labels: Labels, seed: int) -> _Answers:
        labels = labels or [None] * len(samples)
        labelled = [row for row, label in enumerate(labels) if label is not None]
        drawn = random.Random(f"labels-{seed}").sample(labelled, len(labelled) // 2)
        return cls(samples, labels, frozenset(drawn))

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
            said = None if label is None else f"A person gave it {label:g} ({self._scale}, more is better)"
            text, cluster = (sample.prompt, sample.completion), sample.cluster
            rollouts.append(Rollout(0, row, *text, verdict, number, verdict.reward, cluster, said))
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
    data = _Answers.of(samples, labels, config.seed)
    # With labels, the order that people gave counts, and not that of the old rubric.
    thresholds = config.gate.model_copy(update={"agreement": -1.0}) if data.unseen else config.gate
    gate = Gate(gate_judge, data.anchor(config.gate.prompts), task, thresholds)
    rounds: list[Round] = []
    for number in range(1, config.rounds + 1):
        shown = await data.judge(gate_judge, rubric, number)
        FailureTally.of([one.verdict for one in shown], config.max_judge_failures).check("answer")
        before = await data.agreement(gate_judge, rubric, number)
        material = _material(rubric, shown, data.labels, config, number)
        outcome = await improve_rubric(
            meta,
            gate if config.use_gate else None,
            material,
            config.strategy,
            config.meta_samples,
            config.prescreen,
        )
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
        Rollout(0, row, one.prompt, one.completion, verdict, 0, verdict.reward, one.cluster)
        for row, (one, verdict) in enumerate(zip(samples, verdicts, strict=True))
    ]
    chosen = stratified_sample(rollouts, count, "propose-once")
    if not chosen:
        return StepOutcome((Attempt("failed", None, "no judged answers to learn from"),))
    figures = describe_stats(criterion_stats(rubric, rollouts, {}))
    return await improve_rubric(
        meta, None, StepInput(rubric, chosen, {}, [], figures, draw), "samples", count, prescreen=False
    )


def _material(
    rubric: Rubric, shown: Sequence[Rollout], labels: Labels, config: Config, number: int
) -> StepInput:
    chosen = stratified_sample(
        shown,
        config.meta_samples * (2 if config.prescreen else 1),
        f"refine-{config.seed}-{number}",
        _most_wrong(shown, labels),
    )
    groups: dict[str, list[Sample]] = {}
    for rollout in shown:
        sample = Sample(rollout.prompt, rollout.completion, rollout.cluster)
        groups.setdefault(rollout.prompt, []).append(sample)
    several = [group[:4] for group in groups.values() if len(group) > 1][:3]
    if any(label is not None for label in labels):
        several = []  # labels decide better than a threshold whether answers should differ
    figures = describe_stats(criterion_stats(rubric, shown, {}))
    return StepInput(rubric, chosen, {}, several, figures, number)


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
    reason = f"it agrees less with people's labels (Kendall's tau {now}, before {before:.2f})"
    figures = {**last.gate_result.figures, "labels_before": before} | (
        {} if after is None else {"labels": after}
    )
    gate_result = GateResult((Objection("labels", reason),), figures)
    attempt = Attempt("refused", last.rubric, reason, gate_result)
    return StepOutcome((*outcome.attempts[:-1], attempt), outcome.samples, outcome.failed)
