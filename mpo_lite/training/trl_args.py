"""TRL's arguments from a configuration: the user's win, but for what resume and journal rest on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from trl import GRPOConfig, RLOOConfig

from mpo_lite.config import Config
from mpo_lite.errors import ConfigError, refusals
from mpo_lite.judge.base import LONGEST_BATCH
from mpo_lite.loop.context import RunContext
from mpo_lite.loop.distributed import world_size
from mpo_lite.training.callback import check_arguments, steps_per_batch
from mpo_lite.validation import describe_problem, describe_unknown_key

KEPT_CHECKPOINTS = 2
STALENESS = 1
"""Optimiser steps that the asynchronous trainer may make between an answer and its own step on it."""
LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo")
_PASSED_ON = ("use_vllm", "vllm_mode", "vllm_server_base_url", "vllm_gpu_memory_utilization")
"""Fields of ours that are TRL's own, where they are given."""


def trainer_arguments(context: RunContext, output: Path) -> GRPOConfig | RLOOConfig:
    """The arguments of a trainer that generates, judges and trains in turn.

    Args:
        context: The run.
        output: Where its checkpoints lie.

    Raises:
        ConfigError: TRL refuses a setting, or one of ``trl`` is not the user's to set.
    """
    config = context.config
    kind = RLOOConfig if config.algorithm == "rloo" else GRPOConfig
    fixed: dict[str, Any] = {
        "num_train_epochs": 1,
        "shuffle_dataset": False,
        **({"loss_type": "bnpo"} if config.algorithm == "ppo" else {}),  # the mean over tokens
    }
    settings = {
        "num_iterations": config.num_iterations,
        "beta": config.beta,
        # Above all that a batch may take: two rounds and a pause, and the same once more for a fallback. Meta
        # steps are waited for elsewhere (see ranks).
        "ddp_timeout": int(1800 + 4 * LONGEST_BATCH * config.batch_timeout + 2 * config.breaker_pause),
        **{name: value for name in _PASSED_ON if (value := getattr(config, name)) is not None},
    }
    arguments = _arguments(kind, context, output, settings, fixed)
    check_arguments(arguments, config)
    if (
        config.algorithm == "grpo" and arguments.loss_type not in LOSSES
    ):  # TRL itself finds out while it trains
        raise ConfigError(f"trl.loss_type {arguments.loss_type!r}: TRL knows {', '.join(LOSSES)}")
    # TRL counts optimiser steps; ours are generation batches.
    per_batch = steps_per_batch(arguments)
    arguments.max_steps *= per_batch
    arguments.save_steps *= per_batch
    return arguments


def async_arguments(context: RunContext, output: Path) -> Any:
    """The arguments of TRL's ``AsyncGRPOTrainer``: each optimiser step takes as many completions as a batch.

    Args:
        context: The run.
        output: Where its checkpoints lie.

    Raises:
        ConfigError: TRL refuses a setting, or one of ``trl`` is not the user's to set.
    """
    from mpo_lite.training.trl_async import AsyncGRPOConfig

    config = context.config
    settings = {
        "vllm_server_base_url": config.vllm_server_base_url,
        "max_staleness": STALENESS,
        "token_budget": 0,  # micro batches as configured
    }
    arguments = _arguments(AsyncGRPOConfig, context, output, settings, {})
    if "dtype" not in config.trl:
        arguments.dtype = "bfloat16" if arguments.bf16 else "float32"
    step = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    if (arguments.num_generations, step) != (config.group_size, config.batch_completions):
        raise ConfigError(
            f"trl: an optimiser step would take {step} completions in groups of {arguments.num_generations}, "
            f"but batch_prompts x group_size is {config.batch_prompts} x {config.group_size}; set those, and "
            "micro_batch, instead"
        )
    return arguments


def _arguments(
    kind: type[Any], context: RunContext, output: Path, settings: dict[str, Any], fixed: dict[str, Any]
) -> Any:
    """The arguments of any trainer.

    Args:
        kind: TRL's class of them.
        context: The run.
        output: Where its checkpoints lie.
        settings: Fields of this kind alone; the user may change them.
        fixed: Those that he may not.
    """
    config = context.config
    if not config.trl.get("temperature", config.temperature):
        raise ConfigError(
            "temperature 0: greedy answers to one prompt are all the same and teach nothing; "
            "train at 1.0, and evaluate greedily by mpo-lite eval --temperature 0"
        )
    fixed |= {
        "output_dir": str(output),
        "max_steps": config.steps,
        "save_strategy": "steps",
        "save_steps": config.save_every,
        "save_total_limit": KEPT_CHECKPOINTS,
        "seed": config.seed,
    }
    if taken := sorted(set(fixed) & set(config.trl)):
        raise ConfigError(
            f"trl.{taken[0]}: set by mpo-lite itself; use steps, save_every, seed, run_dir or algorithm"
        )
    _check_fields(kind, config.trl)
    with refusals("trl"):
        return kind(**(_settings(context) | settings | config.trl | fixed))


def _check_fields(kind: type[Any], given: dict[str, Any]) -> None:
    """Sees that TRL has the fields and that the values are of their types: itself it looks at neither, or
    late.
    """
    hints = get_type_hints(kind)
    fields = [field.name for field in dataclasses.fields(kind) if field.init]
    for name, value in given.items():
        if name not in fields:
            raise ConfigError(
                f"trl.{name}: {describe_unknown_key(name, fields)} (fields of TRL's {kind.__name__})"
            )
        try:
            TypeAdapter(hints[name], config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
        except ValidationError as error:
            said = describe_problem(error.errors(include_url=False)[0], Config)
            raise ConfigError(f"trl.{name} {value!r}: {said}") from error


def _settings(context: RunContext) -> dict[str, Any]:
    """What the configuration says in TRL's words, for any trainer; ``trl`` may change it."""
    config, on_gpu = context.config, torch.cuda.is_available()
    share, rest = divmod(config.batch_completions, world_size())
    micro_batch = min(config.micro_batch, share)
    if rest or not micro_batch or share % micro_batch:
        processes = f" in each of {world_size()} processes" if world_size() > 1 else ""
        raise ConfigError(
            f"micro_batch {config.micro_batch}: batch_prompts x group_size = {config.batch_completions} "
            f"completions must make whole micro batches{processes}"
        )
    checkpointing, bf16 = config.gradient_checkpointing, config.bf16
    return {
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": share // micro_batch,
        "num_generations": config.group_size,
        "max_completion_length": context.max_new_tokens,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "constant",
        "temperature": config.temperature,
        "bf16": on_gpu if bf16 is None else bf16,
        "use_cpu": not on_gpu,
        "gradient_checkpointing": on_gpu if checkpointing is None else checkpointing,
        "ddp_find_unused_parameters": False,  # an adapter has none, and PPO's value head is used outside
        "logging_steps": 1,
        "disable_tqdm": True,
        "report_to": list(config.report_to or ()),
    }
