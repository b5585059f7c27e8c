"""Starting and stopping the service: run directory, token, port, signals."""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from mpo_lite.config import Config
from mpo_lite.errors import ConfigError, RunError
from mpo_lite.jsonl import JsonRow, write_atomically
from mpo_lite.llm import event_loop
from mpo_lite.loop.begin import continue_run, open_run
from mpo_lite.loop.context import Observer, RunContext, prepare_run
from mpo_lite.loop.session import Session
from mpo_lite.loop.signals import stoppable
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.stand_in import sandboxed
from mpo_lite.tasks.data import Prompts, load_prompts
from mpo_lite.tasks.spec import task_of
from mpo_lite.wording import simulated_note

if TYPE_CHECKING:
    from mpo_lite.service.owner import RubricOwner

STOP_WAIT_S = 30
"""How long answers under way are waited for when the service is to stop."""
PACKAGES = ("fastapi", "uvicorn", "prometheus_client")
"""What the extra ``serve`` installs."""


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


def serve(
    config: Config,
    address: Address,
    observe: Observer = lambda kind, row: None,
    ready: Callable[[str, str], None] = lambda url, token: None,
) -> RunDir:
    """Serves rewards until it is asked to stop, by a signal or a file ``STOP`` in the run directory.

    Args:
        config: What to judge by; a ``run_dir`` that holds a service's run is continued.
        address: Where and to whom.
        observe: Told of ``note``, ``step``, ``alarm`` and ``meta`` events, each with its row.
        ready: Told the address and the token once requests are answered.

    Returns:
        The run.

    Raises:
        UsageError: A setting, file, model or port cannot be used.
    """
    require_packages()
    check_config(config)
    with sandboxed(config) as served, _bind(address) as listener:
        rows: dict[str, JsonRow] = {}
        context = prepare_run(served, observe, _prompts(served, rows))
        try:
            context.check_models()
            if context.task.verifier:
                context.note("the judge scores all answers: the engine itself can use the task's verifier")
            if config.simulated:
                context.note(simulated_note(config.simulated))
            session = _open_session(context, config)
        except BaseException:
            context.close()
            raise
        try:
            from mpo_lite.service.owner import RubricOwner

            owner = RubricOwner(session, rows, address.group_wait_s)
            owner.start()
            _serve(owner, listener, address, ready)
            return session.run
        finally:
            session.close()


def require_packages() -> None:
    """Raises ``ConfigError`` where what the extra ``serve`` installs is missing."""
    if missing := [name for name in PACKAGES if not find_spec(name)]:
        raise ConfigError(f"{', '.join(missing)} not installed: pip install 'mpo-lite[serve]'")


def check_config(config: Config) -> None:
    """Raises ``ConfigError`` for what needs the policy, which a service does not have."""
    if config.baseline == "autoprompt":
        raise ConfigError(
            "--baseline autoprompt: refines on answers of the policy, which a service does not have; refine "
            "the rubric first (mpo-lite refine) and pass it by --rubric with --baseline iter0"
        )


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


def _prompts(config: Config, rows: dict[str, JsonRow]) -> Prompts:
    """The task's data, where it is given, for references and clusters; prompts come from clients."""
    if config.data or config.task == "sandbox":
        loaded = load_prompts(task_of(config).data)
        rows |= {prompt: dict(row) for prompt, row in loaded.rows.items()}
    return Prompts((), (), rows)


def _open_session(context: RunContext, config: Config) -> Session:
    """A session in the run that ``run_dir`` holds, or in a new one."""
    from mpo_lite.service.restart import require_served

    if not config.run_dir or not (run := RunDir(config.run_dir)).exists():
        return Session(context, open_run(config, "serve"))
    require_served(run)
    run.lock()  # before its settings may change: another service may be using them
    try:
        continue_run(run, config)
        return Session(context, run)
    finally:
        run.unlock()  # the session has its own hold


@contextmanager
def _bind(address: Address) -> Generator[socket.socket]:
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


def _serve(
    owner: RubricOwner, listener: socket.socket, address: Address, ready: Callable[[str, str], None]
) -> None:
    import uvicorn

    from mpo_lite.service.app import make_app

    _allow_many_connections()
    token = read_token(owner.session.run, address)
    app = make_app(owner, token, int(address.max_mb * 1e6), address.body_timeout_s)
    settings = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # a token may stand in an address
        lifespan="off",
        backlog=4096,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=STOP_WAIT_S,
    )
    server = uvicorn.Server(settings)
    host, port = listener.getsockname()[:2]

    async def run() -> None:
        serving = asyncio.ensure_future(server.serve([listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if server.started:
            ready(f"http://{f'[{host}]' if ':' in host else host}:{port}", token)
        await asyncio.wait([serving, watching := asyncio.ensure_future(owner.watch())],
                           return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
        owner.is_stopping = True
        server.should_exit = True
        await asyncio.gather(serving, watching)
        await owner.stop()

    with stoppable(owner.session, "stopping once answers under way are judged; Ctrl-C again stops at once"):
        running = event_loop.submit(run())
        while True:
            with suppress(TimeoutError):
                return running.result(timeout=0.5)


def _allow_many_connections() -> None:
    """Raises this process's limit of open files: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
