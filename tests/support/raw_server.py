"""A server that answers byte by byte, for what no framework sends."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tests.support.llm_server import openai_reply

GOOD = json.dumps(openai_reply('{"level": 1}'))
HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"


@contextmanager
def raw_server(answer: Callable[[socket.socket, int], None]) -> Iterator[Any]:
    """A server that answers by hand, for what no framework sends; ``answer`` gets the request's number."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = type("Raw", (), {"url": f"http://127.0.0.1:{listener.getsockname()[1]}/v1", "hits": 0})

    def one(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while data := connection.recv(65536):
                if data.startswith(b"GET"):  # what it serves, it does not tell
                    return
                if b"POST" in data:
                    server.hits += 1
                    answer(connection, server.hits)

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    with listener:
        yield server
