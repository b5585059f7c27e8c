"""What a failed attempt means: retry, ask differently, give up on the sample, or stop the run.

Failures are classified by status code, not by exception class, which differs between providers; class and
text decide only where the status is ambiguous.
"""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from mpo_lite.errors import CallFailed, EndpointError, FailureKind
from mpo_lite.llm.models import KEYLESS, Backend
from mpo_lite.llm.wire import MAX_REPLY, Exchange
from mpo_lite.types import Message

_PARAMETERS = ("temperature", "seed", "max_tokens")
# A message may list all parameters: the rejected one is near a word that says so.
_REFUSED = (
    r"(?:support|unknown|unexpected|unrecogni[sz]ed|unpermitted|extra|allowed|invalid).{{0,40}}\b{name}\b"
    r"|\b{name}\b.{{0,60}}(?:support|unknown|unexpected|permitted|allowed|deprecated|default|only)"
)
_NO_KEY = re.compile(r"Exception - (?:Missing credentials|The api_key client option must be set)")
"""What OpenAI's client says before it sends anything; LiteLLM reports it as a server error."""
_UNREACHED = re.compile(r"connection error|cannot connect|connect call failed|connection refused", re.I)
_CUT = {"ReadError", "RemoteProtocolError", "ReadTimeout", "ClientPayloadError", "ServerDisconnectedError"}
"""Causes of LiteLLM's errors which mean that the request had arrived."""
_QUOTA = re.compile(
    r"insufficient_quota|exceeded your current quota|credit balance is too low|insufficient balance", re.I
)
_CONTEXT = re.compile(
    r"context.{0,20}(length|window)|maximum.{0,20}(tokens|length)|too long|too many tokens", re.I
)
_POLICY = re.compile(
    r"content.{0,3}(policy|filter|management)|safety.{0,3}(policy|system|filter|setting)", re.I
)
_FORMS = {
    "tools": re.compile(r"\btools?\b|tool_choice|function.?call", re.I),
    "response_format": re.compile(
        r"response.?format|json.?(schema|object|mode)|output_format|structured.?output|guided|grammar"
        r"|\b(min|max)(items|length)\b",
        re.I,
    ),
}
"""Parameter that asks for an object → how its rejection reads."""


_LITELLM = re.compile(r"^(?:litellm\.)?\w+Error: (?:\w+Exception - )?")
"""What LiteLLM puts before the server's message."""
_QUOTED = 60
"""Characters of an unreadable answer that an error quotes."""


class Retryable(Exception):
    """The attempt failed in a way that may not repeat.

    Args:
        message: What was seen.
        retry_after: Seconds the server asks to wait, or None.
        overload: The server is up but has too much to do.
        billed: The model may have worked on it, so it may be charged.
        down: The server cannot be reached, or is a proxy whose backend cannot be reached.
        unsteady: The server is up and answers with an error of its own; it may be due to this sample.
        kind: The failure to report if it persists: ``timeout`` or ``transport``.
    """

    def __init__(
        self,
        message: str,
        retry_after: float | None = None,
        overload: bool = False,
        billed: bool = False,
        down: bool = False,
        unsteady: bool = False,
        kind: FailureKind = "transport",
    ) -> None:
        super().__init__(message)
        self.retry_after, self.overload, self.billed = retry_after, overload, billed
        self.down, self.unsteady = down, unsteady
        self.kind: FailureKind = kind


class ProviderKey(NamedTuple):
    """A provider's key.

    Attributes:
        variables: Where it is read from: any one of these or, for cloud accounts, all of them.
        is_set: Whether it is set there; None if LiteLLM does not say.
    """

    variables: tuple[str, ...]
    is_set: bool | None

    @property
    def is_plain(self) -> bool:
        """Whether it is a plain key, not a cloud account whose credentials may be found in other ways."""
        return bool(self.variables) and all(name.endswith("_API_KEY") for name in self.variables)


