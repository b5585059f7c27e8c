"""Rewards in AReaL.

Its workflows wrap a reward function in ``AsyncRewardWrapper``, which takes 0 as the reward of a call that
lasts longer than 15 s, the wait for one of its few processes included. ``score`` needs no wrapper::

    workflow = RLVRWorkflow(reward_fn=areal.reward_fn, ...)
    workflow.async_reward_fn = areal.score

``reward_fn`` is for workflows that cannot be changed: it raises before those 15 s are over. AReaL trains on
every answer, so one that cannot be judged gets its group's mean and has no advantage.
"""

from __future__ import annotations

import re
from typing import Any

from mpo_lite.errors import ConfigError
from mpo_lite.integrations.client import Answer, RewardClient, Scored

WRAPPED_S = 13.0
"""Patience under ``AsyncRewardWrapper``."""
_END = re.compile(r"(?:\s*(?:<\|[^|<>\s]{1,40}\|>|</s>|<eos>|<pad>|<end_of_turn>))+\s*$")
"""Special tokens at the end of an answer, which AReaL decodes along with it."""


async def score(
    prompt: str, completions: str, prompt_ids: list[int], completion_ids: list[int], **row: Any
) -> float:
    """Reward in [0, 1], for ``async_reward_fn`` of a workflow. The service's address is ``MPO_SERVE_URL``.

    Args:
        prompt: The prompt in its chat template; not used.
        completions: The policy's answer.
        prompt_ids: Not used.
        completion_ids: Not used.
        **row: The data set's row: ``messages`` is the prompt, ``reference`` a correct answer for tasks whose
            judge sees it, ``cluster`` the kind of prompt.

    Raises:
        ConfigError: The row has no messages.
        BudgetReached, EndpointError, Unavailable: See ``RewardClient.score``.
    """
    return _reward(await RewardClient().ascore([_answer(completions, row)], fill=True))


def reward_fn(
    prompt: str, completions: str, prompt_ids: list[int], completion_ids: list[int], **row: Any
) -> float:
    """As ``score``, under ``AsyncRewardWrapper``: raises ``Unavailable`` after 13 s."""
    client = RewardClient(patience_s=WRAPPED_S)
    return _reward(client.score([_answer(completions, row)], fill=True))


def _answer(completion: str, row: dict[str, Any]) -> Answer:
    if not row.get("messages"):
        raise ConfigError("the data has no column messages, which holds the prompt that is to be judged")
    reference, cluster = str(row.get("reference") or ""), str(row.get("cluster") or "")
    return Answer(row["messages"], _END.sub("", completion), reference=reference, cluster=cluster)


def _reward(results: list[Scored]) -> float:
    (scored,) = results
    assert scored.reward is not None, "the service fills"
    return scored.reward
