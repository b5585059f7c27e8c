"""One attempt at one call through LiteLLM, and its cost.

LiteLLM is used for the wire format only: retries, limits, cache and cost are handled by the client, because
LiteLLM's retries multiply with the SDK's and repeat requests that can never succeed.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import logging
import os
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import aiohttp

from mpo_lite.errors import EndpointError
from mpo_lite.llm import wire
from mpo_lite.llm.error_mapping import ProviderKey, Retryable, classify_error
from mpo_lite.llm.models import ALIASES, KEYLESS, Backend
from mpo_lite.types import Message

CONNECTIONS = 512
"""Sockets per process; more than the concurrency ceiling, so that waiting for a socket never counts as a
timeout."""
MARGIN_S = 5.0
"""Seconds by which LiteLLM's own timeout is longer, so that ours ends an attempt."""

TALKATIVE = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy", "openai", "anthropic", "httpx", "httpcore")
"""Loggers whose debug output contains prompts, URLs with their queries, or keys."""
SELF_SERVED = frozenset({"hosted_vllm", "lm_studio", "xinference", "openai_like", "custom_openai", "triton"})
"""LiteLLM providers without a default address."""
UNGUARDED = frozenset(
    {"aiohttp_openai", "amazon_nova", "custom", "maritalk", "nlp_cloud", "oobabooga", "petals"}
)
"""LiteLLM providers whose clients bypass ``wire.guard``."""
MODELS_S = 5.0
"""Timeout for a server to list its models."""

_log = logging.getLogger(__name__)


class Pricing(NamedTuple):
    """USD per million tokens: input, output, read from and written to the provider's prompt cache."""

    input: float
    output: float
    cached: float
    written: float

    def cost(self, reply: Reply) -> float | None:
        """USD of an answer; None if it came without usage: unknown is not free."""
        if reply.input_tokens is None or reply.output_tokens is None:
            return None
        plain = reply.input_tokens - reply.cached_tokens - reply.written_tokens
        parts = (
            max(0, plain) * self.input,
            reply.cached_tokens * self.cached,
            reply.written_tokens * self.written,
            reply.output_tokens * self.output,
        )
        return sum(parts) / 1e6

    def worst(self, input_tokens: int, output_tokens: int) -> float:
        """Maximum USD that a call can cost."""
        return (max(self.input, self.written) * input_tokens + self.output * output_tokens) / 1e6


@dataclass(frozen=True)
class Reply:
    """A model's reply.

    Attributes:
        text: The answer's text, or the arguments of the tool call; empty if the server sent none.
        finish_reason: ``stop``, ``length``, ``content_filter`` or the provider's own word.
        refused: The model declined to answer.
        input_tokens: Prompt tokens, including cached ones; None if no usage was reported.
        output_tokens: Answer tokens, including reasoning; None if no usage was reported.
        cached_tokens: Prompt tokens read from the provider's cache.
        written_tokens: Prompt tokens written to the provider's cache.
        has_reasoning: The model reasoned before it answered.
    """

    text: str
    finish_reason: str
    refused: bool = False
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int = 0
    written_tokens: int = 0
    has_reasoning: bool = False


@cache
def _load_litellm() -> Any:
    debug_settings = [
        name
        for name in ("LITELLM_LOG", "OPENAI_LOG", "ANTHROPIC_LOG")
        if os.environ.get(name, "").upper() in ("DEBUG", "INFO")
    ]
    os.environ["LITELLM_LOG"] = "ERROR"
    # Set before the import, or it fetches its price and header tables from the network.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ["LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS"] = "True"
    # wire.guard covers only the transport that these settings leave.
    os.environ["DISABLE_AIOHTTP_TRANSPORT"] = os.environ["LITELLM_HTTP2"] = "False"
    import litellm
    from litellm.llms.custom_httpx.aiohttp_transport import LiteLLMAiohttpTransport

    litellm.suppress_debug_info = True
    litellm.disable_aiohttp_transport = False
    wire.guard(LiteLLMAiohttpTransport)
    if litellm.set_verbose:  # pyright: ignore[reportPrivateImportUsage] - a script imported it before
        debug_settings.append("litellm.set_verbose")
        litellm.set_verbose = False  # pyright: ignore[reportPrivateImportUsage]
    for name in TALKATIVE:
        # LiteLLM logs its opinions of a model as warnings; those are nothing a user can fix.
        logging.getLogger(name).setLevel(logging.ERROR if name.startswith("LiteLLM") else logging.WARNING)
    if debug_settings:
        _log.warning(
            "%s: debug output of the libraries is disabled because it contains prompts and keys; "
            "--log-calls FILE logs complete requests and replies without keys",
            ", ".join(debug_settings),
        )
    return litellm


