"""Rewards in ms-swift, by a plugin file of three lines::

    from swift.rewards import orms
    from mpo_lite.integrations.swift import MPOReward
    orms["mpo"] = MPOReward

An answer that cannot be judged is None, which ms-swift leaves out.
"""

from __future__ import annotations

from typing import Any

from mpo_lite.integrations.client import TOKEN_ENV, Content, RewardClient
from mpo_lite.integrations.columns import answers_from_columns, step_of


class MPOReward:
    """Asynchronous reward function of ms-swift, an ``AsyncORM`` in form: ``--reward_funcs mpo``.

    Args:
        args: ms-swift's arguments; not used.
        url: Address of the service; empty: from ``MPO_SERVE_URL``.
        token_env: Variable that holds its token.
        **kwargs: Not used.
    """

    def __init__(self, args: Any = None, url: str = "", token_env: str = TOKEN_ENV, **kwargs: Any) -> None:
        self.args = args
        self._client = RewardClient(url, token_env)

    async def __call__(
        self,
        completions: list[str],
        messages: list[list[dict[str, Any]]],
        trainer_state: Any = None,
        **columns: Any,
    ) -> list[float | None]:
        """Rewards in [0, 1], None where an answer cannot be judged.

        Args:
            completions: N answers.
            messages: N dialogues, each with its answer last; the user's last message is the prompt.
            trainer_state: Holds the training step.
            **columns: The data set's columns, N values each, and ms-swift's own.
        """
        prompts: list[Content] = [_asked(dialogue) for dialogue in messages]
        answers = answers_from_columns(prompts, completions, columns)
        scored = await self._client.ascore(answers, step_of(trainer_state))
        return [result.reward for result in scored]


def _asked(dialogue: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the user asked last; tools may have spoken since."""
    return [message for message in dialogue[:-1] if message["role"] == "user"][-1:]
