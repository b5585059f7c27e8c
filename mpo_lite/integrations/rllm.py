"""Rewards in rllm, whose evaluators score one episode at a time.

rllm trains on every episode, so one that cannot be judged gets its group's mean and has no advantage.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mpo_lite.integrations.client import TOKEN_ENV, Answer, RewardClient

CORRECT_FROM = 0.5
"""Reward from which rllm's ``is_correct``, which only metrics use, is true."""


class MPOEvaluator:
    """Evaluator of rllm.

    Args:
        url: Address of the service; empty: from ``MPO_SERVE_URL``.
        token_env: Variable that holds its token.
    """

    def __init__(self, url: str = "", token_env: str = TOKEN_ENV) -> None:
        self._client = RewardClient(url, token_env)

    def evaluate(self, task: Any, episode: Any) -> Any:
        """Rewards the last answer of an episode; blocks, in one of rllm's threads.

        Args:
            task: ``rllm.types.Task``. Its id names the group; ``reference`` and ``cluster`` of its metadata
                are sent.
            episode: ``rllm.types.Episode``.

        Returns:
            ``rllm.eval.types.EvalOutput`` with a reward in [0, 1].
        """
        rllm = import_module("rllm.eval.types")
        answer = Answer(
            task.instruction if isinstance(task.instruction, str) else [{"content": task.instruction}],
            _last_answer(episode),
            group=str(task.id),
            reference=str(task.metadata.get("reference") or ""),
            cluster=str(task.metadata.get("cluster") or ""),
        )
        (scored,) = self._client.score([answer], fill=True)
        assert scored.reward is not None, "the service fills"
        return rllm.EvalOutput(
            reward=scored.reward,
            is_correct=not scored.filled and scored.reward >= CORRECT_FROM,
            signals=[rllm.Signal("mpo", scored.reward), rllm.Signal("mpo_filled", float(scored.filled))],
            metadata={"mpo_version": scored.version},
        )


def _last_answer(episode: Any) -> str:
    """The answer that the agent names, or otherwise the last reply of its model."""
    if "answer" in episode.artifacts:
        return str(episode.artifacts["answer"])
    steps = [step for trajectory in episode.trajectories[-1:] for step in trajectory.steps]
    replies = (str(step.model_response) for step in reversed(steps) if step.model_response)
    return next(replies, "")
