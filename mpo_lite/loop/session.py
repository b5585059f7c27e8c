"""What a training run knows besides its weights: configuration, task, models, rubric in force, journal.

Everything that can be wrong with a user's input is found here, before torch is loaded or a call is paid.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from mpo_lite.config import Config
from mpo_lite.errors import ConfigError, Interrupted, UsageError
from mpo_lite.jsonl import JsonRow, write_journal
from mpo_lite.judge.base import Sample
from mpo_lite.judge.pool import ModelPool
from mpo_lite.loop.distributed import all_gather, is_main, rank, run_on_main, world_size
from mpo_lite.meta.gate import Gate
from mpo_lite.meta.gate_judge import BudgetedJudge
from mpo_lite.meta.meta_judge import MetaJudge
from mpo_lite.rubric import Rubric
from mpo_lite.run_dir import RubricVersion, RunDir, rubric_at
from mpo_lite.tasks.data import Prompts, load_prompts
from mpo_lite.tasks.spec import Task, task_of
from mpo_lite.types import Rollout, Verdict, text_hash

Answer = Callable[[Sequence[str]], list[str]]
"""The policy's present answers to prompts, one each."""
Observer = Callable[[str, JsonRow], None]
"""Told of ``note``, ``gold``, ``step``, ``alarm`` and ``meta`` events as they happen, each with its row."""


