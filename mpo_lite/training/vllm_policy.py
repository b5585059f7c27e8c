"""The policy at a vLLM server: what the server must be able to do, and answers outside of rollouts."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import httpx

from mpo_lite.activity import activity
from mpo_lite.config import Config
from mpo_lite.errors import ConfigError, StopRun
from mpo_lite.llm import event_loop
from mpo_lite.training.chat import Chat
from mpo_lite.training.generate import BATCH_SIZE, GENERATION_SEED
from mpo_lite.types import Completion

TIMEOUT_S = 1800.0
"""Longest time for an answer, those before it at the server included."""


def check_server(config: Config, adapters: int) -> None:
    """Sees that a server can generate for the asynchronous trainer, and take adapters while it runs.

    Args:
        config: Names the server, the policy and the rank of its adapter.
        adapters: How many the server must hold at a time.

    Raises:
        ConfigError: It cannot be reached or was started without what is needed; says how to start it.
    """
    command = (
        "VLLM_SERVER_DEV_MODE=1 VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 VLLM_HTTP_TIMEOUT_KEEP_ALIVE=600 "
        f"vllm serve {config.policy} --enable-lora --max-lora-rank {config.lora_r} --max-loras {adapters}"
    )
    url = config.vllm_server_base_url
    try:
        with httpx.Client(base_url=url or "", timeout=30) as http:
            info = http.get("/server_info", params={"config_format": "json"})
            takes_adapters = http.get("/v1/load_lora_adapter").status_code != 404
    except httpx.HTTPError as error:
        raise ConfigError(
            f"--vllm-server-base-url {url}: no answer ({type(error).__name__}); start it by: {command}"
        ) from error
    settings = _settings(info)
    lora = settings.get("lora_config")
    missing = (
        "VLLM_SERVER_DEV_MODE=1" if not settings
        else "--enable-lora" if not lora
        else "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1" if not takes_adapters
        else f"--max-lora-rank {config.lora_r}" if lora["max_lora_rank"] < config.lora_r
        else f"--max-loras {adapters}" if lora["max_loras"] < adapters
        else "one replica: it has --data-parallel-size, of which only one would get an adapter"
        if settings["parallel_config"]["data_parallel_size"] > 1
        else ""
    )  # fmt: skip
    if missing:
        raise ConfigError(f"--vllm-server-base-url {url}: it runs without {missing}; start it by: {command}")


def _settings(info: httpx.Response) -> dict[str, Any]:
    """What the server says of its configuration; empty where it does not."""
    try:
        return info.json()["vllm_config"] if info.status_code == 200 else {}
    except (ValueError, KeyError, TypeError):
        return {}


class ServedPolicy:
    """The policy at the server.

    Args:
        url: The server's address.
        chat: The policy's tokenizer.
        max_new_tokens: Longest completion in tokens.
        temperature: Of sampling.

    Attributes:
        model: Name of the present policy at the server; at first that without an adapter.

    Raises:
        ConfigError: The server does not say which model it has.
    """

    def __init__(self, url: str, chat: Chat, max_new_tokens: int, temperature: float) -> None:
        self._url, self._chat = url.rstrip("/"), chat
        self._max_new_tokens, self._temperature = max_new_tokens, temperature
        try:
            self.model: str = httpx.get(f"{self._url}/v1/models", timeout=30).json()["data"][0]["id"]
        except (httpx.HTTPError, ValueError, LookupError) as error:
            raise ConfigError(f"vLLM at {self._url}: /v1/models failed ({error!r})") from error

    def is_up(self) -> bool:
        """Whether the server is up."""
        try:
            return httpx.get(f"{self._url}/health", timeout=30).status_code == 200
        except httpx.HTTPError:
            return False

    def answer(self, conversations: Sequence[Sequence[Any]]) -> list[Completion]:
        """One completion per conversation, sampled by a seed of its own.

        Args:
            conversations: N lists of chat messages.

        Raises:
            StopRun: The server fails.
        """
        prompts = [self._chat.prompt_ids(one) for one in conversations]
        try:
            return event_loop.wait(self._generate(prompts))
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise StopRun(f"vLLM at {self._url}: /v1/completions failed ({error!r})") from error

    async def _generate(self, prompts: Sequence[Sequence[int]]) -> list[Completion]:
        limits = httpx.Limits(max_connections=BATCH_SIZE)
        with activity("generating", total=len(prompts), unit="answers") as work:
            async with httpx.AsyncClient(base_url=self._url, timeout=TIMEOUT_S, limits=limits) as http:

                async def generate(index: int, prompt: Sequence[int]) -> Completion:
                    reply = await http.post("/v1/completions", json=self._body(index, prompt))
                    reply.raise_for_status()
                    work.advance()
                    return self._chat.completion(reply.json()["choices"][0]["token_ids"])

                return list(await asyncio.gather(*itertools.starmap(generate, enumerate(prompts))))

    def _body(self, index: int, prompt: Sequence[int]) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt": list(prompt),
            "max_tokens": self._max_new_tokens,
            "temperature": self._temperature,
            # Spelled out: servers take the settings that a published model ships.
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            # One for each: by the same seed, different prompts are answered by the same random numbers.
            "seed": GENERATION_SEED + index,
            "return_token_ids": True,
        }