class ParameterRefused(Exception):
    """The model accepts the call only without ``parameter``."""

    def __init__(self, parameter: str) -> None:
        super().__init__(f"does not support {parameter}")
        self.parameter = parameter


def classify_error(
    error: Exception,
    backend: Backend,
    messages: list[Message],
    parameters: dict[str, Any],
    exchange: Exchange,
    key: ProviderKey,
) -> Exception:
    """Maps a failed attempt to one of our errors, in our own words: the provider's may repeat sample or key.

    Args:
        error: What LiteLLM raised.
        backend: The model that was asked.
        messages: What was sent.
        parameters: The request's parameters.
        exchange: What was seen on the wire.
        key: The provider's key.

    Returns:
        ``Retryable``, ``ParameterRefused``, ``CallFailed`` or ``EndpointError``, to be raised.
    """
    status, text, where = getattr(error, "status_code", None), str(error), backend.where
    if exchange.redirect:
        return EndpointError(
            f"{where}: redirects to {exchange.redirect}; set {backend.address_setting} to that address"
        )
    if exchange.oversized:
        return Retryable(f"{where}: the reply is longer than {MAX_REPLY >> 20} MiB", billed=True)
    # 429 means both "slow down" and "no credit left"; only the first is worth a retry.
    if status == 402 or (status == 429 and _QUOTA.search(text)):
        return EndpointError(
            f"{where}: the account has no quota left ({status}); add credit or use another model"
        )
    # Without a key, some of LiteLLM's clients fail before they send anything, with errors of any class.
    missing = not backend.api_base and not backend.api_key and key.is_plain and key.is_set is False
    if status in (401, 403) or missing or _NO_KEY.search(text):
        return EndpointError(f"{where}: {_describe_key_problem(backend, key, status)}")
    if status == 404:
        return EndpointError(
            f"{where}: no such model or address (404); check the name and {backend.address_setting}",
            may_pass=True,  # a server that is restarting answers 404 until its model is loaded
        )
    if status == 422 and getattr(error, "body", None) is None:
        # Sent with status 200: LiteLLM turns it into a 422 without a body.
        return Retryable(f"{where}: an error object instead of an answer")
    if status in (400, 413, 422):
        return _classify_bad_request(error, backend, messages, parameters)
    return _classify_outage(error, backend, messages, exchange)


def _classify_outage(
    error: Exception, backend: Backend, messages: list[Message], exchange: Exchange
) -> Retryable:
    """Maps a failure that may pass: no connection, a server error, a timeout, or too many requests."""
    status, text = getattr(error, "status_code", None), str(error)
    # LiteLLM turns a refused connection into a 500; the wire shows that no answer came.
    unreached = status in (None, 500) and exchange.status is None and bool(_UNREACHED.search(text))
    seen = (
        _describe_no_connection(backend)
        if unreached
        else _describe_server_error(error, backend, messages, exchange)
    )
    return Retryable(
        f"{backend.where}: {seen}",
        _retry_after(error),
        overload=status == 429,
        billed=exchange.status == 200 or _may_have_answered(error, status, text),
        down=unreached or exchange.status in (502, 503),
        unsteady=exchange.status is not None and exchange.status >= 500,
        kind="timeout" if status in (408, 504) else "transport",
    )


def _describe_no_connection(backend: Backend) -> str:
    if backend.api_base:
        return "cannot connect; check that the server is running and the address is right"
    return f"cannot reach {backend.model.partition('/')[0]}: check your network or proxy"


def _describe_server_error(
    error: Exception, backend: Backend, messages: list[Message], exchange: Exchange
) -> str:
    status = getattr(error, "status_code", None)
    seen = f"{type(error).__name__}{f' ({status})' if status else ''}"
    if exchange.status == 200:
        excerpt = " ".join(provider_message(exchange.body[:2000], backend, messages).split())[:_QUOTED]
        answer = f"an unreadable answer starting with {excerpt!r}" if excerpt else "an empty answer"
        return (
            f"{answer}; check that the address ends in /v1 and serves OpenAI's API"
            if backend.api_base
            else answer
        )
    if (exchange.status or 0) < 500:
        return seen
    return f"{seen} {'from a running server (see its log)' if backend.api_base else 'from the provider'}"


