"""Judging what is not trained on: the gate's answers, audits and probes, within a share of the calls.

Each such judgement is journalled, failed ones too. So a check that is repeated after a kill comes out as it
did, and the same answer under the same rubric is asked for once in a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mpo_lite.jsonl import journal, read_rows
from mpo_lite.judge.base import CallCost, Judge, Sample
from mpo_lite.records import Trial, verdict_of
from mpo_lite.rubric import Rubric
from mpo_lite.tasks.rules import rule_verdict
from mpo_lite.tasks.spec import Rules
from mpo_lite.types import Verdict, text_hash


@dataclass(frozen=True)
class _Trial:
    """A judgement on record: when it was made, what came of it, and the calls that it depends on."""

    batch: int
    verdict: Verdict
    calls: tuple[str, ...]


class BudgetedJudge:
    """Judges answers apart from training.

    Args:
        judge: Gives the judge of a draw: ``""`` or ``again``, for a second judgement of the same answers,
            which is sampled.
        label: Names the judge in charge: after a fallback, verdicts of the former do not count.
        rules: Answers that break one are decided by it.
        kept: File to keep verdicts in; None keeps them in memory alone.

    Attributes:
        left: Calls that may still be made; whoever plans a check sees that it fits. What the cache answers
            is charged too: what a run decides must not depend on what other runs have asked.
    """

    def __init__(
        self,
        judge: Callable[[str], Judge],
        label: Callable[[], str],
        rules: Rules,
        kept: Path | None = None,
    ) -> None:
        self.left = float("inf")
        self._judge, self._label, self._rules, self._kept = judge, label, rules, kept
        self._on_record: dict[str, _Trial] = {}
        for row in read_rows(kept, Trial) if kept else []:
            trial = _Trial(int(row["batch"]), verdict_of(row["verdict"]), tuple(row["calls"]))
            self._on_record[row["key"]] = trial
        self._known = dict(self._on_record)
        self._charged = _calls_of(self._known.values())

    @property
    def cost(self) -> CallCost:
        """How many calls the judge's judgements take."""
        return self._judge("").cost

    def is_decided_by_rule(self, sample: Sample) -> bool:
        """Whether a rule decides on an answer, whatever the rubric."""
        return rule_verdict(sample.completion, "", self._rules) is not None

    def rewind(self, batch: int) -> None:
        """Goes back to what was known when ``batch`` generation batches were done.

        What a killed run asked from then on comes from the journal when it is asked for again, but is charged
        as it was then. Else a step done again would find more left than it did, and might end otherwise.
        """
        self._known = {key: trial for key, trial in self._on_record.items() if trial.batch < batch}
        self._charged = _calls_of(self._known.values())

    def spent_before(self, batch: int) -> int:
        """Calls made by steps before the one at ``batch``."""
        return len(_calls_of(trial for trial in self._on_record.values() if trial.batch < batch))

    def count_calls(self, parts: Sequence[Sequence[Sample]], rubric: Rubric, draw: str = "") -> int:
        """How many calls it would take to judge samples, beyond those that have been made.

        Args:
            parts: Samples that are judged together, for each time that ``verdicts`` is to be called.
            rubric: What they are judged by.
            draw: See above.
        """
        needed: set[str] = set()
        for samples in parts:
            needed.update(*self._name_calls(self._find_new(samples, rubric, draw), rubric, draw).values())
        return len(needed - self._charged)

    def recall(self, samples: Sequence[Sample], rubric: Rubric) -> list[float | None]:
        """Rewards as far as they are known; nothing is asked for."""
        verdicts = [
            rule_verdict(sample.completion, rubric.set_hash, self._rules) or self._recall(key)
            for sample, key in zip(samples, self._keys(samples, rubric, ""), strict=True)
        ]
        return [verdict.reward if verdict else None for verdict in verdicts]

    async def verdicts(
        self, samples: Sequence[Sample], rubric: Rubric, batch: int, draw: str = ""
    ) -> list[Verdict]:
        """Judges, rules first; see ``Judge.verdicts``.

        Args:
            samples: N answers.
            rubric: What to judge by.
            batch: Generation batches done; for the account.
            draw: See above.
        """
        new = self._find_new(samples, rubric, draw)
        calls = self._name_calls(new, rubric, draw)
        uncharged = set[str]().union(*calls.values()) - self._charged
        self.left -= len(uncharged)
        self._charged |= uncharged
        if asked := {key: sample for key, sample in new.items() if key not in self._on_record}:
            given = await self._judge(draw).verdicts(list(asked.values()), rubric)
            pairs = zip(asked, given, strict=True)
            self._keep({key: _Trial(batch, verdict, calls[key]) for key, verdict in pairs})
        self._known |= {key: self._on_record[key] for key in new}
        keys = self._keys(samples, rubric, draw)
        return [
            rule_verdict(sample.completion, rubric.set_hash, self._rules) or self._known[key].verdict
            for key, sample in zip(keys, samples, strict=True)
        ]

    def _find_new(self, samples: Sequence[Sample], rubric: Rubric, draw: str) -> dict[str, Sample]:
        """Key → sample, of those that neither a rule nor a known verdict decides."""
        undecided = [sample for sample in samples if not self.is_decided_by_rule(sample)]
        keyed = zip(self._keys(undecided, rubric, draw), undecided, strict=True)
        return {key: sample for key, sample in keyed if key not in self._known}

    def _name_calls(
        self, samples: Mapping[str, Sample], rubric: Rubric, draw: str
    ) -> dict[str, tuple[str, ...]]:
        """Key → the calls that its judgement depends on, if these samples are judged together."""
        head = f"{self._label()}\x1f{rubric.set_hash}\x1f{draw}"
        named = self.cost.name_calls(list(samples.values()))
        return {
            key: tuple(text_hash(f"{head}\x1f{call!r}") for call in calls)
            for key, calls in zip(samples, named, strict=True)
        }

    def _recall(self, key: str) -> Verdict | None:
        trial = self._known.get(key)
        return trial.verdict if trial else None

    def _keep(self, trials: Mapping[str, _Trial]) -> None:
        if self._kept:
            journal(self._kept, ({"key": key, **asdict(trial)} for key, trial in trials.items()))
        self._on_record |= trials

    def _keys(self, samples: Sequence[Sample], rubric: Rubric, draw: str) -> list[str]:
        head = f"{self._label()}\x1f{rubric.set_hash}\x1f{draw}"
        return [
            text_hash("\x1f".join((head, sample.cluster, sample.prompt, sample.completion)))
            for sample in samples
        ]


def _calls_of(trials: Iterable[_Trial]) -> set[str]:
    return {call for trial in trials for call in trial.calls}
