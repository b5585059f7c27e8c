"""A trained policy as a plain transformers folder: the adapter merged in, PPO's value head left out."""

from __future__ import annotations

from pathlib import Path

from peft import PeftModel

from mpo_lite.config import Config
from mpo_lite.errors import refusals, storage_errors
from mpo_lite.training.policy import load_policy, load_tokenizer
from mpo_lite.training.ppo import VALUE_HEAD


def merge(config: Config, checkpoint: Path, folder: Path) -> None:
    """Writes the policy with a checkpoint's adapter merged into its weights, in the type they are stored in.

    Args:
        config: The run's.
        checkpoint: Holds the adapter.
        folder: Where to; made if it is not there.

    Raises:
        ConfigError: Policy or adapter cannot be loaded, or the folder not written.
        StorageError: The disk is full or read-only.
    """
    model, _ = load_policy(config, precise=True)
    with refusals(f"{checkpoint}: its adapter cannot be merged"):
        merged = PeftModel.from_pretrained(model, str(checkpoint)).merge_and_unload()
    if hasattr(merged, VALUE_HEAD):
        delattr(merged, VALUE_HEAD)
    with refusals(f"{folder}: cannot be written"), storage_errors(folder.parent, "then export again"):
        merged.save_pretrained(folder)
        load_tokenizer(config).save_pretrained(folder)  # without the padding token that training adds
