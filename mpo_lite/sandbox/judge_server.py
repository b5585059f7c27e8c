"""The simulated models behind an OpenAI-compatible address on loopback.

The sandbox calls its judge as a run calls a real provider: over HTTP, through the same client, prompts and
parser. This module is only the wire: it checks a request, asks ``simulate.reply`` and wraps the answer. It
answers ``POST /v1/chat/completions``, ``GET /v1/models`` and ``GET /stats`` (counts since the start).
Streaming, several choices and tools are refused, not ignored. Token counts are counts of words: the sandbox
has no prices.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, cast

from aiohttp import web

from mpo_lite.sandbox.simulate import reply
from mpo_lite.types import Message, text_hash

DEFAULT_BAD_RATE = 0.0
"""How often a merged rubric is a bad one, unless asked otherwise.

Real meta-judges make errors. Without the gate nothing checks a proposal before it is trained on, so a bad
rubric halfway through a short run can leave too little time to fix it.
"""
AUDITOR = "sandbox-audit"
"""The judge of another seed, which falls for other things."""
MODELS = ("sandbox-judge", "sandbox-meta", AUDITOR)
_LARGEST_BODY = 4 * 1024 * 1024
_START_SECONDS = 10.0
_FORMATS = ("text", "json_object", "json_schema")


@dataclass
class Stats:
    """What the server did since it started; counts."""

    requests: int = 0
    judge: int = 0
    meta: int = 0
    rejected: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Refused(Exception):
    """A request that an OpenAI-compatible server answers with 400."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def _error(message: str, status: int = 400, param: str | None = None) -> web.Response:
    problem = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
    return web.json_response({"error": problem}, status=status)


