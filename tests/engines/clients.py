"""Each engine's own way to a reward: its client code, given a prompt and a group of answers."""

import asyncio
import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import aiohttp
import numpy as np
import torch

CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"


@dataclass(frozen=True)
class Service:
    """A served judge."""

    url: str
    token: str


@dataclass(frozen=True)
class Reward:
    """What an engine has of an answer after its client ran.

    ``value`` is None where the engine leaves the answer out; ``version`` and ``filled`` are None where its
    protocol has no place for them.
    """

    value: float | None
    version: int | None = None
    filled: bool | None = None


Ask = Callable[[Service, str, Sequence[str]], list[Reward]]


class Tokenizer:
    """A character is a token."""

    eos_token = END

    def __call__(self, text: str, **kwargs: Any) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.tensor([[ord(character) for character in text]])}

    def decode(self, ids: Sequence[int] | torch.Tensor, skip_special_tokens: bool = False) -> str:
        text = "".join(chr(int(token)) for token in ids)
        return text.replace(END, "") if skip_special_tokens else text


def openrlhf(service: Service, prompt: str, completions: Sequence[str]) -> list[Reward]:
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    executor = SingleTurnAgentExecutor(f"{service.url}/openrlhf?token={service.token}")
    sampling = SimpleNamespace(max_tokens=4096, logprobs=None)

    async def execute(completion: str) -> Reward:
        tokens = [ord(character) for character in completion + END]
        output = SimpleNamespace(token_ids=tokens, finish_reason="stop", logprobs=None)

        async def generate(*args: Any, **kwargs: Any) -> Any:
            return SimpleNamespace(outputs=[output])

        engine = SimpleNamespace(generate=generate)
        done = await executor.execute(CHAT.format(prompt), None, sampling, 8192, Tokenizer(), engine)
        logs = done["extra_logs"]
        assert done["scores"] == done["reward"]
        return Reward(done["reward"][0], logs["mpo_version"][0], bool(logs["mpo_filled"][0]))

    return _together(execute, completions)


def verl_function(service: Service, prompt: str, completions: Sequence[str]) -> list[Reward]:
    function = {"path": "pkg://mpo_lite.integrations.verl", "name": "compute_score"}
    function["reward_kwargs"] = {"url": service.url}
    return _verl(prompt, completions, function, {"source": "register", "name": "naive"})


def verl_manager(service: Service, prompt: str, completions: Sequence[str]) -> list[Reward]:
    module = {"path": "pkg://mpo_lite.integrations.verl"}
    return _verl(
        prompt, completions, {}, {"source": "importlib", "name": "MPORewardManager", "module": module}
    )


def _verl(
    prompt: str, completions: Sequence[str], function: dict[str, Any], manager: dict[str, Any]
) -> list[Reward]:
    from omegaconf import OmegaConf
    from tensordict import TensorDict
    from verl import DataProto
    from verl.trainer.ppo.reward import load_reward_manager, resolve_reward_manager_cls

    reward = {"custom_reward_function": function, "reward_manager": manager}
    config = OmegaConf.create({"reward": reward, "data": {"max_response_length": 4096}})
    uid = uuid4().hex

    def data_of(completion: str) -> DataProto:
        """As verl's agent loop makes it."""
        prompts = Tokenizer()(CHAT.format(prompt))["input_ids"]
        responses = Tokenizer()(completion + END)["input_ids"]
        ids = torch.cat([prompts, responses], dim=1)
        tensors = {"prompts": prompts, "responses": responses, "attention_mask": torch.ones_like(ids)}
        columns = {
            "raw_prompt": [{"role": "user", "content": prompt}],
            "uid": uid,
            "data_source": "essays",
            "reward_model": {"ground_truth": ""},
            "extra_info": {"prompt": prompt},
            "global_steps": 1,
        }
        arrays = {name: np.array([value]) for name, value in columns.items()}
        return DataProto(batch=TensorDict(tensors, batch_size=1), non_tensor_batch=arrays)

    async def run() -> list[dict[str, Any]]:
        worker = load_reward_manager(config, Tokenizer())
        return await asyncio.gather(*(worker.run_single(data_of(completion)) for completion in completions))

    outputs = asyncio.run(run())
    scores = [output["reward_score"] for output in outputs]
    for completion, score in zip(completions, scores, strict=True):
        tensor = resolve_reward_manager_cls(config).assemble_rm_scores(data_of(completion), [score])
        assert math.isclose(tensor.sum().item(), score, abs_tol=1e-6)
    extras = [output["reward_extra_info"] for output in outputs]
    assert len({tuple(extra) for extra in extras}) == 1, "verl needs the same keys for each answer"
    return [
        Reward(score, int(extra["mpo_version"]), bool(extra["mpo_filled"]))
        for score, extra in zip(scores, extras, strict=True)
    ]