def provider_key(model: str) -> ProviderKey:
    """The variables that LiteLLM reads a model's key from, and whether one of them is set."""
    litellm = _load_litellm()
    try:
        _, provider, key, _ = litellm.get_llm_provider(model)
        environment: dict[str, Any] = litellm.validate_environment(model)
    except Exception:  # noqa: BLE001 - any of its providers' classes: unknown
        return ProviderKey((), None)
    usual_variable = f"{provider.upper().replace('-', '_')}_API_KEY"
    # LiteLLM does not say which variable a key came from: find it by value. Some keys are made up by it.
    if key and (variables := [name for name, value in os.environ.items() if value == key]):
        return ProviderKey(tuple(variables), True)
    if os.environ.get(usual_variable):
        return ProviderKey((usual_variable,), True)
    # The variable named after the provider comes first: it is the one in the provider's manual.
    names = sorted(environment["missing_keys"], key=lambda name: name != usual_variable)
    return ProviderKey(tuple(names), False) if names else ProviderKey((usual_variable,), None)


@cache
def _check_name(backend: Backend) -> None:
    """Refuses a model that LiteLLM cannot ask, or not as we must have it.

    Raises:
        EndpointError: Its name is unknown, it has no address, or its client cannot be guarded.
    """
    litellm = _load_litellm()
    try:
        _, provider, _, address = litellm.get_llm_provider(backend.model)
    except Exception:  # noqa: BLE001 - bare classes, by provider
        raise EndpointError(f"{backend.where}: unknown model name; {_suggest_name(backend.model)}") from None
    if provider in SELF_SERVED and not (backend.api_base or address):
        raise EndpointError(
            f"{backend.model}: a self-hosted server has no default address; set "
            f"{backend.address_setting} http://HOST:PORT/v1"
        )
    if provider in UNGUARDED:
        raise _unguarded_error(backend)


def _unguarded_error(backend: Backend) -> EndpointError:
    return EndpointError(
        f"{backend.where}: LiteLLM's client for this provider may follow redirects and take the key along; "
        f"if the server speaks OpenAI's API, use openai/NAME and {backend.address_setting}"
    )


def _suggest_name(name: str) -> str:
    """What an unknown model name was probably meant to be."""
    provider, slash, rest = name.partition("/")
    providers = [str(getattr(candidate, "value", candidate)) for candidate in _load_litellm().provider_list]
    near = difflib.get_close_matches(provider, providers if slash else ALIASES, n=2, cutoff=0.7)
    names = " or ".join(f"{candidate}{slash}{rest}" for candidate in near)
    advice = "write provider/model as LiteLLM does, e.g. openai/gpt-4o"
    return f"did you mean {names}? Otherwise {advice}" if near else advice


@cache
def pricing(backend: Backend) -> Pricing | None:
    """A model's prices; None if neither the user nor LiteLLM's table has them."""
    if backend.price is not None:
        # Without a price of its own, cached input costs as much as any other.
        sent, received, *cached = backend.price
        return Pricing(sent, received, cached[0] if cached else sent, sent)
    if backend.api_base:
        return None  # self-hosted: the provider's prices do not apply
    litellm = _load_litellm()
    try:
        entry: dict[str, Any] = litellm.get_model_info(backend.model)
    except Exception:  # noqa: BLE001 - it raises a bare Exception for unknown models
        return None
    sent, received = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
    if sent is None or received is None:
        return None
    cached, written = entry.get("cache_read_input_token_cost"), entry.get("cache_creation_input_token_cost")
    return Pricing(
        1e6 * float(sent),
        1e6 * float(received),
        1e6 * float(sent if cached is None else cached),
        1e6 * float(sent if written is None else written),
    )


