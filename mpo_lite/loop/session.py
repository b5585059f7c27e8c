"""A run in progress: its context, its directory, and its state.

The methods of ``Session`` alone change that state. Everyone else reads it, so that a resumed run has one
place to set back.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mpo_lite.errors import ConfigError, Interrupted
from mpo_lite.jsonl import JsonRow, write_journal
from mpo_lite.judge.base import Judge, Sample
from mpo_lite.loop.context import RunContext
from mpo_lite.loop.distributed import all_gather, is_main, rank, run_on_main, world_size
from mpo_lite.meta.gate import Gate
from mpo_lite.rubric import Rubric
from mpo_lite.rubric_versions import RubricVersion
from mpo_lite.run_dir import RunDir
from mpo_lite.tasks.data import Prompts
from mpo_lite.types import Completion, Rollout, Verdict

Answer = Callable[[Sequence[str]], list[Completion]]
"""The policy's present answers to prompts, one each."""


@dataclass
class RunState:
    """What changes while a run trains.

    Attributes:
        version: The current rubric.
        prompts: Those that fit the policy's context.
        batch: Generation batches done.
        anchor: The initial policy's answers to fixed prompts; empty before training, and where nothing needs
            them.
        replay: Journalled rollouts of batches that a resumed run does again, by batch and row.
        metrics: Figures of the last batch, until they are written.
        skip_update: Whether the batch can teach nothing: no group has two different rewards.
        interrupted: Whether the user asked to stop.
        closed: Whether the session can be used no more.
    """

    version: RubricVersion
    prompts: Prompts
    batch: int = 0
    anchor: tuple[Sample, ...] = ()
    replay: dict[tuple[int, int], Rollout] = field(default_factory=dict[tuple[int, int], Rollout])
    metrics: JsonRow = field(default_factory=dict[str, object])
    skip_update: bool = False
    interrupted: bool = False
    closed: bool = False


