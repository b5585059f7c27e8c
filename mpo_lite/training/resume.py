"""Continuing a run: its files are checked, and settings changed, before torch is loaded or a call is paid."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from mpo_lite.checkpoints import read_state, resumable_checkpoint
from mpo_lite.config import Config
from mpo_lite.config_sources import load_config
from mpo_lite.errors import ConfigError
from mpo_lite.jsonl import JsonRow
from mpo_lite.judge.pool import models_of, require_prices
from mpo_lite.llm.ledger import Ledger
from mpo_lite.loop.begin import CHANGEABLE
from mpo_lite.loop.context import Observer
from mpo_lite.loop.distributed import is_main, run_on_main
from mpo_lite.options import Options
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.stand_in import sandboxed
from mpo_lite.training.job import Result, train


@dataclass(frozen=True)
class Resumable:
    """A run that can be continued, locked by this process.

    Attributes:
        run: The run directory.
        config: Its configuration from here on.
        checkpoint: Where it continues; None: before its first batch.
        done: Generation batches done there.
        changed: What changes from here on, one line each.
    """

    run: RunDir
    config: Config
    checkpoint: Path | None
    done: int
    changed: tuple[str, ...]


def resume(
    path: Path | str,
    observe: Observer = lambda kind, row: None,
    checkpoint: str | None = None,
    **changes: Unpack[Options],
) -> Result:
    """Continues a run that was stopped or killed, or trains a finished one for more steps.

    Args:
        path: The run directory.
        observe: As in ``train``.
        checkpoint: Name of the checkpoint to continue from, or ``start``; None: the newest.
        changes: Settings that change from here on, of those in ``CHANGEABLE``.

    Returns:
        The result; of a run that has no batch left, what it came to.

    Raises:
        UsageError: There is no run, it is training now, a setting cannot change, or a file is damaged.
        StorageError: The disk is full or read-only; earlier checkpoints are complete.
    """
    with open_resumable(Path(path), {**changes}, checkpoint) as resumed:
        for line in resumed.changed if is_main() else ():
            observe("note", {"text": line})
        if resumed.done < resumed.config.steps:
            return train(resumed.config, observe, resumed.run, resumed.checkpoint)
        version, ledger = resumed.run.latest(), Ledger()
        for path in resumed.run.ledgers().values():
            ledger.count(path)
        spend = ledger.spend() | {"cache_hits": 0}
        return Result(resumed.run, version.rubric, version.number, None, 0.0, spend)


@contextmanager
def open_resumable(path: Path, changes: JsonRow, place: str | None) -> Generator[Resumable]:
    """Opens a run to continue it: locks it, checks its files, and makes the changes its own.

    Args:
        path: The run directory.
        changes: Settings to change; None leaves one as it is.
        place: Name of a checkpoint, or ``start``; None: the newest.

    Raises:
        UsageError: See ``resume``.
    """
    if fixed := sorted(set(changes) - set(CHANGEABLE)):
        raise ConfigError(f"{fixed[0]}: cannot change in a run; resume takes {', '.join(CHANGEABLE)}")
    run, config = RunDir.open(path, changes)
    if run.begun_by == "library":
        raise ConfigError(
            f"{path}: written by a trainer of your own; run that script again, with "
            "trainer.train(resume_from_checkpoint=True)"
        )
    if run.begun_by == "serve":
        raise ConfigError(f"{path}: written by a service; start that again: mpo-lite serve --run-dir {path}")
    run_on_main(run.lock)
    try:
        checkpoint = run_on_main(lambda: resumable_checkpoint(run, place))
        done = read_state(checkpoint)["batch"] if checkpoint else 0
        if config.steps < done:
            raise ConfigError(f"--steps {config.steps}: {path} already has {done} batches; pass more")
        with sandboxed(config) as served:
            # Checked before the change is saved: a cap that cannot hold would keep the run from resuming.
            require_prices(served, models_of(served, config.asks_meta), is_resumed=True)
        changed = run_on_main(lambda: _change_config(run, changes, done))
        yield Resumable(run, config, checkpoint, done, tuple(changed))
    finally:
        run.unlock()


def _change_config(run: RunDir, changes: JsonRow, done: int) -> list[str]:
    """Saves changed settings as the run's own. Returns what changed."""
    before = load_config(run.config_file, environ={})
    given = {name: value for name, value in changes.items() if value is not None}
    names = [name for name, value in given.items() if getattr(before, name) != value]
    if not names:
        return []
    after = load_config(run.config_file, given, environ={})
    run.reconfigure(after, done)
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    lines = [
        f"{name}: {_or_none(old[name])} -> {_or_none(new[name])}, from batch {done + 1} on" for name in names
    ]
    schedule = before.trl.get("lr_scheduler_type", "constant")
    if "steps" in names and schedule != "constant":
        lines.append(
            f"learning rate schedule '{schedule}' now spans {after.steps} batches instead of {before.steps}"
        )
    return lines


def _or_none(value: object) -> object:
    return "none" if value is None else value