class Session:
    """The state of one run; reward function and callback work on it.

    Attributes:
        beside: A meta step that runs beside training.
        closed: Whether it can be used no more.

    Args:
        config: Resolved configuration.
        observe: Told what happens.
        prompts: Stand in place of the task's data; None reads those.

    Raises:
        UsageError: Configuration, task, data or rubric cannot work.
    """

    def __init__(
        self,
        config: Config,
        observe: Observer = lambda kind, row: None,
        prompts: Prompts | None = None,
    ) -> None:
        self.task = task_of(config)
        self.config = config = config.model_copy(
            update={"judge_mode": config.judge_mode or self.task.judge_mode}
        )
        self.observe = observe
        self.models = ModelPool(config, self.task.persona, config.asks_meta, world_size())
        try:
            first, origin = _first_rubric(config, self.task)
            self.gold, self.verify = self.task.gold_metric(), self.task.verify_metric()
            self.prompts = prompts or load_prompts(self.task.data)
        except UsageError:
            self.models.close()
            raise
        self.version = RubricVersion(0, None, 0, origin, first)
        self.client = self.models.client
        self.judge = self.models.judge()
        meta = self.models.meta
        self.meta = MetaJudge(self.client, meta, self.task.purpose) if meta else None
        self.gate_judge = self._make_gate_judge(None)
        self.anchor: tuple[Sample, ...] = ()
        self.gate: Gate | None = None
        self.beside: Future[JsonRow] | None = None
        self.batch = 0
        self.replay: dict[tuple[int, int], Rollout] = {}
        self.skip_update = False
        self.interrupted = False
        self.closed = False
        self.batch_row: JsonRow = {}
        self._run: RunDir | None = None

    @property
    def run(self) -> RunDir:
        """The run directory; there is one once ``attach`` was called."""
        if self._run is None:
            raise RuntimeError("the session has no run directory yet: call attach first")
        return self._run

    @property
    def set_hash(self) -> str:
        """Identity of the rubric in force."""
        return self.version.rubric.set_hash

    @property
    def prompts_hash(self) -> str:
        """Identity of what is trained on, references included: a checkpoint's place in the order of the
        prompts holds for these alone, and rewards for these references.
        """
        rows = map(self.prompts.row, self.prompts.train)
        told = [(row["prompt"], row.get("reference"), row.get("cluster")) for row in rows]
        return text_hash(json.dumps(told, default=str))

    @property
    def max_new_tokens(self) -> int:
        """Longest completion of the policy in tokens."""
        return self.config.max_new_tokens or self.task.generation.max_new_tokens

    def sample(self, prompt: str, completion: str) -> Sample:
        """A prompt of this run and an answer to it, as judges take them."""
        return Sample(prompt, completion, self.prompts.cluster(prompt))

    @property
    def uses_verifier(self) -> bool:
        """Whether the next batch is scored by the task's verifier alone: a coin that every process throws."""
        verifier = self.task.verifier
        coin = random.Random(f"coin-{self.config.seed}-{self.batch}").random()
        return verifier is not None and coin < verifier.rate

    def attach(self, run: RunDir) -> None:
        """Takes ``run`` as the place to write to; its spend so far counts.

        Raises:
            ConfigError: Another job writes there.
        """
        run_on_main(run.lock)
        self._run = run
        # An account of a process that this job does not have falls to one that it has.
        mine = [path for process, path in run.ledgers().items() if process % world_size() == rank()]
        own = run.ledger(rank())
        self.models.ledger.attach(own, [path for path in mine if path != own])
        self.models.log_calls(run.path)
        self.split_budget()
        self.gate_judge = self._make_gate_judge(run)
        if is_main() and not (run.path / "rubrics" / "v000.yaml").exists():
            run.publish(self.version)

    def record_anchor(self, answer: Answer) -> None:
        """Has the initial policy answer fixed prompts, once in a run: what every gate check rests on."""
        path, config = self.run.anchor, self.config
        if self.meta is None or (config.mode == "paper" and config.strategy == "samples"):
            return
        count = min(config.gate.prompts, len(self.prompts.train))
        if len(self.run.rows(path)) < count:  # at the first batch: a resumed run was seen to have them all
            prompts = random.Random(f"anchor-{config.seed}").sample(self.prompts.train, count)
            write_journal(path, map(_anchor_row, map(self.sample, prompts, answer(prompts))))
        self.anchor = tuple(
            Sample(row["prompt"], row["completion"], row["cluster"]) for row in self.run.rows(path)
        )
        if config.mode == "guarded":
            self.gate = Gate(self.gate_judge, self.anchor, self.task, config.gate)

    def resume(self, batch: int, version: int, fell_back: bool = False) -> list[Rollout]:
        """Goes back to where ``batch`` generation batches were done under rubric ``version``.

        Returns:
            All rollouts before it.
        """
        run_on_main(lambda: self.run.rewind(batch))
        if fell_back and not (self.models.fell_back or self.fall_back("it did before the run was stopped")):
            raise ConfigError(f"{self.run.path}: its fallback judge took over; name it by --judge-fallback")
        self.batch, self.version = batch, self.run.version(version)
        journalled = self.run.journalled(0)
        self.replay = {
            (rollout.batch, rollout.row): rollout for rollout in journalled if rollout.batch >= batch
        }
        return [rollout for rollout in journalled if rollout.batch < batch]

    def publish(self, rubric: Rubric, author: str) -> None:
        """Puts a new rubric version in force from the next batch on."""
        self.version = RubricVersion(self.version.number + 1, self.version.number, self.batch, author, rubric)
        self.run.publish(self.version)

    def journalled_verdict(self, row: int, completion: str) -> Verdict | None:
        """What the journal of a killed run says of this very completion in this batch, under this rubric."""
        old = self.replay.get((self.batch, row))
        same = old and old.verdict.set_hash == self.set_hash and old.completion == completion
        return old.verdict if old and same else None

    def split_budget(self) -> None:
        """Divides what the caps leave among the processes; all of them must call this alike."""
        budget = self.client.budget
        spent = all_gather(budget.spent())
        others = [each for process, each in enumerate(spent) if process != rank()]
        elsewhere = {name: sum(each[name] for each in others) for name in spent[0]}
        budget.divide(elsewhere, world_size())

    def spend(self) -> JsonRow:
        """Calls, tokens and USD of all processes; all of them must call this alike."""
        parts = all_gather(self.models.spend())
        unpriced = any(part["usd"] is None for part in parts)
        sums = {name: sum(part[name] or 0 for part in parts) for name in parts[0]}
        return sums | {"usd": None if unpriced else round(sums["usd"], 6)}

    def fall_back(self, reason: str) -> bool:
        """Has the fallback judge judge from now on; whether there was one to do so."""
        fallback = self.models.fallback
        if fallback is None or self.models.fell_back:
            return False
        self._hand_over()
        self.note(f"{fallback.label} judges from now on: {reason}")
        return True

    def try_metrics(self) -> None:
        """Calls gold metric and verifier once, so that one that fails is told before anything is paid.

        Raises:
            TaskError: One fails, or gives no number from 0 to 1.
        """
        self.task.prepare_metrics()
        prompt = (self.prompts.held_out or self.prompts.train)[0]
        for metric in (self.gold, self.verify):
            if metric:
                metric("An answer.", self.prompts.row(prompt))

    def check_models(self) -> None:
        """Sees that every model answers; where a judge does not, the fallback judge takes over at once.

        Raises:
            EndpointError: One cannot be used, and no fallback judge takes its place.
        """
        if reason := run_on_main(lambda: self.models.check(self.raise_if_interrupted)):
            self._hand_over()
            self.note(f"{reason}; {self.models.judged_by} judges instead")

    def _hand_over(self) -> None:
        self.models.fell_back = True
        self.judge = self.models.judge()

    def warn(self) -> None:
        """Tells of caps that come near."""
        for line in self.client.budget.warnings():
            self.note(line)

    def note(self, text: str) -> None:
        """Tells the observer something a person should know."""
        self.observe("note", {"text": text})

    def raise_if_interrupted(self) -> None:
        """Raises ``Interrupted`` once the user has asked to stop."""
        if self.interrupted:
            raise Interrupted("stopped on request")

    def close(self, wait: bool = True) -> None:
        """Keeps the answers still in flight, then closes connections and cache. Once is enough.

        Args:
            wait: For those answers. Not where garbage is collected, which may be within any lock.
        """
        if self.closed:
            return
        self.closed = True
        if self.beside:
            self.beside.cancel()  # what it was answered is cached
        self.models.close(wait)
        if self._run and is_main():
            self._run.unlock()

    def _make_gate_judge(self, run: RunDir | None) -> BudgetedJudge:
        models = self.models
        return BudgetedJudge(
            lambda draw: models.judge("gate", draw),
            lambda: models.judged_by,
            self.task.rules,
            run.trials if run else None,
        )


def _first_rubric(config: Config, task: Task) -> tuple[Rubric, str]:
    """The rubric a run begins with, and where it comes from.

    Raises:
        UsageError: There is none, or it is malformed.
    """
    if config.rubric:
        return rubric_at(config.rubric)
    if config.baseline == "oracle":
        raise ConfigError("--baseline oracle: name the run whose last rubric it is to be: --rubric RUN")
    if config.baseline == "expert":
        return task.expert_rubric, f"expert of task {task.name}"
    return task.rubric, f"task {task.name}"


def _anchor_row(sample: Sample) -> JsonRow:
    return {"prompt": sample.prompt, "completion": sample.completion, "cluster": sample.cluster}
