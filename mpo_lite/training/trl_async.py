"""What is used of TRL's asynchronous trainer, which TRL calls experimental: it warns whoever imports it."""

import os

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from trl.experimental.async_grpo import (
    AsyncGRPOConfig,
    AsyncGRPOTrainer,
    async_grpo_trainer,
    async_rollout_worker,
    packing,
)
from trl.experimental.async_grpo.async_rollout_worker import (
    AsyncRolloutWorker,
    TrainingSequence,
    _AsyncRolloutLoop,
)

__all__ = [
    "AsyncGRPOConfig",
    "AsyncGRPOTrainer",
    "AsyncRolloutWorker",
    "TrainingSequence",
    "_AsyncRolloutLoop",
    "async_grpo_trainer",
    "async_rollout_worker",
    "packing",
]