def swift(service: Service, prompt: str, completions: Sequence[str]) -> list[Reward]:
    from swift.rewards import orms
    from swift.rl_core.data import GRPOSample
    from swift.rl_core.grpo_algorithm import score_completions
    from swift.utils import import_external_file

    plugin = Path(__file__).parent / "swift_plugin.py"
    import_external_file(str(plugin))
    dialogues = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}] for text in completions
    ]
    samples = [GRPOSample.from_row({"messages": dialogue, "prompt_id": prompt}) for dialogue in dialogues]
    rewards = score_completions(
        samples, [orms["mpo"](args=None)], [None], use_gym_env=False, device=torch.device("cpu")
    )
    return [Reward(None if math.isnan(reward) else reward) for reward in rewards[:, 0].tolist()]


def verifiers(service: Service, prompt: str, completions: Sequence[str]) -> list[Reward]:
    import verifiers.v1 as vf

    config = vf.TaskConfig(judges=[{"id": "mpo-judge", "url": service.url}])
    task = vf.Task(vf.TaskData(idx=0, prompt=prompt), config)

    async def score(completion: str) -> Reward:
        trace = vf.Trace.model_construct(
            rewards={}, metrics={}, nodes=[], root_reply=completion, stop_condition=None, calls=[]
        )
        try:
            await task.score(trace)
        except vf.TaskError as error:  # verifiers records it on the trace, which then trains nothing
            assert "could not be judged" in str(error)
            return Reward(None)
        return Reward(trace.reward, int(trace.metrics["mpo_version"] or 0))

    return _together(score, completions)


def trl(service: Service, prompt: str, completions: Sequence[str]) -> list[Reward]:
    from accelerate import PartialState
    from trl.experimental.async_grpo import async_rollout_worker as worker

    from mpo_lite.integrations.trl import RemoteReward

    PartialState()  # the worker's logger wants it
    loop = next(kind for kind in vars(worker).values() if hasattr(kind, "_score_group"))
    sequence = SimpleNamespace(input_ids=[1], completion_mask=[1], old_log_probs=[0.0])
    size = len(completions)
    group = worker.RolloutGroup(
        prompts=[[{"role": "user", "content": prompt}]] * size,
        reward_kwargs={},
        completions=[[{"role": "assistant", "content": text}] for text in completions],
        completions_ids=[[1]] * size,
        completions_sequences=[[sequence]] * size,
        tool_call_counts=[0] * size,
        tool_failure_counts=[0] * size,
        model_version=0,
        group_id=0,
        env_rewards=[None] * size,
        rollout_rewards=[None] * size,
    )
    reward = pickle.loads(pickle.dumps(RemoteReward(service.url)))
    process = SimpleNamespace(
        reward_funcs=[reward], reward_func_names=["mpo"], _env_reward_types=[], _provides_rollout_reward=False
    )
    samples = asyncio.run(loop._score_group(process, group))
    rewards = [sample.metrics["rewards/mpo"] for sample in samples]
    assert all(sample.advantage == 0 for sample in samples if math.isnan(sample.metrics["reward"]))
    return [Reward(None if math.isnan(value) else value) for value in rewards]


def slime(service: Service, prompt: str, completions: Sequence[str]) -> list[Reward]:
    """Its protocol, ``--rm-type remote_rm``: ten tries, 120 s each; the number itself."""

    async def post(completion: str) -> Reward:
        body = {"prompt": CHAT.format(prompt), "response": completion + END, "label": None}
        return Reward(await _post(f"{service.url}/slime?token={service.token}", body))

    return _together(post, completions)


def slime_with_key(service: Service, prompt: str, completions: Sequence[str]) -> list[Reward]:
    """The same with ``--reward-key score``."""

    async def post(completion: str) -> Reward:
        body = {"prompt": [{"role": "user", "content": prompt}], "response": completion, "label": ""}
        reply = await _post(f"{service.url}/slime?key=score&token={service.token}", body)
        return Reward(reply["score"], reply["version"])

    return _together(post, completions)


def nemo_gym(service: Service, prompt: str, completions: Sequence[str]) -> list[Reward]:
    """Its protocol, a resources server: ``/seed_session``, then ``/verify``."""

    async def verify(completion: str) -> Reward:
        content = [{"type": "output_text", "text": completion, "annotations": []}]
        body = {
            "responses_create_params": {"input": [{"role": "user", "content": prompt}]},
            "response": {"output": [{"type": "message", "role": "assistant", "content": content}]},
            "_ng_task_index": prompt,
        }
        token = f"?token={service.token}"
        await _post(f"{service.url}/seed_session{token}", {})
        reply = await _post(f"{service.url}/verify{token}", body)
        assert body.items() <= reply.items(), "the row comes back with its reward"
        assert (reply.get("_ng_failure_class") == "judge_failed") == reply["mpo_filled"]
        return Reward(reply["reward"], reply["mpo_version"], reply["mpo_filled"])

    return _together(verify, completions)


ENGINES: dict[str, Ask] = {
    ask.__name__: ask
    for ask in (openrlhf, verl_function, verl_manager, swift, verifiers, trl, slime, slime_with_key, nemo_gym)
}


def _together(ask: Callable[[str], Any], completions: Sequence[str]) -> list[Reward]:
    async def run() -> list[Reward]:
        return await asyncio.gather(*map(ask, completions))

    return asyncio.run(run())


async def _post(url: str, body: Any) -> Any:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session,
        session.post(url, json=body) as response,
    ):
        response.raise_for_status()
        return await response.json()
