"""One attempt at one call through LiteLLM, and what its failure means.

LiteLLM's part ends at the wire: retries, limits, cache and cost are the client's, because its own retries
multiply the SDK's and repeat what can never succeed. Failures are told apart by status code, not by exception
class, which differs from provider to provider.
"""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import aiohttp

from mpo_lite.errors import CallFailed, EndpointError
from mpo_lite.llm.models import KEYLESS, Backend
from mpo_lite.types import Message

CONNECTIONS = 512
"""Sockets per process; above the concurrency ceiling, so that queueing for one never counts as a timeout."""

_PARAMETERS = ("response_format", "temperature", "seed")
_QUOTA = re.compile(
    r"insufficient_quota|exceeded your current quota|credit balance is too low", re.IGNORECASE
)
_CONTEXT = re.compile(
    r"context.{0,20}(length|window)|maximum.{0,20}(tokens|length)|too long|too many tokens", re.I
)
_POLICY = re.compile(r"content.{0,3}(policy|filter|management)|safety", re.IGNORECASE)
_SCHEMA = re.compile(r"response.?format|json.?schema|output_format|structured.?output|guided", re.IGNORECASE)


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        text: The answer's text; empty where the server sent none.
        finish_reason: ``stop``, ``length``, ``content_filter`` or the provider's own word.
        input_tokens: Prompt tokens, cached ones included; None where no usage was reported.
        cached_tokens: Prompt tokens read from the provider's cache.
        output_tokens: Answer tokens.
        refused: The model declined to answer.
    """

    text: str
    finish_reason: str
    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    refused: bool


class Retryable(Exception):
    """The attempt failed in a way that another may not.

    Args:
        message: What was seen.
        retry_after: Seconds the server asks to wait, or None.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ParameterRefused(Exception):
    """The model takes the call without ``parameter`` only."""

    def __init__(self, parameter: str) -> None:
        super().__init__(parameter)
        self.parameter = parameter


@cache
def _litellm() -> Any:
    # Set before the import, or it fetches its price and header tables from the network.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ["LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS"] = "True"
    import litellm

    litellm.suppress_debug_info = True
    return litellm


@cache
def price(backend: Backend) -> tuple[float, float] | None:
    """USD per million input and output tokens; None where neither the user nor LiteLLM's table knows."""
    if backend.price is not None:
        return backend.price
    if backend.api_base:
        return None  # a server of one's own: the provider's prices do not hold there
    litellm = _litellm()
    try:
        entry: dict[str, Any] = litellm.get_model_info(backend.model)
    except Exception:  # noqa: BLE001 - it raises bare Exception for a model it does not know
        return None
    cost = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
    return None if None in cost else (float(cost[0] or 0) * 1e6, float(cost[1] or 0) * 1e6)


