"""The HTTP server of a service: address, token, its life on the event loop of model calls."""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import socket
import time
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpo_lite.errors import ConfigError, RunError
from mpo_lite.jsonl import write_atomically
from mpo_lite.llm import event_loop
from mpo_lite.run_dir import RunDir

if TYPE_CHECKING:
    import uvicorn

    from mpo_lite.service.owner import RubricOwner

STOP_WAIT_S = 30
"""How long answers under way are waited for when the service is to stop."""


@dataclass(frozen=True)
class Address:
    """Where and to whom the service answers.

    Attributes:
        host: Address to listen at.
        port: 0 takes a free one.
        token_env: Variable that holds the token; where it is not set, the run has a token of its own.
        needs_token: Whether a request without it is refused.
        max_mb: Largest request body in MB.
        body_timeout_s: Seconds within which a body must have come.
        group_wait_s: Seconds without a further answer after which a prompt group is taken as it is.
    """

    host: str = "127.0.0.1"
    port: int = 8700
    token_env: str = "MPO_SERVE_TOKEN"
    needs_token: bool = True
    max_mb: float = 8.0
    body_timeout_s: float = 30.0
    group_wait_s: float = 60.0


def read_token(run: RunDir, address: Address) -> str:
    """The token that clients must send; empty where none is needed."""
    if not address.needs_token:
        return ""
    if token := os.environ.get(address.token_env, ""):
        return token
    file = run.path / "token"
    if not file.exists():
        write_atomically(file, secrets.token_urlsafe(24), mode=0o600)
    if token := file.read_text().strip():
        return token
    raise RunError(f"{file}: empty", "delete it: the service then makes a new token")


@contextmanager
def bind(address: Address) -> Generator[socket.socket]:
    """A socket at the address: a port that is taken is told before a run is made."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address.host, address.port))
        except OSError as error:
            raise ConfigError(
                f"{address.host}:{address.port}: cannot listen there ({error.strerror}); choose --host and "
                "--port"
            ) from error
        yield listener


@contextmanager
def running(
    owner: RubricOwner, listener: socket.socket, address: Address
) -> Generator[tuple[str, str, Future[None]]]:
    """Answers requests; on leaving, stops once those under way are answered.

    Args:
        owner: Judges.
        listener: From ``bind``.
        address: Which that is.

    Yields:
        The URL, the token, and what ends when the service does, with the error that it stopped for.
    """
    _allow_many_connections()
    token = read_token(owner.session.run, address)
    server = _make_server(owner, token, address)
    serving = event_loop.submit(_serve(owner, server, listener))
    try:
        while not server.started and not serving.done():
            time.sleep(0.01)
        host, port = listener.getsockname()[:2]
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}", token, serving
    finally:
        owner.is_stopping = True
        wait_for(serving)


def wait_for(serving: Future[None]) -> None:
    """Waits until the service has ended, open for signals; raises what it stopped for."""
    while True:
        with suppress(TimeoutError):
            return serving.result(timeout=0.5)


def _make_server(owner: RubricOwner, token: str, address: Address) -> uvicorn.Server:
    import uvicorn

    from mpo_lite.service.app import make_app

    settings = uvicorn.Config(
        make_app(owner, token, int(address.max_mb * 1e6), address.body_timeout_s),
        log_config=None,
        access_log=False,  # a token may stand in an address
        lifespan="off",
        backlog=4096,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=STOP_WAIT_S,
    )
    return uvicorn.Server(settings)


async def _serve(owner: RubricOwner, server: uvicorn.Server, listener: socket.socket) -> None:
    work = asyncio.ensure_future(server.serve([listener])), asyncio.ensure_future(owner.watch())
    await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
    owner.is_stopping = True
    server.should_exit = True
    await asyncio.gather(*work)
    await owner.stop()


def _allow_many_connections() -> None:
    """Raises this process's limit of open files: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
