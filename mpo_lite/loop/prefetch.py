"""Judgements that begin before their batch is whole: each completion goes to the judge as it ends.

What a batch asks for is looked up by its very text, under the rubric and judge that hold for the whole of it.
So prefetching decides when a call is made and nothing else: a mismatch costs a call, never a wrong reward.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpo_lite.llm import event_loop
from mpo_lite.loop.distributed import rank
from mpo_lite.loop.judging import PendingVerdicts, judging_units, verdict_by_rule
from mpo_lite.loop.session import Session
from mpo_lite.types import Completion


class Prefetcher:
    """The judgements under way for the batch that is being generated.

    Args:
        session: The run.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._prompts: Sequence[str] = ()
        self._unit_size = 1
        self._completions: dict[int, Completion] = {}
        self._pending: PendingVerdicts = {}

    def start_batch(self, prompts: Sequence[str], group_size: int) -> None:
        """Expects the completions of a batch.

        Args:
            prompts: The task prompts of this process's B completions; those of one prompt stand together.
            group_size: Completions per prompt.
        """
        self.take_pending()
        self._prompts, self._completions = prompts, {}
        self._unit_size = group_size if self._session.config.judge_mode == "groupwise" else 1

    def add_completion(self, row: int, completion: Completion) -> None:
        """Has a completion judged that has ended; a second call with the same one does nothing."""
        session = self._session
        if self._completions.get(row) == completion or session.state.interrupted:
            return
        if not session.config.overlap or session.uses_verifier:
            return
        self._completions[row] = completion
        first = row - row % self._unit_size
        rows = range(first, min(first + self._unit_size, len(self._prompts)))
        if not all(each in self._completions for each in rows):
            return  # the rest of the group is still being generated
        samples = [
            session.context.sample(self._prompts[each], *self._completions[each])
            for each in rows
            if self._needs_judge(each)
        ]
        for unit in judging_units(session, samples):
            if unit not in self._pending:
                self._pending[unit] = event_loop.submit(session.judge.verdicts(unit, session.rubric))

    def take_pending(self) -> PendingVerdicts:
        """Hands over the judgements under way."""
        pending, self._pending = self._pending, {}
        return pending

    def _needs_judge(self, row: int) -> bool:
        """Whether neither a rule nor a killed run's journal decides on a completion."""
        session, completion = self._session, self._completions[row]
        if session.journalled_verdict(rank() * len(self._prompts) + row, completion.text):
            return False
        return verdict_by_rule(session, session.context.sample(self._prompts[row], *completion)) is None
