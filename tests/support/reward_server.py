"""A reward service with replies as the test wants them, over real HTTP."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]
Reply = tuple[int, Any, dict[str, str]]
"""Status, JSON body and headers."""


@dataclass
class RewardServer:
    """Where it is, and what it was sent."""

    url: str
    requests: list[Body] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)


def judged(body: Body, unjudged: tuple[int, ...] = ()) -> Reply:
    """Rewards by place: 0, 0.1, 0.2 …; those of ``unjudged`` are None, or 0.5 where filled."""
    fill = body["fill"]
    results = [
        {
            "reward": row / 10 if row not in unjudged else 0.5 if fill else None,
            "version": 3,
            "batch": 1,
            "source": "judge",
            "failure": "parse" if row in unjudged else None,
            "filled": fill and row in unjudged,
            "levels": {"clarity": row},
        }
        for row in range(len(body["answers"]))
    ]
    return 200, {"rewards": [result["reward"] for result in results], "version": 3, "results": results}, {}


def refusal(status: int, reason: str, **headers: str) -> Reply:
    """An error as the service words it."""
    return status, {"error": reason}, headers


@contextmanager
def reward_server(
    reply: Callable[[int, Body], Reply] = lambda number, body: judged(body), port: int = 0
) -> Iterator[RewardServer]:
    """Serves; ``reply`` gets the request's number, from 1, and its body."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            seen.requests.append(body)
            seen.tokens.append(self.headers.get("authorization", ""))
            status, answer, headers = reply(len(seen.requests), body)
            sent = json.dumps(answer).encode()
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("content-length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)
            except OSError:  # the client has not waited
                self.close_connection = True

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    seen = RewardServer(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
