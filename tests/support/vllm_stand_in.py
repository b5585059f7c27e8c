"""A server for tests that speaks what the asynchronous trainer asks of vLLM, on the tiny policy.

The real one is asked by ``make test-vllm``.
"""

import asyncio
import threading
from typing import Any

import torch
from aiohttp import web
from peft import PeftModel
from transformers import AutoModelForCausalLM

from mpo_lite.sandbox.data import policy_dir

LORA = {"max_lora_rank": 64, "max_loras": 3}


class VLLMStandIn:
    """``with VLLMStandIn() as vllm``: ``vllm.url`` is its address.

    Attributes:
        lora: What it says of adapters; None: it takes none.
        loaded: Adapters that it holds, oldest first.
        generated: Name of the model of each completion, in order.
        fault: Where set, what completions are answered with instead.
    """

    def __init__(
        self,
        lora: dict[str, int] | None = LORA,
        dev_mode: bool = True,
        updating: bool = True,
        is_other_model: bool = False,
    ) -> None:
        self.lora, self._dev_mode, self._updating = lora, dev_mode, updating
        self.loaded: list[str] = []
        self.ever_loaded: list[str] = []
        self.generated: list[str] = []
        self.seeds: list[int] = []
        self._is_other_model = is_other_model
        self._model: Any = None
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "VLLMStandIn":
        self._base = AutoModelForCausalLM.from_pretrained(policy_dir()).eval()
        if self._is_other_model:
            with torch.no_grad():
                self._base.lm_head.weight.copy_(self._base.lm_head.weight.flip(0))
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def stop(self) -> None:
        """Ends it, as a crash would."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_get("/health", lambda _: self._reply({}))
        app.router.add_get("/v1/models", lambda _: self._reply({"data": [{"id": "tiny"}]}))
        app.router.add_post("/v1/completions", self._complete)
        if self._dev_mode:
            app.router.add_get("/server_info", self._info)
            for path in ("/pause", "/resume"):
                app.router.add_post(path, lambda _: self._reply({}))
        if self._updating:
            app.router.add_post("/v1/load_lora_adapter", self._load)
            app.router.add_post("/v1/unload_lora_adapter", self._unload)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _reply(self, body: Any) -> web.Response:
        return web.json_response(body)

    async def _info(self, _: web.Request) -> web.Response:
        settings = {
            "lora_config": self.lora,
            "parallel_config": {"data_parallel_size": 1},
            "model_config": {"dtype": "torch.float32"},
        }
        return await self._reply({"vllm_config": settings})

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["lora_name"] in self.loaded:
            return web.json_response({"error": "already loaded"}, status=400)
        await asyncio.to_thread(self._load_adapter, body["lora_name"], body["lora_path"])
        self.loaded.append(body["lora_name"])
        self.ever_loaded.append(body["lora_name"])
        return await self._reply({})

    def _load_adapter(self, name: str, path: str) -> None:
        with self._lock:
            key = name.replace(".", "-")
            if self._model is None:
                self._model = PeftModel.from_pretrained(self._base, path, adapter_name=key).eval()
            else:
                self._model.load_adapter(path, adapter_name=key)

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if name not in self.loaded:
            return web.json_response({"error": "no such adapter"}, status=404)
        self.loaded.remove(name)
        return await self._reply({})

    async def _complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["model"] not in ("tiny", *self.loaded):
            return web.json_response({"error": f"no model {body['model']}"}, status=404)
        self.generated.append(body["model"])
        self.seeds.append(body["seed"])
        ids, logprobs = await asyncio.to_thread(self._generate, body)
        choice = {"index": 0, "token_ids": ids, "logprobs": {"token_logprobs": logprobs}}
        return await self._reply({"choices": [choice]})

    def _generate(self, body: dict[str, Any]) -> tuple[list[int], list[float]]:
        prompt = torch.tensor([body["prompt"]])
        with self._lock, torch.no_grad():
            torch.manual_seed(body["seed"] % 2**63)
            model = self._base if self._model is None else self._model
            if body["model"] != "tiny":
                model.set_adapter(body["model"])
            # Only before the first adapter is anything asked of the model without one.
            output = model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=True,
                top_k=0,
                max_new_tokens=body["max_tokens"],
                output_logits=True,
                return_dict_in_generate=True,
            )
        ids = output.sequences[0, prompt.shape[1] :].tolist()
        rows = torch.cat(output.logits).log_softmax(-1)  # (T, vocabulary)
        return ids, [rows[place, token].item() for place, token in enumerate(ids)]
