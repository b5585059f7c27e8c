"""What the name ``sandbox`` means: the shipped policy, and a local server instead of a judge's or
meta-judge's.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from mpo_lite.config import SANDBOX, Config
from mpo_lite.model_config import Model


@contextmanager
def sandboxed(config: Config) -> Generator[Config]:
    """Fills in what the name ``sandbox`` stands for; its server runs while the block does."""
    config = with_sandbox_policy(config)
    if not config.simulated:
        yield config
        return
    from mpo_lite.sandbox.judge_server import running

    with running(seed=config.seed) as url:
        yield config.model_copy(update=_with_server(config, url))


def with_sandbox_policy(config: Config) -> Config:
    """The configuration with the shipped policy instead of the name ``sandbox``."""
    if config.policy != SANDBOX:
        return config
    # Read when torch is imported; on several threads a model this small is many times slower.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from mpo_lite.sandbox.data import policy_dir

    return config.model_copy(update={"policy": str(policy_dir())})


def _with_server(config: Config, url: str) -> dict[str, Any]:
    """The models of the configuration, the simulated ones at ``url``."""

    def at(model: Model | None) -> Model | None:
        return model.model_copy(update={"api_base": url}) if model and model.model == SANDBOX else model

    return {
        "judge": tuple(at(model) for model in config.judge),
        "judge_fallback": at(config.judge_fallback),
        "meta": at(config.meta),
        "audit_judge": at(config.audit_judge),
    }