def _classify_bad_request(
    error: Exception, backend: Backend, messages: list[Message], parameters: dict[str, Any]
) -> Exception:
    text, kind = provider_message(str(error), backend, messages), type(error).__name__
    if kind == "ContentPolicyViolationError" or _POLICY.search(text):
        return CallFailed("refusal", "the provider's content policy rejected the sample")
    if kind == "ContextWindowExceededError" or _CONTEXT.search(text):
        return CallFailed("context", "the sample does not fit the model's context window")
    for name, refusal in _FORMS.items():
        if name in parameters and refusal.search(text):
            return ParameterRefused(name)
    for name in _PARAMETERS:
        if name in parameters and re.search(_REFUSED.format(name=name), text, re.IGNORECASE):
            return ParameterRefused(name)
    message = _LITELLM.sub("", " ".join(text.split()))
    return CallFailed("transport", f"rejected: {message[:300]}")


def provider_message(text: str, backend: Backend, messages: list[Message]) -> str:
    """The server's message without what it repeats of the prompt, and without keys.

    Neither may be shown, and words of the prompt must not decide what the message means.
    """
    text = redact_keys(text, backend)
    lines = (line.strip() for message in messages for line in message["content"].splitlines())
    for line in lines:
        # Providers quote the prompt as it is, or as JSON with or without escapes. Short lines may be chance.
        for form in (line, json.dumps(line)[1:-1], json.dumps(line, ensure_ascii=False)[1:-1]):
            text = text.replace(form, "…") if len(form) >= 16 else text
    return text


def redact_keys(text: str, backend: Backend) -> str:
    """A server's text without any of our keys that it repeats."""
    keys = [value for name, value in os.environ.items() if name.endswith(("_KEY", "_TOKEN", "_SECRET"))]
    for secret in [*keys, backend.api_key or ""]:
        # A short value, such as "none", would remove ordinary words.
        text = text.replace(secret, "…") if len(secret) >= 8 else text
    return text


def _may_have_answered(error: BaseException, status: Any, text: str) -> bool:
    """Whether the model may have answered, but the answer was malformed or lost in transit."""
    classes: set[str] = set()
    link: BaseException | None = error
    # Bounded, because a chain of causes may be a cycle.
    while link is not None and len(classes) < 20:
        classes.add(type(link).__name__)
        link = link.__cause__ or link.__context__
    broken = "json response" in text or "invalid response" in text
    return status in (None, 200) or broken or bool(classes & _CUT)


def _retry_after(error: Exception) -> float | None:
    """Seconds by ``Retry-After``, a number or a date (RFC 9110), or by OpenAI's ``retry-after-ms``."""
    headers: Any = getattr(error, "litellm_response_headers", None) or {}
    header = headers.get("retry-after")
    with suppress(TypeError, ValueError):  # not a number: perhaps a date
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        return max(0.0, float(header))
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _describe_key_problem(backend: Backend, key: ProviderKey, status: int | None) -> str:
    """Which key is missing or rejected, and what to do."""
    variable = f"MPO_{backend.role.upper()}_API_KEY"
    note = f" ({status})" if status in (401, 403) else ""
    if backend.key_variable or (key.is_set and not backend.api_base):
        name = backend.key_variable or " or ".join(key.variables)
        return (
            f"the key in {name} was rejected{note}; check that it is complete, valid and may use this model"
        )
    if backend.api_base:
        problem = "no key was given" if backend.api_key in (None, KEYLESS) else "the given key was rejected"
        return f"{problem}{note}; set {variable}, or the variable named by api_key_env, to the server's key"
    missing = "the key is missing" if key.is_set is False else "the key is missing or rejected"
    if key.is_plain:
        return f"{missing}{note}; set {', '.join(key.variables)} or {variable}"
    return f"{missing}{note}; set {' and '.join(key.variables) or variable}"
