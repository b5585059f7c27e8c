"""Judgements that begin before their batch is whole: each completion goes to the judge as it ends.

What a batch asks for is looked up by its very text, under the rubric and judge that are in force for the
whole of it. So what began early decides when a call is made and nothing else: a mismatch costs a call, never
a wrong reward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future

from mpo_lite.judge.base import Sample
from mpo_lite.judge.groupwise import group_by_prompt
from mpo_lite.llm import event_loop
from mpo_lite.loop.distributed import rank
from mpo_lite.loop.session import Session
from mpo_lite.tasks.rules import rule_verdict
from mpo_lite.types import Verdict

JudgingUnit = tuple[Sample, ...]
"""What one call judges: a completion, or the group of a prompt where the judge compares."""
PendingVerdicts = dict[JudgingUnit, Future[list[Verdict]]]


class Prefetcher:
    """The judgements under way for the batch that is being generated.

    Args:
        session: The run.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._prompts: Sequence[str] = ()
        self._size = 1
        self._ended: dict[int, str] = {}
        self._works: PendingVerdicts = {}

    def expect(self, prompts: Sequence[str], group_size: int) -> None:
        """A batch begins.

        Args:
            prompts: The task prompts of this process's B completions; those of one prompt stand together.
            group_size: Completions per prompt.
        """
        self.claim()
        self._prompts, self._ended = prompts, {}
        self._size = group_size if self._session.config.judge_mode == "groupwise" else 1

    def ended(self, row: int, completion: str) -> None:
        """A completion has ended; told again, with the same text, it is not asked for again."""
        session = self._session
        if self._ended.get(row) == completion or session.interrupted:
            return
        if not session.config.overlap or session.uses_verifier:
            return
        self._ended[row] = completion
        first = row - row % self._size
        rows = range(first, min(first + self._size, len(self._prompts)))
        if all(each in self._ended for each in rows):
            samples = [
                session.sample(self._prompts[each], self._ended[each]) for each in rows if self._open(each)
            ]
            for unit in judging_units(session, samples):
                if unit not in self._works:
                    work = session.judge.verdicts(unit, session.version.rubric)
                    self._works[unit] = event_loop.submit(work)

    def claim(self) -> PendingVerdicts:
        """Hands over what is under way, and forgets it."""
        works, self._works = self._works, {}
        return works

    def _open(self, row: int) -> bool:
        """Whether a completion needs the judge: no rule decides, and no journal knows it."""
        session, text = self._session, self._ended[row]
        known = session.journalled_verdict(rank() * len(self._prompts) + row, text)
        return known is None and rule_verdict(text, session.set_hash, session.task.rules) is None


def judging_units(session: Session, samples: Sequence[Sample]) -> Iterator[JudgingUnit]:
    """The samples as they are judged together, in order."""
    if session.config.judge_mode == "groupwise":
        yield from map(tuple, group_by_prompt(samples, session.config.group_size))
    else:
        yield from ((sample,) for sample in samples)
