"""The process that has answers generated and judged while the trainer trains.

TRL's own judges one prompt group after the other, and generates as far ahead as its queues hold: a batch
then waits once per group for the judge, and a good part of the answers that were paid for is dropped as
stale. Here an answer is judged as soon as it ends, and no more are under way than the next optimiser step
takes.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from mpo_lite.errors import BudgetReached
from mpo_lite.integrations.client import Answer, RewardClient
from mpo_lite.loop.reward import drop_thin_groups
from mpo_lite.training.chat import Chat
from mpo_lite.training.trl_async import (
    AsyncRolloutWorker,
    TrainingSequence,
    _AsyncRolloutLoop,
    async_rollout_worker,
)

POLL_S = 0.02
"""How often the trainer's queue is looked at while as many answers are under way as may be."""
_NO_DRIFT = {"transitions": 0, "fork": 0, "realign": 0, "drift_tokens": 0, "drift_max": 0.0}
"""TRL's count of conversations whose tokens changed from turn to turn: an answer is one turn."""

Rollout = tuple[list[dict[str, str]], list[int], list[TrainingSequence], int, int, float | None]
"""Messages, their tokens, what is trained on, calls of tools and failures of them, reward."""
_NOTHING: Rollout = ([], [], [], 0, 0, None)


class JudgedRollouts(_AsyncRolloutLoop):
    """The loop in the worker's process.

    Args:
        tasks: What the judge is shown as the task, one per row of the data set.
        chat: The policy's tokenizer.
        service: Gives rewards.
        ahead: Answers that may be generated, judged or waiting for the trainer at a time.
        planned: Answers that the trainer will take.
        missing_eos_penalty: Taken off the reward of an answer that was cut off.
        options: TRL's own.
    """

    _provides_rollout_reward = True

    def __init__(
        self,
        *,
        tasks: Sequence[str],
        chat: Chat,
        service: RewardClient,
        ahead: int,
        planned: int,
        missing_eos_penalty: float,
        **options: Any,
    ) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's to act on
        threading.Thread(target=_end_with_parent, daemon=True).start()
        # TRL refuses chat templates of which it cannot parse tool calls; here nothing is parsed by them.
        options["processing_class"].response_template = ""
        super().__init__(reward_funcs=[], **options)
        self.reward_func_names = ["judge"]
        self._tasks, self._chat, self._service = tasks, chat, service
        self._ahead, self._planned, self._missing_eos_penalty = ahead, planned, missing_eos_penalty
        self._first_row: int = options["dataset_start_index"]
        self._versions: dict[int, int] = {}  # group → oldest policy version that answered
        self._started = self._scored = 0
        self._entry = asyncio.Lock()

    async def _generate_one(self, prompt: Any, tool_dict: Any, tools: Any, group_id: int = 0) -> Rollout:
        if not await self._has_room():
            return _NOTHING
        version = self.model_version
        self._versions[group_id] = min(version, self._versions.get(group_id, version))
        answering = asyncio.ensure_future(self._answer(prompt, self._first_row + group_id))
        stopping = asyncio.ensure_future(self._stop_event.wait())
        await asyncio.wait((answering, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if answering.done():
            return answering.result()
        answering.cancel()
        return _NOTHING

    async def _answer(self, prompt: Any, row: int) -> Rollout:
        """An answer to the prompt in this row of the data set, with its reward, in TRL's form."""
        began = time.monotonic()
        prompt_ids = self._chat.prompt_ids(prompt)
        ids, logprobs = await self._generate_one_turn(prompt_ids)
        text, reward = await self._judge(row, ids)
        sequence = TrainingSequence(
            input_ids=prompt_ids + ids,
            completion_mask=[0] * len(prompt_ids) + [1] * len(ids),
            old_log_probs=[0.0] * len(prompt_ids) + logprobs,
            rollout_id=uuid.uuid4().hex,
        )
        self._push_rollout_metrics(
            turns=1,
            sequences=1,
            completion_ids=ids,
            tally=_NO_DRIFT,
            loop_exhausted=False,
            duration_s=time.monotonic() - began,
        )
        return [{"role": "assistant", "content": text}], ids, [sequence], 0, 0, reward

    async def _score_group(self, group: Any) -> list[Any]:
        if self._stop_event.is_set():
            return []  # what was not begun by then is empty
        # TRL takes the version at which it made the group, which may have waited for room since.
        group.model_version = self._versions.pop(group.group_id)
        group.rollout_rewards = drop_thin_groups(group.rollout_rewards, self.num_generations)
        samples = await super()._score_group(group)
        self._scored += len(samples)
        return samples

    async def _has_room(self) -> bool:
        """Waits until one more answer may be under way. They come in turn, so that groups stay together.

        Returns:
            Whether there is room; False once the worker is to stop.
        """
        async with self._entry:
            while not self._stop_event.is_set():
                # Beyond the plan, one group at a time: it replaces answers that the trainer dropped.
                limit = self._ahead if self._started < self._planned else self.num_generations
                if self._started - self._scored + self.rollout_buffer.qsize() < limit:
                    self._started += 1
                    return True
                await asyncio.sleep(POLL_S)
        return False

    async def _judge(self, row: int, ids: Sequence[int]) -> tuple[str, float | None]:
        """Text and reward of an answer to the prompt in this row; None where it could not be judged."""
        answer = self._chat.completion(ids)
        task = self._tasks[row % len(self._tasks)]
        submitted = Answer(task, answer.text, group=str(row), truncated=answer.truncated)
        try:
            [scored] = await self._service.ascore([submitted])
        except BudgetReached:
            await self._stop_event.wait()  # the trainer knows, and ends the run
            return answer.text, None
        if scored.reward is None or not answer.truncated:
            return answer.text, scored.reward
        return answer.text, scored.reward - self._missing_eos_penalty


class RolloutWorker(AsyncRolloutWorker):
    """The worker as the trainer has it; its process runs ``JudgedRollouts``.

    Args:
        check: Called while the trainer waits; raises what ends the run.
        options: Those of ``JudgedRollouts``.
    """

    _loop_cls = JudgedRollouts

    def __init__(self, check: Callable[[], None], **options: Any) -> None:
        # TRL wants vLLM's package here, though this side only speaks HTTP: the server may have its own.
        async_rollout_worker.is_vllm_available = lambda: True
        super().__init__(**options)
        self._check = check

    def check_health(self, stale_after_s: float) -> None:
        """Raises what ends the run, or that the process has failed or hangs."""
        self._check()
        super().check_health(stale_after_s)

    def stop(self) -> None:
        """Ends the process."""
        if self._process and not self._process.is_alive():
            self._process = None  # TRL would wait for ever for the dead process to hear of it
        super().stop()


def _end_with_parent() -> None:
    """Ends this process once the trainer's was killed: nobody else would stop it."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
