"""The training job: GRPO with LoRA through TRL, stopped and resumed at the borders of generation batches."""

from __future__ import annotations

import signal
import time
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from mpo_lite.config import Config
from mpo_lite.errors import ConfigError, StopRun
from mpo_lite.runs import STATE_FILE
from mpo_lite.tasks.data import Prompts
from mpo_lite.training.callback import MPOCallback, set_random_state, steps_per_batch
from mpo_lite.training.mpo import MPO
from mpo_lite.training.session import Session

KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        stop: Why it stopped before its last step, or None.
        seconds: Wall time of this call, model loading included.
    """

    stop: StopRun | None
    seconds: float


def check_policy(config: Config) -> None:
    """Sees that the policy can be read, by its configuration file alone.

    Raises:
        ConfigError: It is no model folder, or the hub cannot be reached; names ``--policy`` and ``--data``.
    """
    try:
        AutoConfig.from_pretrained(config.policy, trust_remote_code=False)
    except (OSError, ValueError) as error:
        local = Path(config.policy).exists()
        what = "is no model folder" if local else "is no folder here and cannot be had from the hub"
        raise ConfigError(
            f"policy {config.policy!r}: {what} ({type(error).__name__}); "
            "give a local model by --policy DIR and local prompts by --data FILE.jsonl"
        ) from error


def check_settings(session: Session) -> None:
    """Sees that TRL takes the settings, before a model is loaded. Raises ``ConfigError`` if not."""
    _quiet_libraries()
    _arguments(session, Path("checkpoints"))


def train(session: Session, checkpoint: Path | None = None) -> Outcome:
    """Trains a prepared session to its last step, or until something stops it.

    Args:
        session: Attached to its run directory.
        checkpoint: Where to go on; None begins anew.

    Returns:
        The outcome; whatever stopped the run, a checkpoint of the last whole batch is in place.

    Raises:
        ConfigError: The policy or a setting cannot be used, or the checkpoint is damaged.
    """
    started = time.monotonic()
    config = session.config
    _quiet_libraries()
    transformers.set_seed(config.seed)
    mpo = MPO(session=session)
    trainer = _trainer(config, mpo)
    if checkpoint and not (checkpoint / SAFETENSORS_WEIGHTS_NAME).exists():
        raise ConfigError(f"{checkpoint}: holds no adapter; delete it to go on from the checkpoint before")
    try:
        with _stoppable(session):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        stop = None
    except StopRun as reason:
        stop = reason
        _save_border(trainer, mpo.callback)
    return Outcome(stop, time.monotonic() - started)


def _quiet_libraries() -> None:
    """Silences bars and deprecations inside the libraries: users can do nothing about them, and they tear
    the display.
    """
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def _trainer(config: Config, mpo: MPO) -> GRPOTrainer:
    with _refusals(f"policy {config.policy!r}"):
        tokenizer = AutoTokenizer.from_pretrained(config.policy, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            config.policy,
            dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32,
            trust_remote_code=False,
        )
    if not tokenizer.chat_template:
        raise ConfigError(
            f"policy {config.policy!r}: its tokenizer has no chat template; name a chat or instruct model"
        )
    lora = LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=config.lora.targets
        if isinstance(config.lora.targets, str)
        else list(config.lora.targets),
        task_type="CAUSAL_LM",
    )
    _drop_long_prompts(mpo.session, tokenizer, model.config.max_position_embeddings)
    with _refusals("the trainer refuses a setting (lora or trainer)"):
        trainer = GRPOTrainer(
            model=model,
            processing_class=tokenizer,
            reward_funcs=mpo.reward,
            args=_arguments(mpo.session, mpo.run.checkpoints),
            train_dataset=mpo.dataset("train"),
            callbacks=[mpo.callback],
            peft_config=lora,
        )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.remove_callback(transformers.ProgressCallback)
    if not any(parameter.requires_grad for parameter in trainer.model.parameters()):
        raise ConfigError(
            f"lora.targets {config.lora.targets!r}: no part of {config.policy} would be trained"
        )
    return trainer


def _drop_long_prompts(session: Session, tokenizer: Any, context: int) -> None:
    """Takes prompts out that leave no room for the longest answer within the policy's context, in tokens."""
    room = context - session.max_new_tokens

    def fits(prompt: str) -> bool:
        messages = session.task.policy_messages(prompt)
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]
        return len(ids) <= room

    before = session.prompts
    session.prompts = Prompts(*(tuple(filter(fits, part)) for part in (before.train, before.held_out)))
    if not session.prompts.train:
        raise ConfigError(
            f"no prompt leaves room for {session.max_new_tokens} tokens within the policy's {context}"
        )
    if dropped := len(before.train) - len(session.prompts.train):
        session.note(
            f"{dropped} of {len(before.train)} training prompts are too long for the policy and left out"
        )


