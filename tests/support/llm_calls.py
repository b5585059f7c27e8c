"""A call on the local model server, and the ways in which that server may answer it."""

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from mpo_lite.errors import CallFailed
from mpo_lite.llm import event_loop
from mpo_lite.llm.call import Call
from mpo_lite.llm.client import Client
from mpo_lite.llm.models import Backend
from mpo_lite.llm.structured_output import object_schema
from mpo_lite.prompts import Prompt
from mpo_lite.types import Message
from tests.support.llm_server import LLMServer, openai_reply

SCHEMA = object_schema({"level": {"type": "integer", "enum": [0, 1, 2]}})
MakeClient = Callable[..., Client]


def parse(data: dict[str, Any]) -> int:
    if set(data) != {"level"} or type(data["level"]) is not int or not 0 <= data["level"] <= 2:
        raise ValueError("not a level")
    return data["level"]


def call(server: LLMServer, text: str = "hello", draw: str = "", **backend: Any) -> Call[int]:
    settings = {
        "label": "m",
        "model": "openai/m",
        "api_base": server.url,
        "api_key": "none",
        "price": (1.0, 2.0),
    }
    return Call(
        Backend(**(settings | backend)),
        "judge",
        Prompt("", [Message(role="user", content=text)]),
        SCHEMA,
        parse,
        draw,
    )


def faults(*answers: web.Response | str | Callable[[], web.Response] | None) -> Callable[[str, Any], Any]:
    """Answers one request after the other; sound answers from then on."""
    left = list(answers)

    def fault(kind: str, body: Any) -> Any:
        answer = left.pop(0) if left else None
        return answer() if callable(answer) else answer

    return fault


def error(status: int, message: str = "failure", **headers: str) -> Callable[[], web.Response]:
    body = {"error": {"message": message, "type": "error", "code": None}}
    return lambda: web.json_response(body, status=status, headers=headers)


def reply(text: str | None, finish_reason: str = "stop", **message: Any) -> Callable[[], web.Response]:
    return lambda: web.json_response(openai_reply(text, finish_reason, **message))


def failure(client: Any, asked: Any) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        event_loop.wait(client.ask(asked))
    assert client.cache.get(asked.key()) is None
    return caught.value