class Session:
    """A run in progress; reward function and callback work on it.

    Args:
        context: What the run works with.
        run: Where it writes; what was spent there before counts.

    Raises:
        ConfigError: Another job writes there.
    """

    def __init__(self, context: RunContext, run: RunDir) -> None:
        self.context, self.run = context, run
        self.config, self.task, self.models, self.meta = (
            context.config, context.task, context.models, context.meta,
        )  # fmt: skip
        self.state = RunState(context.first, context.prompts)
        self._cleanups: list[Callable[[], None]] = []
        run_on_main(run.lock)
        try:
            self._open_run()
        except BaseException:
            run.unlock()  # or a second try in this process would wait for itself
            raise

    def _open_run(self) -> None:
        """Counts what was spent before, and publishes the first rubric of a new run."""
        run = self.run
        # The ledger of a process that this job does not have is taken over by one that it has.
        ledgers = [path for process, path in run.ledgers().items() if process % world_size() == rank()]
        own = run.ledger(rank())
        self.models.ledger.attach(own, [path for path in ledgers if path != own])
        self.models.log_calls(run.path)
        self.split_budget()
        self.gate_judge = self.context.make_gate_judge(run.trials)
        if is_main() and not (run.path / "rubrics" / "v000.yaml").exists():
            run.publish(self.context.first)

    @property
    def judge(self) -> Judge:
        """The judge of this batch: the fallback judge once that has taken over."""
        return self.models.judge()

    @property
    def rubric(self) -> Rubric:
        """The current rubric."""
        return self.state.version.rubric

    @property
    def gate(self) -> Gate | None:
        """Checks proposals; None without a gate, and before the initial policy has answered."""
        if not self.config.use_gate or not self.state.anchor:
            return None
        return Gate(self.gate_judge, self.state.anchor, self.task, self.config.gate)

    @property
    def uses_verifier(self) -> bool:
        """Whether the next batch is scored by the task's verifier alone: drawn alike by every process."""
        verifier = self.task.verifier
        coin = random.Random(f"coin-{self.config.seed}-{self.state.batch}").random()
        return verifier is not None and coin < verifier.rate

    def limit_prompts(self, prompts: Prompts) -> None:
        """Trains on these prompts only: the others do not fit the policy."""
        self.state.prompts = prompts

    def record_anchor(self, answer: Answer) -> None:
        """Has the initial policy answer fixed prompts, once per run: what every gate check rests on."""
        path, config, train = self.run.anchor, self.config, self.state.prompts.train
        if self.meta is None or (not config.use_gate and config.strategy == "samples"):
            return
        count = min(config.gate.prompts, len(train))
        if len(self.run.rows(path)) < count:  # only at the first batch: later checkpoints count these rows
            prompts = random.Random(f"anchor-{config.seed}").sample(train, count)
            write_journal(path, map(answer_row, prompts, answer(prompts)))
        self.load_anchor()

    def load_anchor(self) -> None:
        """Takes the initial policy's answers from the run's journal."""
        self.state.anchor = tuple(self.to_samples(self.run.rows(self.run.anchor)))

    def to_samples(self, rows: Sequence[JsonRow]) -> list[Sample]:
        """Rows of ``answer_row`` as judges take them."""
        sample = self.context.sample
        return [sample(row["prompt"], row["completion"], row.get("truncated", False)) for row in rows]

    def resume(self, batch: int, version: int, fell_back: bool = False) -> list[Rollout]:
        """Goes back to where ``batch`` generation batches were done under rubric ``version``.

        Returns:
            All rollouts of those batches.
        """
        run_on_main(lambda: self.run.rewind(batch))
        if fell_back and not (
            self.models.fell_back or self.context.fall_back("it did before the run was stopped")
        ):
            raise ConfigError(f"{self.run.path}: its fallback judge took over; name it by --judge-fallback")
        self.state.batch, self.state.version = batch, self.run.version(version)
        journalled = self.run.read_rollouts()
        self.state.replay = {
            (rollout.batch, rollout.row): rollout for rollout in journalled if rollout.batch > batch
        }
        return [rollout for rollout in journalled if rollout.batch <= batch]

    def use_version(self, version: RubricVersion) -> None:
        """Judges by this version from the next batch on."""
        self.state.version = version

    def publish(self, rubric: Rubric, author: str, scale: float, offset: float) -> None:
        """Writes a new rubric version and judges by it from the next batch on."""
        parent = self.state.version.number
        self.use_version(RubricVersion(parent + 1, parent, self.state.batch, author, rubric, scale, offset))
        self.run.publish(self.state.version)

    def journalled_verdict(self, row: int, completion: str) -> Verdict | None:
        """The verdict that a killed run journalled of this very completion in this batch, by this rubric."""
        old = self.state.replay.get((self.state.batch + 1, row))
        same = old and old.verdict.set_hash == self.rubric.set_hash and old.completion == completion
        return old.verdict if old and same else None

    def finish_batch(self, metrics: JsonRow) -> None:
        """Counts a batch as done, with its figures."""
        self.state.batch += 1
        self.state.metrics = metrics

    def add_metrics(self, **figures: object) -> None:
        """Adds figures to those of the last batch."""
        self.state.metrics |= figures

    def take_metrics(self) -> JsonRow:
        """The figures of the last batch, once."""
        metrics, self.state.metrics = self.state.metrics, {}
        return metrics

    def skip_update(self, skip: bool) -> None:
        """Sets whether the optimiser leaves this batch out."""
        self.state.skip_update = skip

    def split_budget(self) -> None:
        """Divides what is left of the caps among the processes; a collective call."""
        budget = self.models.client.budget
        spent = all_gather(budget.spent())
        others = [spend for process, spend in enumerate(spent) if process != rank()]
        elsewhere = {name: sum(spend[name] for spend in others) for name in spent[0]}
        budget.divide(elsewhere, world_size())

    def spend(self) -> JsonRow:
        """Calls, tokens and USD of all processes; a collective call."""
        parts = all_gather(self.models.spend())
        unpriced = any(part["usd"] is None for part in parts)
        sums = {name: sum(part[name] or 0 for part in parts) for name in parts[0]}
        return sums | {"usd": None if unpriced else round(sums["usd"], 6)}

    def interrupt(self) -> None:
        """Asks the run to stop at the next safe point."""
        self.state.interrupted = True

    def raise_if_interrupted(self) -> None:
        """Raises ``Interrupted`` once the user has asked to stop."""
        if self.state.interrupted:
            raise Interrupted("stopped on request")

    def at_close(self, cleanup: Callable[[], None]) -> None:
        """Has something called when the session is closed."""
        self._cleanups.append(cleanup)

    def close(self, wait: bool = True) -> None:
        """Stores the answers still in flight, closes connections and cache, and frees the run directory.
        Further calls do nothing.

        Args:
            wait: For those answers. Not during garbage collection, which may run while any lock is held.
        """
        if self.state.closed:
            return
        self.state.closed = True
        for cleanup in self._cleanups:
            cleanup()
        self.context.close(wait)
        if is_main():
            self.run.unlock()


def answer_row(prompt: str, completion: Completion) -> JsonRow:
    """The policy's answer to a fixed prompt as it is journalled."""
    return {"prompt": prompt, "completion": completion.text, "truncated": completion.truncated}
