"""Policies sharded over the processes: which ways of sharding a run can generate, save and resume with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import accelerate
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from accelerate.utils.constants import FSDP_MODEL_NAME

from mpo_lite.errors import ConfigError
from mpo_lite.loop.distributed import world_size


def check_sharding() -> None:
    """Sees that the trainer shards the policy as it was asked to, in a way that works here.

    Called once the trainer has its accelerator: whether a configuration of ``accelerate launch`` or its own
    arguments ask for it, the environment then says so.

    Raises:
        ConfigError: It does not; says what to change.
    """
    if world_size() == 1:
        return
    if _is_asked_for("DEEPSPEED"):
        raise ConfigError(
            "trainer: DeepSpeed is asked for, whose optimiser steps within the backward pass, so that a "
            "batch whose rewards are all the same could not be left out; shard the policy by FSDP2 instead "
            "(distributed_type: FSDP, fsdp_version: 2)"
        )
    if not _is_asked_for("FSDP"):
        return
    state: Any = AcceleratorState()
    if state.distributed_type != DistributedType.FSDP:
        raise ConfigError(
            f"trainer: FSDP is asked for, but accelerate {accelerate.__version__} ignores it on CPUs and "
            "would give each process a full copy of the policy; run it on GPUs, or leave FSDP out (torchrun)"
        )
    plugin = state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise ConfigError(
            f"trainer: FSDP{plugin.fsdp_version} is asked for, with which mpo-lite has not been run; set "
            "fsdp_version: 2"
        )
    if "FULL_STATE_DICT" not in str(plugin.state_dict_type):
        raise ConfigError(
            "trainer: FSDP would save the adapter in shards, which eval and export cannot load; set "
            "fsdp_state_dict_type: FULL_STATE_DICT"
        )


def _is_asked_for(kind: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{kind}", "false").lower() == "true"


def require_same_sharding(checkpoint: Path, is_sharded: bool) -> None:
    """Sees that a trainer can load a checkpoint.

    Args:
        checkpoint: The trainer's folder.
        is_sharded: Whether the trainer shards the policy by FSDP.

    Raises:
        ConfigError: The checkpoint was saved by one that does, and this one does not, or the other way round.
    """
    was_sharded = (checkpoint / f"{FSDP_MODEL_NAME}.bin").exists()
    if was_sharded != is_sharded:
        launchers = {True: "accelerate launch with its FSDP configuration", False: "torchrun, without FSDP"}
        raise ConfigError(
            f"{checkpoint}: its optimiser was {'' if was_sharded else 'not '}sharded by FSDP, and cannot be "
            f"resumed otherwise; start it by {launchers[was_sharded]}"
        )
