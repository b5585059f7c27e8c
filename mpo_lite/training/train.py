"""The training job: LoRA through TRL, stopped and resumed at the borders of generation batches."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from mpo_lite.activity import activity
from mpo_lite.checkpoints import MANIFEST
from mpo_lite.config import Config
from mpo_lite.errors import ConfigError, StopRun, refusals, storage_errors
from mpo_lite.loop.context import RunContext
from mpo_lite.loop.distributed import is_main, run_on_main
from mpo_lite.loop.session import Session
from mpo_lite.loop.signals import stoppable
from mpo_lite.training.callback import MPOCallback, set_random_state
from mpo_lite.training.mpo import MPO
from mpo_lite.training.policy import (
    adapter,
    drop_long_prompts,
    load_policy,
    quiet_libraries,
    trained_parameters,
)
from mpo_lite.training.ppo import PPO
from mpo_lite.training.trainers import GRPO, RLOO
from mpo_lite.training.trl_args import trainer_arguments

SAVED_BYTES = 12
"""Of a checkpoint per trained parameter: its value and the two moments of Adam, in 32 bits each."""
_ALGORITHMS: dict[str, Any] = {"grpo": GRPO, "rloo": RLOO, "ppo": PPO}


@dataclass(frozen=True)
class TrainingOutcome:
    """How a training ended.

    Attributes:
        stop: Why it stopped before its last step, or None.
        seconds: Wall time of this call, model loading included.
    """

    stop: StopRun | None
    seconds: float


def check_settings(context: RunContext) -> None:
    """Sees that TRL takes the settings, before a model is loaded. Raises ``ConfigError`` if not."""
    quiet_libraries()
    trainer_arguments(context, Path("checkpoints"))


def check_room(config: Config, folder: Path, checkpoints: int) -> None:
    """Sees that the disk has room for checkpoints, before a model is loaded.

    Args:
        config: Names the policy and its adapter.
        folder: Where they will lie; it need not be there yet.
        checkpoints: How many must fit at least.

    Raises:
        ConfigError: They do not fit, or the policy or the adapter cannot be made.
    """
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    needed = checkpoints * SAVED_BYTES * trained_parameters(config)
    if (free := shutil.disk_usage(place).free) < needed:
        raise ConfigError(
            f"{folder}: {free / 2**20:,.1f} MiB are free on this disk, but checkpoints take at least "
            f"{needed / 2**20:,.1f} MiB; free some room, or name a folder on another disk by --run-dir"
        )


def train(session: Session, checkpoint: Path | None = None) -> TrainingOutcome:
    """Trains a prepared session to its last step, or until something stops it.

    Args:
        session: Attached to its run directory.
        checkpoint: Where to continue; None begins at the first batch.

    Returns:
        The outcome; whatever stopped the run, a checkpoint of the last whole batch is in place.

    Raises:
        ConfigError: The policy or a setting cannot be used.
        StorageError: The disk is full or read-only; the checkpoints before that are whole.
    """
    started = time.monotonic()
    config = session.config
    quiet_libraries()
    transformers.set_seed(config.seed)
    mpo = MPO(session=session)
    trainer = _trainer(config, mpo)
    stop: StopRun | None = None
    with storage_errors(session.run.path, f"then resume: mpo-lite resume {session.run.path}"):
        if is_lead := is_main():
            session.run.note_stop("")
        try:
            with stoppable(session, "stopping after this batch; press Ctrl-C again to stop at once"):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except StopRun as reason:
            stop = reason
            if is_lead:
                session.run.note_stop(str(reason))
            _save_border(trainer, mpo.callback)
    return TrainingOutcome(stop, time.monotonic() - started)


def _trainer(config: Config, mpo: MPO) -> GRPO | RLOO | PPO:
    with activity(f"loading policy {config.policy}"):
        model, tokenizer = load_policy(config)
        drop_long_prompts(mpo.session, model, tokenizer)
    with refusals("the trainer refuses a setting (lora or trl)"):
        trainer = _ALGORITHMS[config.algorithm](
            mpo,
            model,
            processing_class=tokenizer,
            args=trainer_arguments(mpo.session.context, mpo.run.checkpoints),
            peft_config=adapter(config),
        )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.remove_callback(transformers.ProgressCallback)
    if not any(parameter.requires_grad for parameter in trainer.model.parameters()):
        targets = ", ".join(config.lora_target_modules)
        raise ConfigError(f"lora_target_modules {targets}: no part of {config.policy} would be trained")
    return trainer


def _save_border(trainer: Any, callback: MPOCallback) -> None:
    """Saves the state of the last border: weights have not moved since, random numbers are taken back to
    it.
    """
    step = trainer.state.global_step
    checkpoint = Path(trainer.args.output_dir) / f"checkpoint-{step}"
    if not callback.random_state or step == 0 or run_on_main(lambda: (checkpoint / MANIFEST).exists()):
        return
    set_random_state(callback.random_state)
    trainer._save_checkpoint(trainer.model, trial=None)
    callback.complete_checkpoint(checkpoint)