async def open_session() -> aiohttp.ClientSession:
    """The connection pool of a client; belongs to the running loop."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS))


async def attempt(
    backend: Backend,
    messages: list[Message],
    parameters: dict[str, Any],
    session: aiohttp.ClientSession,
    timeout_s: float,
) -> Reply:
    """Sends one request and waits for its whole answer.

    Args:
        backend: Whom to ask.
        messages: The conversation.
        parameters: ``max_tokens`` and, where the model takes them, ``temperature``, ``seed``,
            ``response_format``.
        session: Connections to use, from ``open_session``.
        timeout_s: Seconds from sending to the last byte.

    Raises:
        Retryable: Overload, server error, lost connection, timeout or an answer that is none.
        ParameterRefused: 400 that names a parameter.
        CallFailed: ``context`` or ``refusal``: this sample cannot be judged.
        EndpointError: Wrong key, no such model or address, no quota: no call can succeed.
    """
    litellm = _litellm()
    try:
        # LiteLLM's timeout holds per socket read: a dripping body outlasts it. Ours holds for the whole.
        async with asyncio.timeout(timeout_s):
            response = await litellm.acompletion(
                model=backend.model,
                messages=messages,
                api_base=backend.api_base,
                api_key=backend.api_key,
                timeout=timeout_s,
                num_retries=0,
                max_retries=0,
                shared_session=session,
                **parameters,
            )
        return _reply(response)
    except TimeoutError as error:
        raise Retryable(f"no whole answer within {timeout_s:g} s") from error
    except asyncio.CancelledError:
        raise
    except Exception as error:
        raise _meaning(error, backend, parameters) from error


def _reply(response: Any) -> Reply:
    choice = response.choices[0]  # IndexError for an empty list is retried like any broken answer
    message: Any = choice.message
    usage: Any = getattr(response, "usage", None)
    extras: dict[str, Any] = getattr(message, "provider_specific_fields", None) or {}
    details = getattr(usage, "prompt_tokens_details", None)
    # LiteLLM fills in a usage of zeros where the server sent none.
    counted = bool(getattr(usage, "prompt_tokens", 0))
    return Reply(
        text=message.content or "",
        finish_reason=choice.finish_reason or "",
        input_tokens=usage.prompt_tokens if counted else None,
        cached_tokens=(getattr(details, "cached_tokens", None) or 0) if counted else None,
        output_tokens=usage.completion_tokens if counted else None,
        refused=choice.finish_reason == "content_filter" or bool(extras.get("refusal")),
    )


def _meaning(error: Exception, backend: Backend, parameters: dict[str, Any]) -> Exception:
    """What a failed attempt is to us, in our own words: the provider's may repeat the sample."""
    status = getattr(error, "status_code", None)
    text = str(error)
    where = f"{backend.model}{f' at {backend.api_base}' if backend.api_base else ''}"
    if status == 429 and _QUOTA.search(text):
        return EndpointError(
            f"{where}: the account has no quota left (429); add credit or name another model"
        )
    if status in (401, 403):
        return EndpointError(f"{where}: the key is missing or refused ({status}); {_key_hint(backend)}")
    if status == 404:
        return EndpointError(f"{where}: no such model or address (404); check the name and the --…-api-base")
    if "LLM Provider NOT provided" in text:
        return EndpointError(
            f"{where}: unknown model name; write provider/model as LiteLLM does, e.g. openai/gpt-4o"
        )
    if status == 422 and getattr(error, "body", None) is None:
        return Retryable(f"{where}: an error object in place of an answer")  # sent with status 200
    if status in (400, 413, 422):
        return _bad_request(text, parameters, backend.api_key)
    return Retryable(
        f"{where}: {type(error).__name__}{f' ({status})' if status else ''}", _retry_after(error)
    )


def _bad_request(text: str, parameters: dict[str, Any], api_key: str | None) -> Exception:
    if _POLICY.search(text):
        return CallFailed("refusal", "the provider's content policy declined the sample")
    if "response_format" in parameters and _SCHEMA.search(text):
        return ParameterRefused("response_format")
    for name in _PARAMETERS:
        if name in parameters and name in text:
            return ParameterRefused(name)
    if _CONTEXT.search(text):
        return CallFailed("context", "the sample does not fit the model's context window")
    # Nothing we know: the server's own words help, as long as they do not repeat our key.
    if api_key and api_key != KEYLESS:
        text = text.replace(api_key, "…")
    said = " ".join(text.split())[:300]
    return CallFailed("transport", f"refused: {said}")


def _retry_after(error: Exception) -> float | None:
    headers: Any = getattr(error, "litellm_response_headers", None) or {}
    try:
        return max(0.0, float(headers["retry-after"]))
    except (KeyError, TypeError, ValueError):
        return None


def _key_hint(backend: Backend) -> str:
    if backend.api_base:
        return "set MPO_JUDGE_API_KEY or MPO_META_API_KEY to the server's key"
    return f"set {backend.model.split('/')[0].upper()}_API_KEY, MPO_JUDGE_API_KEY or MPO_META_API_KEY"