@contextmanager
def _refusals(what: str) -> Generator[None]:
    """Makes one line of what the libraries raise for input they cannot use."""
    try:
        yield
    except (OSError, ValueError, TypeError, RuntimeError, ImportError, ArithmeticError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"{what}: {said[:300] or type(error).__name__}") from error


def _arguments(session: Session, output: Path) -> GRPOConfig:
    """TRL's arguments. Unequal ones of the user win, but for what resume and journal rest on."""
    config, on_gpu = session.config, torch.cuda.is_available()
    micro_batch = min(config.micro_batch, config.batch_completions)
    if config.batch_completions % micro_batch:
        raise ConfigError(
            f"micro_batch {micro_batch}: must divide batch_prompts x group_size = {config.batch_completions}"
        )
    settings: dict[str, Any] = {
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": config.batch_completions // micro_batch,
        "num_generations": config.group_size,
        "max_completion_length": session.max_new_tokens,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "constant",
        "beta": config.beta,
        "temperature": config.temperature,
        "bf16": on_gpu,
        "use_cpu": not on_gpu,
        "gradient_checkpointing": on_gpu,
        "logging_steps": 1,
        "disable_tqdm": True,
        "report_to": [],
    } | config.trainer
    fixed: dict[str, Any] = {
        "output_dir": str(output),
        "max_steps": config.steps,
        "num_train_epochs": 1,
        "save_strategy": "steps",
        "save_steps": config.save_every,
        "save_total_limit": KEPT_CHECKPOINTS,
        "seed": config.seed,
        "shuffle_dataset": False,
    }
    if taken := sorted(set(fixed) & set(config.trainer)):
        raise ConfigError(
            f"trainer.{taken[0]}: set by mpo-lite itself; use steps, save_every, seed or run_dir"
        )
    with _refusals("trainer"):
        arguments = GRPOConfig(**settings, **fixed)
        per_batch = steps_per_batch(arguments)
        given = arguments.generation_batch_size, arguments.num_generations
    if given != (config.batch_completions, config.group_size):
        raise ConfigError(
            f"trainer: a generation batch would hold {given[0]} completions in groups of {given[1]}, but "
            f"batch_prompts x group_size is {config.batch_prompts} x {config.group_size}; set those instead"
        )
    # TRL counts optimiser steps; ours are generation batches.
    arguments.max_steps *= per_batch
    arguments.save_steps *= per_batch
    return arguments


def _save_border(trainer: GRPOTrainer, callback: MPOCallback) -> None:
    """Saves the state of the last border: weights have not moved since, random numbers are taken back to
    it.
    """
    step = trainer.state.global_step
    checkpoint = Path(trainer.args.output_dir) / f"checkpoint-{step}"
    if not callback.random_state or step == 0 or (checkpoint / STATE_FILE).exists():
        return
    set_random_state(callback.random_state)
    trainer._save_checkpoint(trainer.model, trial=None)
    callback.complete_checkpoint(checkpoint)


@contextmanager
def _stoppable(session: Session) -> Generator[None]:
    """Ctrl-C and SIGTERM end the run at the next safe place; a second one ends it at once."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def ask_to_stop(number: int, frame: Any) -> None:
        session.interrupted = True
        session.note("stopping at the next safe place; once more stops at once")
        for each in signals:
            signal.signal(each, before[each])

    for number in signals:
        signal.signal(number, ask_to_stop)
    try:
        yield
    finally:
        for number in signals:
            signal.signal(number, before[number])