def _content(value: Any, place: str) -> str:
    """Text of a message: a string, or a list of text parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        texts: list[str] = []
        for part in cast("list[Any]", value):
            entry = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
            if entry.get("type") != "text" or not isinstance(entry.get("text"), str):
                raise _Refused(f"{place}.content: only text parts are understood", place)
            texts.append(entry["text"])
        return "\n".join(texts)
    raise _Refused(f"{place}.content must be text", place)


def _messages(value: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise _Refused("'messages' must be a list with at least one message", "messages")
    messages: list[Message] = []
    for index, entry in enumerate(cast("list[Any]", value)):
        place = f"messages[{index}]"
        message = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
        role = message.get("role")
        if role not in ("system", "developer", "user", "assistant"):
            raise _Refused(f"{place}.role must be system, developer, user or assistant", place)
        content = _content(message.get("content"), place)
        messages.append(Message(role="system" if role == "developer" else role, content=content))
    return messages


def _parse_request(body: Any) -> tuple[str, list[Message], dict[str, Any]]:
    """The model's name, the messages, and the facts of the prompt, of a request body.

    Raises:
        _Refused: The body is no chat request, or asks for what is not offered.
    """
    if not isinstance(body, dict):
        raise _Refused("the body must be a JSON object")
    request = cast("dict[str, Any]", body)
    model = request.get("model")
    if not isinstance(model, str) or not model:
        raise _Refused("'model' must be a name", "model")
    for key, plain in (("stream", False), ("n", 1), ("tools", None)):
        if request.get(key) not in (None, plain):
            raise _Refused(f"the sandbox does not offer {key!r}", key)
    form = request.get("response_format")
    if form is not None:
        kind: Any = cast("dict[str, Any]", form).get("type") if isinstance(form, dict) else None
        if kind not in _FORMATS:
            raise _Refused(f"'response_format.type' must be one of {', '.join(_FORMATS)}", "response_format")
        if kind == "json_schema" and not isinstance(cast("dict[str, Any]", form).get("json_schema"), dict):
            raise _Refused("'response_format.json_schema' must be an object", "response_format")
    facts: Any = request.get("mpo_lite", {})
    if not isinstance(facts, dict) or not isinstance(cast("dict[str, Any]", facts).get("template", ""), str):
        raise _Refused("'mpo_lite' must be an object with a template's name", "mpo_lite")
    return model, _messages(request.get("messages")), cast("dict[str, Any]", facts)


class _Server:
    """One simulated provider: the settings it was started with, and its counts."""

    def __init__(self, seed: int, bad_rate: float) -> None:
        if not 0.0 <= bad_rate <= 1.0:
            raise ValueError(f"bad_rate must be between 0 and 1, not {bad_rate}")
        self.seed = seed
        self.bad_rate = bad_rate
        self.stats = Stats()

    def app(self) -> web.Application:
        app = web.Application(client_max_size=_LARGEST_BODY, middlewares=[_format_http_errors])
        app.router.add_post("/v1/chat/completions", self.complete)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/stats", self.show_stats)
        return app

    async def complete(self, request: web.Request) -> web.Response:
        self.stats.requests += 1
        try:
            body: Any = json.loads(await request.text())
            model, messages, facts = _parse_request(body)
            answer = reply(messages, facts, self.seed + (model == AUDITOR), self.bad_rate)
        except _Refused as refused:
            self.stats.rejected += 1
            return _error(str(refused), param=refused.param)
        except (ValueError, TypeError, RecursionError, LookupError) as error:  # no JSON, or no prompt of ours
            self.stats.rejected += 1
            return _error(str(error))
        content = json.dumps(answer, ensure_ascii=False)
        asked = sum(len(message["content"].split()) for message in messages)
        tokens = len(content.split())
        template: str = facts.get("template", "")
        self.stats.judge += template.startswith("judge/")
        self.stats.meta += template.startswith("meta/")
        self.stats.prompt_tokens += asked
        self.stats.completion_tokens += tokens
        usage = {"prompt_tokens": asked, "completion_tokens": tokens, "total_tokens": asked + tokens}
        message = {"role": "assistant", "content": content, "refusal": None}
        return web.json_response(
            {
                "id": f"chatcmpl-{text_hash(content)}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": model,
                "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
                "usage": usage,
            }
        )

    async def models(self, _: web.Request) -> web.Response:
        rows = [{"id": name, "object": "model", "created": 0, "owned_by": "sandbox"} for name in MODELS]
        return web.json_response({"object": "list", "data": rows})

    async def show_stats(self, _: web.Request) -> web.Response:
        return web.json_response(asdict(self.stats))


@web.middleware
async def _format_http_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Gives the errors of the web framework (no such path, body too large) the shape clients expect."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _error(f"{request.method} {request.path}: {error.reason}", status=error.status)


@contextmanager
def running(seed: int = 0, bad_rate: float = DEFAULT_BAD_RATE, port: int = 0) -> Generator[str]:
    """Runs the server on 127.0.0.1 while the block runs, on a thread with an event loop of its own.

    Args:
        seed: Picks the judge's weaknesses and all chance.
        bad_rate: In [0, 1]; how often a merged rubric is a bad one.
        port: 0 takes a free one.

    Yields:
        The base URL, ``http://127.0.0.1:PORT/v1``.

    Raises:
        OSError: The port cannot be used.
    """
    server = _Server(seed, bad_rate)
    ready = threading.Event()
    state: dict[str, Any] = {}

    async def serve() -> None:
        runner = web.AppRunner(server.app(), access_log=None, shutdown_timeout=1.0)
        state["loop"], state["stop"] = asyncio.get_running_loop(), asyncio.Event()
        try:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            state["port"] = runner.addresses[0][1]
            ready.set()
            await state["stop"].wait()
        except OSError as error:
            state["error"] = error
        finally:
            await runner.cleanup()
            ready.set()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="sandbox-server", daemon=True)
    thread.start()
    if not ready.wait(_START_SECONDS) or "error" in state:
        thread.join(_START_SECONDS)
        raise state.get("error") or OSError("the sandbox server did not start")
    try:
        yield f"http://127.0.0.1:{state['port']}/v1"
    finally:
        state["loop"].call_soon_threadsafe(state["stop"].set)
        thread.join(_START_SECONDS)


def serve_forever(
    host: str = "127.0.0.1",
    port: int = 8765,
    seed: int = 0,
    bad_rate: float = DEFAULT_BAD_RATE,
    begun: Callable[[], None] = lambda: None,
) -> None:
    """Serves until interrupted; for trying the sandbox's models from another program.

    Args:
        host: Address to listen on; leave it on loopback, there is no access control.
        port: Port to listen on.
        seed: Picks the judge's weaknesses and all chance.
        bad_rate: In [0, 1]; how often a merged rubric is a bad one.
        begun: Called once it listens.
    """
    app = _Server(seed, bad_rate).app()
    web.run_app(app, host=host, port=port, print=lambda *_: begun(), access_log=None)
