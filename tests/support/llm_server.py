"""A local model server for tests: OpenAI Chat Completions and Anthropic Messages, over real HTTP.

Its answers fit the JSON Schema of the request and depend on the request's text alone. ``fault`` may answer
instead.
"""

import asyncio
import hashlib
import json
import re
import threading
from collections.abc import Callable
from typing import Any

from aiohttp import web

Body = dict[str, Any]
Fault = Callable[[str, Body], "web.Response | str | None"]


class LLMServer:
    """``with LLMServer() as server``: ``server.url`` is the API base; ``server.requests`` is what arrived."""

    def __init__(
        self,
        fault: Fault = lambda kind, body: None,
        delay: float = 0.0,
        key: str | None = None,
        port: int = 0,
    ) -> None:
        self.fault, self.delay, self.key, self.port = fault, delay, key, port
        self.models: Callable[[], web.StreamResponse] = lambda: web.Response(status=404)
        self.requests: list[Body] = []
        self._schema: Body | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "LLMServer":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *error: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def prompts(self, kind: str) -> list[str]:
        """The texts of the requests of one kind: judge, repair, analyse, refine, merge or check."""
        return [text for body in self.requests if kind_of(text := prompt_text(body)) == kind]

    async def _start(self) -> None:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/chat/completions", self._openai)
        app.router.add_post("/v1/messages", self._anthropic)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.root = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        self.url = f"{self.root}/v1"

    async def _models(self, request: web.Request) -> web.StreamResponse:
        return self.models()

    async def _body(self, request: web.Request) -> tuple[Body, Body | None, "web.Response | str | None"]:
        body = await request.json()
        self.requests.append(body)
        # Asked without a schema, a model reads the form off the prompt: ours remembers the last one seen.
        form = body.get("output_format") or (body.get("response_format") or {}).get("json_schema", {})
        for tool in body.get("tools") or []:
            form = {"schema": tool.get("input_schema") or tool["function"]["parameters"]}
        schema = self._schema = form.get("schema") or self._schema
        if self.delay:
            await asyncio.sleep(self.delay)
        sent = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix(
            "Bearer "
        )
        if self.key and sent != self.key:
            return (
                body,
                schema,
                web.json_response({"error": {"message": "bad key", "type": "auth"}}, status=401),
            )
        return body, schema, self.fault(kind_of(prompt_text(body)), body)

    async def _openai(self, request: web.Request) -> web.Response:
        body, schema, answer = await self._body(request)
        if isinstance(answer, web.Response):
            return answer
        text = answer_for(schema, body) if answer is None else answer
        if body.get("tools") and answer is None:
            call = {"id": "t1", "type": "function", "function": {"name": "reply", "arguments": text}}
            return web.json_response(openai_reply(None, "tool_calls", tool_calls=[call]))
        return web.json_response(openai_reply(text))

    async def _anthropic(self, request: web.Request) -> web.Response:
        body, schema, answer = await self._body(request)
        if isinstance(answer, web.Response):
            return answer
        text = answer_for(schema, body) if answer is None else answer
        content: Body = {"type": "text", "text": text}
        if body.get("tools") and answer is None:
            name = body["tools"][0]["name"]
            content = {"type": "tool_use", "id": "t1", "name": name, "input": json.loads(text)}
        return web.json_response(
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "model": body["model"],
                "content": [content],
                "stop_reason": "end_turn",
                "usage": {"input_tokens": 100, "output_tokens": 20},
            }
        )


def openai_reply(text: str | None, finish_reason: str = "stop", **message: Any) -> Body:
    """A chat completion in OpenAI's form."""
    choice = {
        "index": 0,
        "finish_reason": finish_reason,
        "message": {"role": "assistant", "content": text, **message},
    }
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }


def prompt_text(body: Body) -> str:
    """All text of a request, the system prompt first."""
    parts = [body.get("system", "")] + [message["content"] for message in body["messages"]]
    return "\n".join(
        part if isinstance(part, str) else "\n".join(block["text"] for block in part) for part in parts
    )


def kind_of(text: str) -> str:
    """Which of our prompts this is."""
    openings = {
        "Score one answer": "judge",
        "Score several answers": "group",
        "Decide which of two answers": "match",
        "Repair JSON": "repair",
        "Examine what training changed": "compare",
        "Examine what the model is about to learn": "contrast",
        "You supervise a judge": "analyse",
        "You check a judge": "prescreen",
        "You revise the rubric": "revise",
        "You write guidelines": "guide",
        "Prepare to judge answers": "plan",
        "You improve the rubric": "refine",
        "You edit the rubric": "merge",
    }
    plain = " ".join(text.split())
    return next((kind for opening, kind in openings.items() if opening in plain), "check")


def completion_of(body: Body) -> str:
    """The fenced completion that a judge is shown."""
    match = re.search(r"<completion-(\w{12})>\n(.*)\n</completion-\1>", prompt_text(body), re.DOTALL)
    return match[2] if match else ""


def answer_for(schema: Body | None, body: Body) -> str:
    """Some answer that fits the schema, decided by the request's text."""
    # Fence nonces differ between cache directories; answers must not.
    text = re.sub(r"-[0-9a-f]{12}>", ">", prompt_text(body))
    kind = kind_of(text)
    if kind in ("refine", "merge", "revise"):
        number = int(hashlib.sha256(text.encode()).hexdigest(), 16) % 1000
        criterion = {
            "id": f"criterion_{number}",
            "description": f"Whether sign {number} is there.",
            "levels": ["absent", "present"],
            "weight": 2,
            "kind": "merit",
        }
        if kind == "refine":
            return json.dumps({"change": "Sign has to count.", "criteria": [criterion], "drop": []})
        return json.dumps({"criteria": [criterion | {"from": ["s1"]}], "guidelines": ""})
    if kind in ("analyse", "compare", "contrast"):
        return json.dumps({"critique": "because", "sound": False})
    return json.dumps(_fill(schema, text)) if schema else "ready"


def _fill(schema: Body, text: str) -> Any:
    if "enum" in schema:
        return schema["enum"][int(hashlib.sha256(text.encode()).hexdigest(), 16) % len(schema["enum"])]
    if schema["type"] == "object":
        return {name: _fill(part, text + name) for name, part in schema["properties"].items()}
    return {"array": [], "boolean": True}.get(schema["type"], "because")


def fails_on_every(nth: int) -> Callable[[str, Any], str | None]:
    """A judge that never judges every ``nth`` of the completions it comes to see."""
    seen: dict[str, int] = {}

    def fault(kind: str, body: Any) -> str | None:
        fails = kind == "judge" and seen.setdefault(completion_of(body), len(seen)) % nth == 0
        return "I would rather not say." if fails or kind == "repair" else None

    return fault
