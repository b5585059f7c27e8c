"""Batches that cannot be split over several processes are refused."""

from collections.abc import Callable
from typing import Any

import pytest

from mpo_lite.errors import ConfigError
from mpo_lite.loop.session import Session
from tests.support.llm_server import LLMServer

pytestmark = pytest.mark.usefixtures("quick_retries")


def test_groupwise_judging_refuses_groups_that_straddle_processes(
    open_session: Callable[..., Session],
) -> None:
    from types import SimpleNamespace

    from mpo_lite.training.callback import MPOCallback

    def begin(session: Session, per_device: int) -> None:
        args = SimpleNamespace(
            num_generations=4, generation_batch_size=32, per_device_train_batch_size=per_device,
            steps_per_generation=1, num_iterations=1, gradient_accumulation_steps=1, output_dir="nowhere",
            shuffle_dataset=False,
        )  # fmt: skip
        state: Any = SimpleNamespace(global_step=0, max_steps=1)
        tokenizer: Any = SimpleNamespace(
            eos_token_id=1, pad_token_id=0, apply_chat_template=lambda *_, **__: ""
        )
        model: Any = SimpleNamespace(generation_config=tokenizer)
        MPOCallback(session).on_train_begin(args, state, None, model=model, processing_class=tokenizer)

    with LLMServer() as server:
        with pytest.raises(ConfigError, match=r"groupwise.*multiple of num_generations \(4\)"):
            begin(open_session(server, judge_mode="groupwise"), 6)
        begin(open_session(server, judge_mode="groupwise"), 8)
