"""Guards the wire while a model is asked: no redirect is followed, and no body is read without limit.

LiteLLM uses several kinds of clients, and all of them follow redirects: the sample, and with some providers
the key, would go to a host that nobody named. Whatever the client, a request ends in the transport that
``guard`` wraps.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urljoin, urlsplit

import httpx

MAX_REPLY = 4 * 2**20
"""Maximum bytes of a reply: 16 times the longest answer, to leave room for reasoning and escapes."""
MAX_ERROR = 16 * 1024
"""Bytes read of an error: its status and first lines say what it means."""

_HOST = re.compile(r"[\w.:\[\]-]{1,253}")
Send = Callable[[Any, httpx.Request], Awaitable[httpx.Response]]


@dataclass
class Exchange:
    """What was seen of one attempt.

    Attributes:
        status: HTTP status of the answer; None if there was none.
        body: The answer's text, as far as it was read.
        redirect: Origin that the server redirected to, e.g. ``https://example.org``; empty if it did not.
        oversized: The answer was longer than ``MAX_REPLY``.
    """

    status: int | None = None
    body: str = ""
    redirect: str = ""
    oversized: bool = False


# A context variable, because clients pass nothing through that says which attempt a request belongs to.
_watched: ContextVar[Exchange | None] = ContextVar("mpo_lite_exchange", default=None)


def watch() -> Exchange:
    """Begins an attempt of this task: requests sent from now on are guarded and recorded."""
    exchange = Exchange()
    _watched.set(exchange)
    return exchange


def guard(transport: type[httpx.AsyncBaseTransport]) -> None:
    """Wraps a transport class, for all of its instances; requests outside of ``watch`` pass unchanged.

    Raises, when a guarded request is sent:
        httpx.TransportError: The answer is a redirect, longer than ``MAX_REPLY``, or cannot be decoded.
    """
    send: Send = transport.handle_async_request

    async def handle(self: Any, request: httpx.Request) -> httpx.Response:
        exchange = _watched.get()
        if exchange is None:
            return await send(self, request)
        # Only encodings that can be decoded with a size limit.
        request.headers["accept-encoding"] = "gzip, deflate"
        response = await send(self, request)
        try:
            return await _read_whole(request, response, exchange)
        finally:
            await response.aclose()

    transport.handle_async_request = handle


async def _read_whole(request: httpx.Request, response: httpx.Response, exchange: Exchange) -> httpx.Response:
    """The answer with its complete body, decoded."""
    exchange.status = response.status_code
    if 300 <= response.status_code < 400:
        exchange.redirect = _origin(urljoin(str(request.url), response.headers.get("location", "")))
        raise httpx.TransportError("the server redirects")  # not of a class that LiteLLM retries
    is_error = response.status_code >= 400
    limit = MAX_ERROR if is_error else MAX_REPLY
    received = bytearray()
    assert isinstance(response.stream, httpx.AsyncByteStream)
    async for chunk in response.stream:
        received += chunk
        if len(received) > limit:
            break
    body = _decode_body(bytes(received), response.headers.get("content-encoding", ""), limit)
    exchange.oversized = not is_error and len(body) > limit
    exchange.body = body[: MAX_ERROR if exchange.oversized else limit].decode("utf-8", "replace")
    if exchange.oversized:
        raise httpx.TransportError("the answer is too long")
    # The body is now decoded and unchunked, and an error may have been truncated.
    dropped = ("content-encoding", "content-length", "transfer-encoding")
    headers = [(name, value) for name, value in response.headers.multi_items() if name not in dropped]
    content = body[:limit] if is_error else _normalize_answer(body)
    return httpx.Response(response.status_code, headers=headers, content=content, request=request)


def _normalize_answer(body: bytes) -> bytes:
    """The answer with its choices sorted by index, which LiteLLM ignores, and without invalid token counts,
    because of which it would discard the whole answer.
    """
    try:
        data: Any = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(data, dict):
        return body
    answer = cast(dict[str, Any], data)
    normalized = dict(answer)
    for name in ("usage", "usageMetadata"):
        if name in answer:
            normalized[name] = _drop_invalid_counts(answer[name])
    choices: Any = answer.get("choices")
    if isinstance(choices, list):
        normalized["choices"] = sorted(cast(list[Any], choices), key=_choice_index)
    return json.dumps(normalized).encode() if normalized != answer else body


def _choice_index(choice: Any) -> int:
    index: Any = cast(dict[str, Any], choice).get("index") if isinstance(choice, dict) else None
    return index if type(index) is int else 0


def _drop_invalid_counts(usage: Any) -> dict[str, Any] | None:
    """Token counts without details that are not whole numbers; None if a main count is not one.

    Whether the counts are plausible is checked for the ledger.
    """
    if not isinstance(usage, dict):
        return None
    counts = cast(dict[str, Any], usage)
    if not all(_is_count(counts[name]) for name in counts if name.endswith(("_tokens", "TokenCount"))):
        return None
    details = {name: cast(dict[str, Any], part) for name, part in counts.items() if isinstance(part, dict)}
    invalid = {name for name, part in details.items() if not all(map(_is_count, part.values()))}
    return {name: value for name, value in counts.items() if name not in invalid}


def _is_count(value: Any) -> bool:
    return value is None or type(value) is int


def _decode_body(body: bytes, encoding: str, limit: int) -> bytes:
    """The decoded body, at most one byte longer than ``limit``: a zip bomb is not unpacked."""
    if encoding.lower() not in ("gzip", "deflate"):
        return body
    try:
        return zlib.decompressobj(wbits=47).decompress(body, limit + 1)  # 47: by its header, gzip or zlib
    except zlib.error as error:
        raise httpx.DecodingError(f"the answer is not valid {encoding}") from error


def _origin(url: str) -> str:
    """Scheme, host and port of a URL that a server sent; nothing else of it may be shown."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "another address"
    is_plain = parts.scheme in ("http", "https") and _HOST.fullmatch(host)
    return f"{parts.scheme}://{host}" if is_plain else "another address"
