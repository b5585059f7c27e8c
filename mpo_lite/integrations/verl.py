"""Rewards in verl, whose reward workers are processes that each see one answer at a time.

verl trains on every answer, so one that cannot be judged gets its group's mean and has no advantage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from mpo_lite.errors import ConfigError
from mpo_lite.integrations.client import TOKEN_ENV, Answer, RewardClient, Scored


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    url: str = "",
    token_env: str = TOKEN_ENV,
    **kwargs: Any,
) -> dict[str, float]:
    """Reward of an answer: ``reward.custom_reward_function`` of verl.

    Args:
        data_source: Not used.
        solution_str: The policy's answer.
        ground_truth: A correct answer, for tasks whose judge sees it.
        extra_info: The data set's ``extra_info``; its ``prompt`` is the task prompt, which verl does not pass
            otherwise. ``cluster`` is the kind of prompt.
        url: Address of the service; empty: from ``MPO_SERVE_URL``.
        token_env: Variable that holds its token.
        **kwargs: Not used.

    Returns:
        ``score`` in [0, 1]; ``mpo_version``, the rubric version that judged; ``mpo_filled``, 1 for a group's
        mean instead of a judgement. The keys are the same for each answer, as verl requires.

    Raises:
        ConfigError: The data has no prompt.
        BudgetReached, EndpointError, Unavailable: See ``RewardClient.score``.
    """
    info = extra_info or {}
    if not info.get("prompt"):
        raise ConfigError(
            "the data's extra_info has no prompt, without which nothing can be judged: add it to the data, "
            "or use mpo_lite.integrations.verl.MPORewardManager, which gets it from verl"
        )
    answer = Answer(
        info["prompt"],
        solution_str,
        reference=str(ground_truth or ""),
        cluster=str(info.get("cluster") or ""),
    )
    return _score(await RewardClient(url, token_env).ascore([answer], fill=True))


class MPORewardManager:
    """Reward manager of verl: ``reward.reward_manager``. It has prompt, group and step from verl itself.

    Args:
        config: verl's configuration.
        tokenizer: Decodes answers.
        compute_score: Not used.
        **kwargs: Not used.
    """

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any = None, **kwargs: Any) -> None:
        self._tokenizer = tokenizer
        self._longest = int(config.data.max_response_length)
        self._client = RewardClient()

    async def run_single(self, data: Any) -> dict[str, Any]:
        """Reward of an answer.

        Args:
            data: verl's ``DataProto`` of one answer; of several outputs, the last counts.
        """
        row = data[-1]
        columns: dict[str, Any] = row.non_tensor_batch
        ids = row.batch["responses"]
        length = int(row.batch["attention_mask"][-ids.shape[-1] :].sum())
        truth: dict[str, Any] = columns.get("reward_model") or {}
        info: dict[str, Any] = columns.get("extra_info") or {}
        step = columns.get("global_steps")
        answer = Answer(
            list(columns["raw_prompt"]),
            self._tokenizer.decode(ids[:length], skip_special_tokens=True),
            group=str(columns.get("uid", "")),
            truncated=length >= self._longest,
            reference=str(truth.get("ground_truth") or ""),
            cluster=str(info.get("cluster") or ""),
        )
        scored = await self._client.ascore([answer], None if step is None else int(step), fill=True)
        extra = _score(scored)
        return {"reward_score": extra["score"], "reward_extra_info": extra}

    @classmethod
    def assemble_rm_scores(cls, data: Any, scores: list[float]) -> Any:
        """Rewards as verl's tensor, each at the last token of its answer."""
        base = import_module("verl.experimental.reward_loop.reward_manager.base")
        return base.RewardManagerBase.assemble_rm_scores(data, scores)


def _score(results: Sequence[Scored]) -> dict[str, float]:
    (scored,) = results
    assert scored.reward is not None, "the service fills"
    return {
        "score": scored.reward,
        "mpo_version": float(scored.version),
        "mpo_filled": float(scored.filled),
    }
