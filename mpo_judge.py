"""Judge plugin of verifiers and prime-rl, which look for one by the name of an installed module:
``id = "mpo-judge"``.
"""

from __future__ import annotations

from typing import Any

import verifiers.v1 as vf

from mpo_lite.integrations.client import PATIENCE_S, TOKEN_ENV, RewardClient
from mpo_lite.integrations.verifiers import score_trace

__all__ = ["MPOJudge", "MPOJudgeConfig"]


class MPOJudgeConfig(vf.JudgeConfig):
    """Settings of an entry in ``taskset.task.judges``; the model settings it inherits are not used."""

    id: str = "mpo-judge"
    url: str = ""
    """Address of the service; empty: from ``MPO_SERVE_URL``."""
    token_env: str = TOKEN_ENV
    """Variable that holds its token."""
    patience_s: float = PATIENCE_S
    """Seconds after which a service that does not answer is given up."""


class MPOJudge(vf.Judge[float, MPOJudgeConfig]):
    """Judges a trace's last reply by the service's rubric."""

    async def score(self, task: Any, trace: Any) -> float:
        """Reward in [0, 1]; raises where the reply cannot be judged."""
        client = RewardClient(self.config.url, self.config.token_env, self.config.patience_s)
        return await score_trace(client, task, trace)
