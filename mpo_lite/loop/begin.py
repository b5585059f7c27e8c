"""How a run begins: its directory, with the configuration as it is saved, and the session that a user's own
trainer has it open by.
"""

from __future__ import annotations

import atexit
import logging
from pathlib import Path
from typing import Literal
from weakref import WeakValueDictionary

from mpo_lite.config import SANDBOX, Config
from mpo_lite.config_sources import load_config
from mpo_lite.errors import ConfigError
from mpo_lite.jsonl import JsonRow
from mpo_lite.llm.models import full_name
from mpo_lite.loop.context import prepare_run
from mpo_lite.loop.distributed import run_on_main
from mpo_lite.loop.environment import environment
from mpo_lite.loop.session import Session
from mpo_lite.model_config import Model
from mpo_lite.run_dir import RunDir, new_folder

CHANGEABLE = (
    "steps", "judge_api_base", "meta_api_base", "judge_fallback", "max_usd", "max_calls", "max_tokens",
    "max_judge_failures", "concurrency", "log_calls",
)  # fmt: skip
"""Settings that may change in a run: with others, its batches could not be found again or compared."""

_log = logging.getLogger(__name__)
_open: WeakValueDictionary[Path, Session] = WeakValueDictionary()
"""Sessions of this process by their run's folder, until they are closed or nobody holds them any more."""


def open_session(options: JsonRow) -> tuple[Session, bool]:
    """A session of a user's own trainer in its run directory.

    Where this process has that run open already, as when a cell of a notebook is run again, what had it is
    closed.

    Args:
        options: Fields of the configuration.

    Returns:
        The session, and whether the run has batches already.

    Raises:
        UsageError: Configuration, task, data, rubric or an endpoint cannot work.
    """
    config = load_config(given=options, named="MPO({}=…)")
    if config.trainer == "async":
        raise ConfigError(
            "trainer async: a whole training, by mpo-lite train or mpo_lite.train; in a script of your own, "
            "give TRL's AsyncGRPOTrainer the rewards of mpo-lite serve (docs/engines.md)"
        )
    context = prepare_run(config, _log_event)
    try:
        context.try_metrics()
        context.check_models()
        path, resumes = run_on_main(lambda: _find_or_make_run(context.config))
        if before := _open.pop(path.resolve(), None):
            before.close()
        session = Session(context, RunDir(path))
    except BaseException:
        context.close()
        raise
    _open[path.resolve()] = session
    return session, resumes


def open_run(config: Config, begun_by: Literal["train", "library", "serve"]) -> RunDir:
    """Makes the run directory of a new run. Raises ``ConfigError`` where there is one already."""
    path = config.run_dir or new_folder("goal" if config.goal else Path(config.task).name)
    return RunDir.create(path, _with_full_names(config), {"begun_by": begun_by, **environment()})


def continue_run(run: RunDir, config: Config) -> None:
    """Continues a run with a configuration, which may differ from the run's in ``CHANGEABLE``.

    Raises:
        ConfigError: It differs in something else.
        RunError: The run's own was changed by hand.
    """
    run.require_own_config()
    saved, asked = load_config(run.config_file, environ={}), _with_full_names(config)
    changed = {name for name in Config.model_fields if getattr(saved, name) != getattr(asked, name)}
    if fixed := sorted(changed - {*CHANGEABLE, "run_dir"}):
        raise ConfigError(
            f"{run.path}: {', '.join(fixed)} cannot change in a run, and differs from its config.yaml; name "
            "the run alone to continue it as it is, or name another --run-dir"
        )
    if changed & {*CHANGEABLE}:
        run.reconfigure(asked, len(run.rows(run.metrics)))


def _find_or_make_run(config: Config) -> tuple[Path, bool]:
    """The run of a user's own trainer: a new one, or the one in ``run_dir``; and whether it has batches."""
    if config.run_dir and (run := RunDir(config.run_dir)).exists() and run.begun_by == "library":
        return run.path, bool(run.rows(run.rollouts))
    return open_run(config, "library").path, False


def _with_full_names(config: Config) -> Config:
    """The configuration as it is saved: with full model names, and with paths that hold from any folder."""

    def pin(model: Model) -> Model:
        return model.model_copy(update={"model": full_name(model.model)})

    names = {
        "judge": tuple(pin(model) for model in config.judge),
        "judge_fallback": config.judge_fallback and pin(config.judge_fallback),
        "meta": config.meta and pin(config.meta),
        "audit_judge": config.audit_judge and pin(config.audit_judge),
    }
    given = {
        name: path
        for name in ("policy", "data", "rubric", "examples")
        if (path := getattr(config, name)) != SANDBOX
    }
    paths = {
        name: type(path)(Path(path).absolute())
        for name, path in given.items()
        if path and Path(path).exists()
    }
    if (Path(config.task) / "task.yaml").exists():
        paths["task"] = str(Path(config.task).absolute())
    return config.model_copy(update={**names, **paths, "cache_dir": config.cache_dir.absolute()})


@atexit.register
def _close_all() -> None:
    for session in list(_open.values()):
        session.close()


def _log_event(kind: str, row: JsonRow) -> None:
    """Logs what a user should know. Alarms quote answers, which do not belong in logs."""
    if kind == "note":
        _log.warning("%s", row["text"])
    elif kind == "alarm":
        _log.warning("alarm after batch %d: %s; see alarms.jsonl", row["batch"], row["name"])
