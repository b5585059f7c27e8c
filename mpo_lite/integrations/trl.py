"""Rewards in TRL's trainers, from a service instead of in the trainer's process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpo_lite.integrations.client import PATIENCE_S, TOKEN_ENV, Content, RewardClient
from mpo_lite.integrations.columns import answers_from_columns, step_of


class RemoteReward:
    """Reward function for ``GRPOTrainer`` and, as it can be pickled, for ``AsyncGRPOTrainer``.

    An answer that cannot be judged is None, which TRL leaves out.

    Args:
        url: Address of the service; empty: from ``MPO_SERVE_URL``.
        token_env: Variable that holds its token.
        whole_groups: Each call has all answers to its prompts. False where several processes train and share
            the answers to a prompt: groups are then as large as the service's ``--group-size``.
        patience_s: Seconds after which a service that does not answer is given up.
    """

    __name__ = "mpo"  # what TRL logs rewards under

    def __init__(
        self,
        url: str = "",
        token_env: str = TOKEN_ENV,
        whole_groups: bool = True,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._client = RewardClient(url, token_env, patience_s)
        self._whole_groups = whole_groups

    def __call__(
        self,
        prompts: Sequence[Content],
        completions: Sequence[Content],
        trainer_state: Any = None,
        **columns: Any,
    ) -> list[float | None]:
        """Rewards in [0, 1], None where an answer cannot be judged.

        Args:
            prompts: N prompts, as text or messages.
            completions: N answers, as text or messages.
            trainer_state: Holds the training step; ``AsyncGRPOTrainer`` passes none.
            **columns: The data set's columns, N values each, and what TRL adds.
        """
        answers = answers_from_columns(prompts, completions, columns)
        scored = self._client.score(answers, step_of(trainer_state), self._whole_groups)
        return [result.reward for result in scored]