async def open_session() -> aiohttp.ClientSession:
    """The connection pool of a client; belongs to the running loop."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS))


async def revision(backend: Backend, session: aiohttp.ClientSession) -> str:
    """What a self-hosted server says it serves under the model's name: a path or Hub ID.

    vLLM reports it as ``root``; its ``id`` is the name, and its ``created`` the time of the request. Empty if
    the name says the same, or if the server reports nothing.
    """
    provider, _, name = backend.model.partition("/")
    if not backend.api_base or provider not in ("hosted_vllm", "openai") or backend.is_simulated:
        return ""
    headers = {} if backend.api_key in (None, KEYLESS) else {"Authorization": f"Bearer {backend.api_key}"}
    try:
        async with session.get(
            f"{backend.api_base.rstrip('/')}/models",
            headers=headers,
            allow_redirects=False,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(MODELS_S),
        ) as response:
            body = b""
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > wire.MAX_REPLY:
                    return ""
            roots = {entry["id"]: entry.get("root") for entry in json.loads(body)["data"]}
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError, AttributeError):
        return ""
    root = roots.get(name)
    return root if isinstance(root, str) and root != name else ""


async def attempt(
    backend: Backend,
    messages: list[Message],
    parameters: dict[str, Any],
    session: aiohttp.ClientSession,
    timeout_s: float,
    exchange: wire.Exchange,
) -> Reply:
    """Sends one request and waits for its complete answer.

    Args:
        backend: The model to ask.
        messages: The conversation.
        parameters: ``max_tokens`` and, if the model supports them, ``temperature``, ``seed`` and those of
            ``structured_output.mode_params``.
        session: Connections to use, from ``open_session``.
        timeout_s: Seconds from sending to the last byte.
        exchange: From ``wire.watch``; records what came back.

    Raises:
        Retryable: Overload, server error, lost connection, timeout or an invalid answer.
        ParameterRefused: A 400 that names a parameter.
        CallFailed: ``context`` or ``refusal``: this sample cannot be judged.
        EndpointError: Wrong key, no such model or address, no quota: no call can succeed.
    """
    litellm = _load_litellm()
    _check_name(backend)
    try:
        # LiteLLM's timeout is per socket read, so a slow drip of bytes outlasts it. Ours is for all.
        async with asyncio.timeout(timeout_s):
            response = await litellm.acompletion(
                model=backend.model,
                messages=_mark_cacheable(messages, backend),
                api_base=backend.api_base,
                api_key=backend.api_key,
                timeout=timeout_s + MARGIN_S,
                num_retries=0,
                max_retries=0,
                shared_session=session,
                # Its MCP gateway needs another package, and would take our tool for one of MCP's.
                _skip_mcp_handler=True,
                **parameters,
            )
        if exchange.status is None:  # the guard saw nothing: this client bypasses it
            raise _unguarded_error(backend)
        return _to_reply(response, by_tool="tools" in parameters)
    except TimeoutError:
        seen = f"{backend.where}: no complete answer within {timeout_s:g} s"
        raise Retryable(seen, billed=True, kind="timeout") from None
    except (asyncio.CancelledError, EndpointError):
        raise
    except Exception as error:  # noqa: BLE001 - LiteLLM raises classes of all its providers
        # Not chained: a traceback must not print the provider's message, which may repeat prompt and key.
        key = provider_key(backend.model)
        raise classify_error(error, backend, messages, parameters, exchange, key) from None


def _mark_cacheable(messages: list[Message], backend: Backend) -> list[Any]:
    """Marks the system prompt, which is the same for a whole batch, as a cacheable prefix if the provider
    needs that; others detect it.
    """
    if not backend.model.startswith("anthropic/"):
        return list(messages)
    mark = {"cache_control": {"type": "ephemeral"}}
    return [
        {"role": "system", "content": [{"type": "text", "text": message["content"], **mark}]}
        if message["role"] == "system"
        else message
        for message in messages
    ]


def _to_reply(response: Any, by_tool: bool) -> Reply:
    choice = response.choices[0]  # IndexError for an empty list is retried like any malformed answer
    message: Any = choice.message
    usage: Any = getattr(response, "usage", None)
    extras: dict[str, Any] = getattr(message, "provider_specific_fields", None) or {}
    calls: list[Any] = getattr(message, "tool_calls", None) or []
    text: str = (calls[0].function.arguments if calls and by_tool else message.content) or ""
    details = getattr(usage, "completion_tokens_details", None)
    has_reasoning = (
        bool(getattr(message, "reasoning_content", None))
        or bool(getattr(details, "reasoning_tokens", None))
        or "<think" in text[:64]
    )
    # LiteLLM fills in zeros if the server sent no usage.
    counted = bool(getattr(usage, "prompt_tokens", 0))
    prompt = getattr(usage, "prompt_tokens_details", None)
    return Reply(
        text=text,
        finish_reason=choice.finish_reason or "",
        refused=choice.finish_reason == "content_filter" or bool(extras.get("refusal")),
        input_tokens=usage.prompt_tokens if counted else None,
        output_tokens=usage.completion_tokens if counted else None,
        cached_tokens=(getattr(prompt, "cached_tokens", None) or 0) if counted else 0,
        written_tokens=(getattr(usage, "cache_creation_input_tokens", None) or 0) if counted else 0,
        has_reasoning=has_reasoning,
    )
