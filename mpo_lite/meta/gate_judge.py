"""Judging what is not trained on: the gate's answers, audits and probes, within a share of the calls.

Each such judgement is journalled, failed ones too. So a check that is repeated after a kill comes out as it
did, and the same answer under the same rubric is asked for once in a run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple
from pathlib import Path

from mpo_lite.jsonl import journal, read_rows
from mpo_lite.judge.base import Judge, Sample
from mpo_lite.records import Trial, verdict_of
from mpo_lite.rubric import Rubric
from mpo_lite.tasks.rules import rule_verdict
from mpo_lite.tasks.spec import Rules
from mpo_lite.types import Verdict, text_hash


class BudgetedJudge:
    """Judges answers apart from training.

    Args:
        judge: Gives the judge of a draw: ``""`` or ``again``, for a second judgement of the same answers,
            which is sampled.
        label: Names the judge in charge: after a fallback, verdicts of the former do not count.
        rules: Answers that break one are decided by it.
        kept: File to keep verdicts in; None keeps them in memory alone.

    Attributes:
        left: Judgements that may still be taken; whoever plans a check sees that it fits.
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
        rows = read_rows(kept, Trial) if kept else []
        self._known = {row["key"]: verdict_of(row["verdict"]) for row in rows}
        self._batches = {row["key"]: int(row["batch"]) for row in rows}
        self._replayed: dict[str, Verdict] = {}

    def is_decided_by_rule(self, sample: Sample) -> bool:
        """Whether a rule decides on an answer, whatever the rubric."""
        return rule_verdict(sample.completion, "", self._rules) is not None

    def rewind(self, batch: int) -> None:
        """Goes back to what was known when ``batch`` generation batches were done.

        What a killed run took from then on comes from the journal when it is asked for again, but is charged
        as it was then. Else a step done again would find more left than it did, and might end otherwise.
        """
        later = {key for key in self._known if self._batches[key] >= batch}
        self._replayed |= {key: self._known.pop(key) for key in later}

    def spent_before(self, batch: int) -> int:
        """Judgements taken by steps before the one at ``batch``."""
        return sum(earlier < batch for earlier in self._batches.values())

    def count_unjudged(self, samples: Sequence[Sample], rubric: Rubric, draw: str = "") -> int:
        """How many of these judgements would have to be asked for."""
        asked = [sample for sample in samples if not self.is_decided_by_rule(sample)]
        return len(set(self._keys(asked, rubric, draw)) - set(self._known))

    def recall(self, samples: Sequence[Sample], rubric: Rubric) -> list[float | None]:
        """Rewards as far as they are known; nothing is asked for."""
        return [
            verdict.reward if verdict else None
            for verdict in (
                rule_verdict(sample.completion, rubric.set_hash, self._rules) or self._known.get(key)
                for sample, key in zip(samples, self._keys(samples, rubric, ""), strict=True)
            )
        ]

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
        keys = self._keys(samples, rubric, draw)
        ruled = [rule_verdict(sample.completion, rubric.set_hash, self._rules) for sample in samples]
        fresh = {
            key: sample
            for key, sample, by_rule in zip(keys, samples, ruled, strict=True)
            if by_rule is None and key not in self._known
        }
        self.left -= len(fresh)
        self._known |= {key: self._replayed.pop(key) for key in fresh.keys() & self._replayed.keys()}
        if asked := {key: sample for key, sample in fresh.items() if key not in self._known}:
            given = await self._judge(draw).verdicts(list(asked.values()), rubric)
            self._keep(dict(zip(asked, given, strict=True)), batch)
        return [by_rule or self._known[key] for key, by_rule in zip(keys, ruled, strict=True)]

    def _keep(self, verdicts: dict[str, Verdict], batch: int) -> None:
        if self._kept:
            rows = ({"batch": batch, "key": key, "verdict": asdict(one)} for key, one in verdicts.items())
            journal(self._kept, rows)
        self._known |= verdicts
        self._batches |= dict.fromkeys(verdicts, batch)

    def _keys(self, samples: Sequence[Sample], rubric: Rubric, draw: str) -> list[str]:
        head = f"{self._label()}\x1f{rubric.set_hash}\x1f{draw}"
        return [text_hash(f"{head}\x1f{json.dumps(astuple(sample))}") for sample in samples]
