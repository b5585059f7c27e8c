"""The trainer callback: keeps session and trainer in step.

The meta step runs at the *beginning* of a generation batch, after the checkpoint of the one before: so a
checkpoint never falls between a rubric and the batch that first uses it, and a run stopped in its meta step
repeats that step.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mpo_lite.checkpoints import (
    MANIFEST,
    complete_checkpoint,
    read_state,
    require_intact,
    require_same_prompts,
)
from mpo_lite.config import Config
from mpo_lite.errors import ConfigError
from mpo_lite.jsonl import journal
from mpo_lite.loop.distributed import all_gather, is_main, run_assisted, run_on_main
from mpo_lite.loop.schedule import MetaScheduler
from mpo_lite.loop.session import Answer, Session
from mpo_lite.rubric_versions import RubricVersion
from mpo_lite.sanitize import pluralize
from mpo_lite.training.chat import Chat
from mpo_lite.training.generate import generate, record_gold
from mpo_lite.training.logprob_gap import GAP
from mpo_lite.training.sharding import check_sharding
from mpo_lite.types import Completion

# TRL's names of what the metrics of a batch take over from its log.
_TRL_METRICS = {
    "kl": "kl",
    "loss": "loss",
    "entropy": "entropy",
    GAP: GAP,
    "grad_norm": "grad_norm",
    "completions/mean_length": "tokens",
    "completions/clipped_ratio": "clipped",
    "step_time": "step_seconds",
}


class MPOCallback(TrainerCallback):
    """Meta steps, gold evaluations, metrics and resume state, at the borders of generation batches.

    Args:
        session: The run.
        must_resume: Refuse to begin at its first batch: the run has batches that would be overwritten.

    Attributes:
        has_trainer: Whether a trainer knows this callback.
        divides_by_spread: Whether the trainer divides advantages by the standard deviation of rewards.
        chat: Of the policy, once training has begun.
        gold: As last measured.
        random_state: Of the border that a stopped run is taken back to.
    """

    def __init__(self, session: Session, must_resume: bool = False) -> None:
        self.session = session
        self.scheduler = MetaScheduler(session)
        self._must_resume = must_resume
        self.has_trainer = False
        self.divides_by_spread = False
        self.random_state: dict[str, Any] = {}
        self.chat: Chat | None = None
        self._logged: dict[str, list[float]] = {}
        self.gold: float | None = None
        self._every = 1
        self._save_due = False

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuses a trainer whose batches or whose sharding the run cannot work with."""
        check_arguments(args, self.session.config)
        check_sharding()
        self.has_trainer = True
        # RLOO's arguments have no such field.
        self.divides_by_spread = getattr(args, "scale_rewards", "none") != "none"

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Finds the place in the run: its beginning, or where the trainer's checkpoint left it."""
        self.on_init_end(args, state, control)  # a trainer may have been given the callback later
        self._every = steps_per_batch(args)
        batch = state.global_step // self._every
        self._check_length(state.max_steps, batch)
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if batch and not (checkpoint / MANIFEST).exists():
            raise ConfigError(
                f"{checkpoint}: holds no state of this run; resume from a checkpoint it has written"
            )
        if batch and self.session.run.begun_by == "library":  # whose trainer chose the checkpoint
            run_on_main(lambda: require_intact(self.session.run, checkpoint))
        saved = read_state(checkpoint) if batch else {}
        if batch and saved.get("batch") != batch:
            raise ConfigError(
                f"{checkpoint}: holds no state of this run; resume from a checkpoint it has written"
            )
        if batch:
            require_same_prompts(checkpoint, saved, self.session.context.prompts_hash)
        rollouts = self.session.resume(batch, saved.get("version", 0), saved.get("fell_back", False))
        if self.chat is None:  # a trainer of TRL's own
            options = getattr(args, "chat_template_kwargs", None)
            self.chat = Chat(kwargs["model"], kwargs["processing_class"], options)
        answer = self._answer(**kwargs)
        if is_main():
            self.scheduler.restore(saved.get("scheduler", {}), batch, rollouts)
        run_assisted(self.session.record_anchor, answer)
        if not batch:
            run_assisted(self._evaluate_once, answer)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """At the border of a generation batch: the point a stopped run is taken back to, then the meta
        step.
        """
        if state.global_step % self._every == 0:
            self._flush({})
            self.random_state = random_state()
            asked = self.session.state.interrupted or (is_main() and self.session.run.asked_to_stop())
            if any(all_gather(asked)):  # never taken back: a signal may come while this is gathered
                self.session.interrupt()
            self.session.use_version(run_assisted(self._next_version, self._answer(**kwargs)))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drops the gradients of a batch that can teach nothing: on a zero gradient momentum would still
        move.
        """
        if self.session.state.skip_update:
            for parameter in kwargs["model"].parameters():
                parameter.grad = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluates where due, and moves saving to the next border: inside a batch nothing can be resumed
        exactly.
        """
        border = state.global_step % self._every == 0
        self._save_due = self._save_due or control.should_save
        control.should_save = self._save_due and border
        if border:
            self._save_due = False
            last = state.global_step >= state.max_steps
            if last or self.session.state.batch % self.session.config.eval_every == 0:
                run_assisted(self._evaluate, self._answer(**kwargs))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Completes the row of the batch by what TRL measured: means over its optimiser steps."""
        for theirs, ours in _TRL_METRICS.items():
            if theirs in (logs or {}):
                self._logged.setdefault(ours, []).append(logs[theirs])
        if state.global_step % self._every == 0:
            self._flush({name: fmean(values) for name, values in self._logged.items()})

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Completes the checkpoint, the batch's row before it: rows up to a checkpoint are whole."""
        self._flush({})
        self.complete_checkpoint(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Writes what is left."""
        self._flush({})

    def complete_checkpoint(self, checkpoint: Path) -> None:
        """Makes a checkpoint one of this run, once all processes have saved."""
        session = self.session
        all_gather(None)
        if not is_main():
            return
        state = {
            "batch": session.state.batch,
            "version": session.state.version.number,
            "set_hash": session.rubric.set_hash,
            "prompts": session.context.prompts_hash,
            "fell_back": session.models.fell_back,
            "scheduler": self.scheduler.state(),
        }
        complete_checkpoint(session.run, checkpoint, state)

    def _check_length(self, max_steps: int, batch: int) -> None:
        """Refuses to train without a checkpoint where there are batches, or for longer than planned."""
        run, steps = self.session.run, self.session.config.steps
        asked = max_steps // self._every
        if asked > steps:
            raise ConfigError(
                f"the trainer would train for {pluralize(asked, 'batch', 'batches')}, but the prompts and "
                f"the gate's budget are laid out for steps={steps}; set max_steps={steps * self._every} in "
                f"the trainer's arguments, or steps={asked} in MPO"
            )
        if batch >= steps:
            self.session.context.note(f"{run.path}: all {steps} batches are done; nothing is left to train")
        elif self._must_resume and not batch and len(run.rows(run.metrics)) >= steps:
            raise ConfigError(
                f"{run.path}: this run is finished; to train it further, raise steps in MPO and call "
                "trainer.train(resume_from_checkpoint=True); to start again, choose another run_dir"
            )
        elif self._must_resume and not batch:
            raise ConfigError(
                f"{run.path}: has batches already; continue with "
                "trainer.train(resume_from_checkpoint=True), or name another run_dir"
            )

    def _next_version(self, answer: Answer) -> RubricVersion:
        """The rubric of the next batch, after what is due between two batches."""
        self.session.raise_if_interrupted()
        self.scheduler.between_batches(answer)
        return self.session.state.version

    def _answer(self, model: Any, **_: Any) -> Answer:
        """The policy as it is now, as a function from prompts to answers."""
        session = self.session

        def answer(prompts: Sequence[str]) -> list[Completion]:
            return generate(
                model,
                self.chat,
                [session.task.policy_messages(prompt) for prompt in prompts],
                max_new_tokens=session.context.max_new_tokens,
                temperature=session.config.temperature,
            )

        return answer

    def _evaluate_once(self, answer: Answer) -> None:
        """Measures gold before the first batch, unless a killed run has."""
        if not self.session.run.rows(self.session.run.gold):
            self._evaluate(answer)

    def _evaluate(self, answer: Answer) -> None:
        gold = record_gold(self.session, self.session.state.batch, answer)
        if gold is not None:
            self.gold = gold
            self.session.add_metrics(gold=gold)

    def _flush(self, logged: dict[str, Any]) -> None:
        """Writes the batch's row once."""
        row, self._logged = self.session.take_metrics(), {}
        if "batch" in row:
            row = row | logged | self.session.spend()
            if is_main():
                journal(self.session.run.metrics, [row])
            self.session.context.observe("step", row)


def check_arguments(args: Any, config: Config) -> None:
    """Sees that a trainer makes the batches that a run plans, in an order that a resumed run finds again.

    Args:
        args: A GRPOConfig or RLOOConfig.
        config: The run's configuration.

    Raises:
        ConfigError: It does not; says what to change.
    """
    group, prompts = args.num_generations, args.generation_batch_size // args.num_generations
    if (group, prompts) != (config.group_size, config.batch_prompts):
        raise ConfigError(
            f"trainer: a generation batch would hold {args.generation_batch_size} completions in groups of "
            f"{group}, but batch_prompts x group_size is {config.batch_prompts} x {config.group_size}; set "
            f"batch_prompts to {prompts} and group_size to {group}, or have the trainer make generation "
            f"batches of {config.batch_completions} with num_generations {config.group_size}"
        )
    steps_per_batch(args)
    if args.shuffle_dataset:
        raise ConfigError(
            "trainer: shuffle_dataset is on, so a resumed run would not find its place among the prompts; "
            "set shuffle_dataset=False: mpo.dataset is in training order already"
        )
    if (
        config.judge_mode == "groupwise"
        and args.per_device_train_batch_size * args.steps_per_generation % group
    ):
        raise ConfigError(
            "judge_mode groupwise: per_device_train_batch_size x steps_per_generation must be a multiple "
            f"of num_generations ({group}), so that each process holds whole groups"
        )


def steps_per_batch(args: TrainingArguments) -> int:
    """Optimiser steps per generation batch.

    Raises:
        ConfigError: A generation batch ends in the middle of an optimiser step.
    """
    micro_steps = args.steps_per_generation * args.num_iterations
    if micro_steps % args.gradient_accumulation_steps:
        raise ConfigError(
            f"trainer: steps_per_generation x num_iterations ({micro_steps}) must be a multiple of "
            f"gradient_accumulation_steps ({args.gradient_accumulation_steps}), "
            "or batches cannot be resumed exactly"
        )
    return micro_steps // args.gradient_accumulation_steps


def random_state() -> dict[str, Any]:
    """The state of all random generators that training draws from."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": random.getstate(),
        "numpy": numpy.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Goes back to a state from ``random_state``."""
    random.setstate(state["python"])
    numpy.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
