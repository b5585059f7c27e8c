"""What no request may do: come without the token, be too large, or take too long to arrive."""

from __future__ import annotations

import asyncio
import hmac
from urllib.parse import parse_qs

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FAR_TOO_LARGE = 8
"""Times the largest body that is still read, though not kept, before it is refused."""
OPEN_PATHS = ("/healthz",)
"""What anyone may ask for: whether the service is up."""


class Limits:
    """ASGI middleware: checks the token before anything is read, then size and time of the body.

    Args:
        app: What requests are for.
        token: What clients must send, as ``Authorization: Bearer TOKEN`` or, where an engine can send no
            header, as ``?token=TOKEN``; empty: nothing.
        max_bytes: Largest body.
        body_timeout_s: Seconds within which a body must have come.
    """

    def __init__(self, app: ASGIApp, token: str, max_bytes: int, body_timeout_s: float) -> None:
        self._app, self._token = app, token.encode()
        self._max_bytes, self._body_timeout_s = max_bytes, body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if scope["path"] not in OPEN_PATHS and not self._is_allowed(headers, scope["query_string"]):
            why = "no or wrong token: send it as 'Authorization: Bearer TOKEN', or add ?token=TOKEN"
            return await _refuse(401, why, scope, receive, send)
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > FAR_TOO_LARGE * self._max_bytes:
            return await self._refuse_size(scope, receive, send)
        try:
            async with asyncio.timeout(self._body_timeout_s):
                body = await self._read(receive)
        except TimeoutError:
            why = f"the body did not come within {self._body_timeout_s:g} s"
            return await _refuse(408, why, scope, receive, send)
        if body is None:
            return await self._refuse_size(scope, receive, send)
        replayed = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive_again() -> Message:
            return next(replayed, None) or await receive()

        try:
            await self._app(scope, receive_again, send)
        except asyncio.CancelledError:  # by the server, when it does not wait any longer to stop
            await _refuse(503, "the service is stopping; send this again later", scope, receive, send)

    def _is_allowed(self, headers: dict[bytes, bytes], query: bytes) -> bool:
        if not self._token:
            return True
        sent = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        in_address = parse_qs(query).get(b"token", [b""])[0]
        return hmac.compare_digest(sent, self._token) or hmac.compare_digest(in_address, self._token)

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body; None where it is too large.

        Such a body is read to its end all the same, unless that is far: a client that is still sending would
        not see the refusal.
        """
        body, size = bytearray(), 0
        while True:
            message = await receive()
            part = message.get("body", b"")
            size += len(part)
            if size <= self._max_bytes:
                body += part
            if not message.get("more_body") or size > FAR_TOO_LARGE * self._max_bytes:
                return bytes(body) if size <= self._max_bytes else None

    async def _refuse_size(self, scope: Scope, receive: Receive, send: Send) -> None:
        why = f"the body has more than {self._max_bytes:,} bytes; send fewer answers at once"
        await _refuse(413, why, scope, receive, send)


async def _refuse(status: int, why: str, scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse({"error": why}, status, headers={"connection": "close"})(scope, receive, send)
