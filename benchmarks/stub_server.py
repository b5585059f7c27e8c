"""A model server for benchmarks, in a process of its own: latency, a rate limit and faults on request.

    python benchmarks/stub_server.py        # prints its port

``POST /set`` gives new settings and forgets all counts; ``GET /stats`` tells them. It judges nothing: the
level of every criterion is the item's number (``item N`` in the prompt, or a checksum where there is none)
modulo the number of levels.
"""

import asyncio
import json
import re
import time
import zlib
from collections import Counter, deque

from aiohttp import web

ITEM = re.compile(rb"item (\d+)")
NONCE = re.compile(rb"-[0-9a-f]{12}>")
"""What differs between caches in a prompt that is otherwise the same."""
LASTING = (
    "refusal",
    "garbage",
    "out of range",
    "a float",
    "filtered",
    "null",
    "html",
    "error object",
    "unknown 400",
)
PASSING = (
    "500",
    "503",
    "529",
    "409",
    "cut body",
    "429",
    "bad JSON once",
    "cut answer once",
    "no choices",
    "dropped",
)
PROSE = "The second sentence names the evidence for this, and it is plain enough to see."
HELPLESS = set(LASTING)
"""Faults after which there must be no score; after the others there must be the right one."""


def fault_of(item: int, share: float) -> str | None:
    """The fault of an item: about ``share`` of them have one, all kinds in turn."""
    period = round(1 / share) if share else 0
    if not period or item % period:
        return None
    kinds = LASTING + PASSING
    return kinds[(item // period) % len(kinds)]


class Server:
    def __init__(self) -> None:
        self.change({})

    def change(self, settings: dict) -> None:
        if settings.get("go_on"):  # a running server changes: counts and queue stay
            self.slots, self.latency = settings["slots"], settings["latency"]
            self.start()
            return
        self.latency = settings.get("latency", 0.0)
        self.slots = settings.get("slots", 0)
        self.half = settings.get("half", 0)
        self.working = self.worked = 0
        self.queue: deque[asyncio.Future[None]] = deque()
        self.rate = settings.get("rate", 0.0)
        self.retry_after = settings.get("retry_after")
        self.faults = settings.get("faults", 0.0)
        self.tokens, self.filled = float(self.rate), time.monotonic()
        self.items: Counter[int] = Counter()
        self.requests = self.rejected = self.flying = self.most = 0

    async def complete(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        self.requests += 1
        found = ITEM.search(raw)
        item = int(found[1]) if found else zlib.crc32(NONCE.sub(b"", raw))
        self.items[item] += 1
        if self.rate and not self.take():
            self.rejected += 1
            headers = {"retry-after": str(self.retry_after)} if self.retry_after else {}
            return problem(429, headers)
        self.flying += 1
        self.most = max(self.most, self.flying)
        try:
            await self.work()
            kind = fault_of(item, self.faults)
            if kind and (kind in HELPLESS or self.items[item] == 1):
                return faulty(kind, request, item)
            return web.json_response(answered(json.loads(raw), item))
        finally:
            self.flying -= 1

    async def work(self) -> None:
        """Takes the call's time. With ``slots`` so many are worked on at once and the others queue, abandoned
        ones too; with ``half``, calls share the steps of one batch, which lasts twice as long with so many.
        """
        if self.half:
            for _ in range(20):
                await asyncio.sleep(self.latency / 20 * (1 + self.flying / self.half))
        elif self.slots:
            done = asyncio.get_running_loop().create_future()
            self.queue.append(done)
            self.start()
            await asyncio.shield(done)
        else:
            await asyncio.sleep(self.latency)

    def start(self) -> None:
        while self.queue and self.working < self.slots:
            self.working += 1
            asyncio.get_running_loop().call_later(self.latency, self.finish, self.queue.popleft())

    def finish(self, done: asyncio.Future[None]) -> None:
        self.working -= 1
        done.set_result(None)
        self.worked += 1
        self.start()

    def take(self) -> bool:
        """Takes from a token bucket that holds one second's worth."""
        now = time.monotonic()
        self.tokens = min(float(self.rate), self.tokens + (now - self.filled) * self.rate)
        self.filled = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    async def set(self, request: web.Request) -> web.Response:
        self.change(await request.json())
        return web.json_response({})

    async def stats(self, request: web.Request) -> web.Response:
        counts = {name: getattr(self, name) for name in ("requests", "rejected", "most", "worked", "items")}
        return web.json_response(counts)


def answered(body: dict, item: int) -> dict:
    """The reply in the form that was asked for."""
    for tool in body.get("tools") or []:
        arguments = json.dumps(fill(tool["function"]["parameters"], item))
        call = {"id": "t", "type": "function", "function": {"name": "reply", "arguments": arguments}}
        return reply(None, "tool_calls", tool_calls=[call])
    schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
    return reply(json.dumps(fill(schema, item)) if schema else PROSE)


def fill(schema: dict, item: int) -> object:
    if "enum" in schema:
        return schema["enum"][item % len(schema["enum"])]
    if schema["type"] == "object":
        return {name: fill(part, item) for name, part in schema["properties"].items()}
    return f"{PROSE} item-{item}"


def reply(text: str | None, finish: str = "stop", **message: object) -> dict:
    return {
        "id": "c", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": finish,
                     "message": {"role": "assistant", "content": text, **message}}],
        "usage": {"prompt_tokens": 900, "completion_tokens": 150, "total_tokens": 1050},
    }  # fmt: skip


def problem(status: int, headers: dict | None = None) -> web.Response:
    return web.json_response(
        {"error": {"message": "failure", "type": "error"}}, status=status, headers=headers
    )


def faulty(kind: str, request: web.Request, item: int) -> web.StreamResponse:
    if kind.isdigit():
        return problem(int(kind), {"retry-after": "0.2"} if kind == "429" else None)
    if kind in ("cut body", "dropped"):
        whole = json.dumps(reply("{}")).encode()
        assert request.transport
        if kind == "cut body":
            head = (
                f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(whole)}\r\n\r\n"
            )
            request.transport.write(head.encode() + whole[:40])
        request.transport.close()
        return web.Response()
    made = {
        "refusal": lambda: reply(None, refusal="I cannot."),
        "garbage": lambda: reply(f"I would give item {item} full marks."),
        "out of range": lambda: reply('{"c1": {"reason": "x", "level": 9}}'),
        "a float": lambda: reply('{"c1": {"reason": "x", "level": 1.0}}'),
        "filtered": lambda: reply("", "content_filter"),
        "null": lambda: reply(None),
        "error object": lambda: {"error": {"message": "overloaded"}},
        "bad JSON once": lambda: reply('{"c1": {"reason": "x", '),
        "cut answer once": lambda: reply('{"c1": {"reason": "x', "length"),
        "no choices": lambda: reply("x") | {"choices": []},
    }
    if kind == "html":
        return web.Response(text="<html>busy</html>", content_type="text/html")
    if kind == "unknown 400":
        return problem(400)
    return web.json_response(made[kind]())


async def main() -> None:
    server = Server()
    app = web.Application(client_max_size=2**24)
    app.router.add_post("/v1/chat/completions", server.complete)
    app.router.add_post("/set", server.set)
    app.router.add_get("/stats", server.stats)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
