"""Starting and stopping the service: run directory, signals."""

from __future__ import annotations

from collections.abc import Callable

from mpo_lite.config import Config
from mpo_lite.errors import ConfigError
from mpo_lite.jsonl import JsonRow
from mpo_lite.loop.begin import continue_run, open_run
from mpo_lite.loop.context import Observer, RunContext, prepare_run
from mpo_lite.loop.environment import require_extra
from mpo_lite.loop.session import Session
from mpo_lite.loop.signals import stoppable
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.stand_in import sandboxed
from mpo_lite.service.server import Address, bind, running, wait_for
from mpo_lite.tasks.data import Prompts, load_prompts
from mpo_lite.tasks.spec import task_of
from mpo_lite.wording import simulated_note

STOPPING = "stopping once answers under way are judged; Ctrl-C again stops at once"


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
    require_extra("serve")
    check_config(config)
    with sandboxed(config) as served, bind(address) as listener:
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
            with (
                stoppable(session, STOPPING),
                running(owner, listener, address) as (url, token, serving),
            ):
                ready(url, token)
                wait_for(serving)
            return session.run
        finally:
            session.close()


def check_config(config: Config) -> None:
    """Raises ``ConfigError`` for what needs the policy, which a service does not have."""
    if config.baseline == "autoprompt":
        raise ConfigError(
            "--baseline autoprompt: refines on answers of the policy, which a service does not have; refine "
            "the rubric first (mpo-lite refine) and pass it by --rubric with --baseline iter0"
        )


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
