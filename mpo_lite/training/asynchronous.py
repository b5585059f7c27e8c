"""``--trainer async``: TRL's ``AsyncGRPOTrainer`` trains while vLLM generates and answers are judged.

Rewards come from the service of ``mpo-lite serve``, within this process: the worker that asks for them is a
process of its own. So the rubric changes between batches of answers as they are judged, of which the trainer
is at most one behind.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset

from mpo_lite.activity import activity
from mpo_lite.checkpoints import MANIFEST, complete_checkpoint, read_state, require_same_prompts
from mpo_lite.errors import ConfigError, JudgeDown, StopRun, refusals, storage_errors
from mpo_lite.integrations.client import TOKEN_ENV, RewardClient
from mpo_lite.jsonl import write_atomically
from mpo_lite.loop.context import RunContext
from mpo_lite.loop.session import Session
from mpo_lite.loop.signals import stoppable
from mpo_lite.service.owner import RubricOwner
from mpo_lite.service.restart import read_service_state
from mpo_lite.service.server import Address, bind, running
from mpo_lite.tasks.data import training_order
from mpo_lite.training.async_callback import AsyncCallback
from mpo_lite.training.chat import end_tokens
from mpo_lite.training.generate import record_gold
from mpo_lite.training.policy import (
    adapter,
    chat_of,
    drop_long_prompts,
    load_tokenizer,
    policy_shell,
    quiet_libraries,
)
from mpo_lite.training.rollouts import RolloutWorker
from mpo_lite.training.train import TrainingOutcome
from mpo_lite.training.trl_args import async_arguments
from mpo_lite.training.trl_async import AsyncGRPOTrainer
from mpo_lite.training.vllm_policy import ServedPolicy, check_server
from mpo_lite.types import Completion

GROUP_WAIT_S = 60.0
"""Seconds after which the service takes a prompt group as it is: only a kill leaves one without its rest."""
PATIENCE_S = 7 * 24 * 3600.0
"""How long the worker waits for a reward; the trainer decides when the run ends."""


def check_settings(context: RunContext) -> None:
    """Sees that TRL takes the settings, and that the server can do what is needed.

    Raises:
        ConfigError: Says what to change.
    """
    quiet_libraries()
    if torch.cuda.is_available() and not find_spec("kernels"):
        raise ConfigError(
            "--trainer async: TRL loads FlashAttention by the package kernels, which is missing; pip install "
            "kernels"
        )
    if context.task.verifier:
        raise ConfigError(
            "--trainer async: the judge would score every answer, and the task's verifier none; leave "
            "verifier out of task.yaml, or use --trainer sync"
        )
    arguments = async_arguments(context, Path("checkpoints"))
    check_server(context.config, arguments.max_staleness + 2)


def train(session: Session, checkpoint: Path | None = None) -> TrainingOutcome:
    """Trains a prepared session to its last step, or until something stops it.

    Args:
        session: Attached to its run directory.
        checkpoint: Where to continue; None begins at the first batch.

    Returns:
        The outcome; whatever stopped the run, a checkpoint of the last optimiser step is in place.

    Raises:
        ConfigError: The policy, a setting or the server cannot be used.
        StorageError: The disk is full or read-only; the checkpoints before that are whole.
    """
    started, stop = time.monotonic(), None
    quiet_libraries()
    transformers.set_seed(session.config.seed)
    done = read_state(checkpoint)["batch"] if checkpoint else 0
    with storage_errors(session.run.path, f"then resume: mpo-lite resume {session.run.path}"):
        session.run.cut(session.run.gold, done)
        _restore_service(session, checkpoint)
        session.run.note_stop("")
        note = "stopping after this step; press Ctrl-C again to stop at once"
        try:
            job = AsyncJob(session)
            with stoppable(session, note), job.prepared(done) as trainer, job.stopping(trainer):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except StopRun as reason:
            stop = reason
            session.run.note_stop(str(reason))
    return TrainingOutcome(stop, time.monotonic() - started)


class AsyncJob:
    """A training with the service that judges for it.

    Args:
        session: The run.

    Raises:
        ConfigError: The policy or the server cannot be used.
    """

    def __init__(self, session: Session) -> None:
        self.session, config = session, session.config
        with activity(f"loading policy {config.policy}"):
            self.tokenizer, shell = load_tokenizer(config), policy_shell(config)
            drop_long_prompts(session, shell, self.tokenizer)
        self.chat = chat_of(config, shell, self.tokenizer)
        self.ends = sorted(end_tokens(shell, self.tokenizer))
        self.policy = ServedPolicy(
            str(config.vllm_server_base_url), self.chat, session.context.max_new_tokens, config.temperature
        )
        session.record_anchor(self.answer)
        rows = {prompt: dict(row) for prompt, row in session.state.prompts.rows.items()}
        self.owner = RubricOwner(session, rows, GROUP_WAIT_S, self.answer)
        self._down_since: float | None = None

    def answer(self, prompts: Sequence[str]) -> list[Completion]:
        """The policy's present answers to prompts."""
        return self.policy.answer([self.session.task.policy_messages(prompt) for prompt in prompts])

    @contextmanager
    def prepared(self, done: int) -> Generator[Any]:
        """A trainer whose worker has rewards from the service, which ends with the context.

        Args:
            done: Optimiser steps that it has made.
        """
        self.owner.start(answers_anew=True)
        address = Address(port=0)
        with bind(address) as listener, running(self.owner, listener, address) as (url, token, _):
            os.environ[TOKEN_ENV] = token  # the worker inherits it
            trainer = self._trainer(RewardClient(url, patience_s=PATIENCE_S), done)
            try:
                yield trainer
            finally:
                _unload_adapters(trainer)

    @contextmanager
    def stopping(self, trainer: Any) -> Generator[None]:
        """Saves the trainer where something ends the run, and finds out what it was."""
        try:
            try:
                yield
            except Exception:
                self.check_all()  # worker and weight sync fail where service or server have ended
                raise
        except StopRun:
            self.save(trainer)
            raise

    def check(self) -> None:
        """Raises what ends the run: the user, a cap, or a judge that has been down for too long."""
        session, owner = self.session, self.owner
        if session.run.asked_to_stop():
            session.interrupt()
        session.raise_if_interrupted()
        if owner.reached:
            raise owner.reached
        if not owner.breaker.problem:
            self._down_since = None
            return
        self._down_since = self._down_since or time.monotonic()
        if time.monotonic() - self._down_since > session.config.batch_timeout:
            raise JudgeDown(owner.breaker.problem)

    def check_all(self) -> None:
        """Raises what ends the run, a server that is gone among it: with it go the adapters."""
        self.check()
        if not self.policy.is_up():
            url = self.session.config.vllm_server_base_url
            raise StopRun(f"vLLM at {url} does not answer any more; start it again")

    def save(self, trainer: Any) -> None:
        """Saves the state after the last optimiser step, where that is not done."""
        step = trainer.state.global_step
        checkpoint = Path(trainer.args.output_dir) / f"checkpoint-{step}"
        if step and not (checkpoint / MANIFEST).exists():
            trainer._save_checkpoint(trainer.model, trial=None)
            self.complete_checkpoint(checkpoint, step)

    def complete_checkpoint(self, checkpoint: Path, step: int) -> None:
        """Makes a checkpoint of the trainer one of this run."""
        session = self.session
        # As it was after its last whole batch: another may be ending while this is saved.
        service = read_service_state(session.run)
        state = {
            "batch": step,
            "version": service.version,
            "prompts": session.context.prompts_hash,
            "service": service.model_dump(mode="json"),
        }
        complete_checkpoint(session.run, checkpoint, state)

    def evaluate(self, step: int) -> None:
        """Measures gold of the present policy after a step, once."""
        if all(row["batch"] != step for row in self.session.run.rows(self.session.run.gold)):
            record_gold(self.session, step, self.answer)

    def _trainer(self, service: RewardClient, done: int) -> Any:
        if not torch.cuda.is_available():
            from mpo_lite.training.cpu_attention import use_cpu_attention

            use_cpu_attention()
        # It lists the callbacks whenever two are of one class, as two of TRL's own are.
        logging.getLogger("transformers.trainer_callback").setLevel(logging.ERROR)
        session, config = self.session, self.session.config
        arguments = async_arguments(session.context, session.run.checkpoints)
        # A server may still hold the adapters of another run, or of this one before a kill.
        name = f"mpo-{os.getpid()}-{time.time_ns():x}"
        tasks = training_order(session.state.prompts.train, config.steps * config.batch_prompts, config.seed)
        prompts = [self.chat.conversation(session.task.policy_messages(task)) for task in tasks]
        dataset = Dataset.from_list([{"prompt": prompt} for prompt in prompts])
        planned = (config.steps - done) * config.batch_completions
        worker = self._worker(
            arguments, service=service, lora_name=name, tasks=tasks, dataset=dataset, planned=planned
        )
        with refusals("the trainer refuses a setting (lora or trl)"):
            trainer = AsyncGRPOTrainer(
                config.policy,
                args=arguments,
                train_dataset=dataset,
                processing_class=self.tokenizer,
                peft_config=adapter(config),
                rollout_worker=worker,
            )
        trainer._lora_name = name
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.remove_callback(transformers.ProgressCallback)
        # After TRL's own, so that the server has the weights of the step when it is evaluated.
        trainer.add_callback(AsyncCallback(self, trainer))
        return trainer

    def _worker(self, arguments: Any, **options: Any) -> RolloutWorker:
        config = self.session.config
        ahead = config.batch_completions * max(arguments.max_staleness, 1)
        return RolloutWorker(
            self.check_all,
            chat=self.chat,
            ahead=ahead,
            missing_eos_penalty=config.missing_eos_penalty,
            model_name=self.policy.model,
            processing_class=self.tokenizer,
            eos_token_ids=self.ends,
            num_generations=config.group_size,
            max_inflight_tasks=ahead,
            vllm_server_url=arguments.vllm_server_base_url,
            max_tokens=arguments.max_completion_length,
            temperature=arguments.temperature,
            top_p=arguments.top_p,
            top_k=arguments.top_k,
            min_p=arguments.min_p,
            repetition_penalty=arguments.repetition_penalty,
            request_timeout=arguments.request_timeout,
            **options,
        )


def _restore_service(session: Session, checkpoint: Path | None) -> None:
    """Takes the service back to where it was when the checkpoint was saved, so that rubric and weights go
    together.
    """
    saved = read_state(checkpoint) if checkpoint else {}
    if checkpoint:
        require_same_prompts(checkpoint, saved, session.context.prompts_hash)
    if service := saved.get("service"):
        write_atomically(session.run.service_state, json.dumps(service))
    else:
        session.run.service_state.unlink(missing_ok=True)


def _unload_adapters(trainer: Any) -> None:
    """Frees what the server still holds of this run, if it can be reached."""
    last = trainer.model_version
    for version in range(max(1, last - trainer.args.max_staleness - 1), last + 1):
        try:
            trainer.vllm_client.unload_lora_adapter(f"{trainer._lora_name}-v{version}", timeout=10)
        except OSError:
            return
