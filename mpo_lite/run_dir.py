"""The run directory: what a run writes, and how a killed run finds its place again.

``rollouts.jsonl`` is the journal: what a batch was rewarded with is on disk before the optimiser moves.
Metrics and lineage are append-only too; when a run resumes, their rows after the checkpoint move to
``superseded/``. The ledger never rolls back. All of it is JSON and YAML; a torn last line, which a kill may
leave, is skipped, and any other damage is told.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from mpo_lite.config import Config
from mpo_lite.config_sources import load_config, save_config
from mpo_lite.errors import ConfigError, RunError, storage_problem
from mpo_lite.jsonl import (
    JsonRow,
    iterate_rows,
    journal,
    read_object,
    read_rows,
    write_atomically,
    write_journal,
)
from mpo_lite.records import KINDS, Environment, Pin, RunFormat, StopRow, rollout_of, rollout_row
from mpo_lite.rubric import Rubric, load_rubric
from mpo_lite.rubric_versions import RubricVersion, read_version, write_version
from mpo_lite.types import Rollout

SCHEMA = 1
"""Form of a run's files; raised whenever a reader of the older form could not read the newer one."""
_LOCK = ".lock"
_SEAL = "# sha256: "
"""Begins the last line of a run's ``config.yaml``, which says what the others hash to."""


class RunDir:
    """One run directory.

    Args:
        path: The directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.lineage = path / "lineage.jsonl"
        self.gold = path / "gold.jsonl"
        self.rollouts = path / "rollouts.jsonl"
        self.anchor = path / "anchor.jsonl"
        self.probes = path / "probes.jsonl"
        self.trials = path / "trials.jsonl"
        self.audits = path / "audits.jsonl"
        self.audit_pairs = path / "audit_pairs.jsonl"
        self.alarms = path / "alarms.jsonl"
        self.pinned = path / "pin.json"
        self.service_state = path / "service.json"
        self.served_prompts = path / "prompts.jsonl"
        self.stop = path / "stop.json"
        self.report = path / "report.html"
        self.checkpoints = path / "checkpoints"
        self._superseded = path / "superseded"
        # Held by the process: whichever thread closes the run may release it.
        self._lock = FileLock(path / _LOCK, thread_local=False)

    @classmethod
    def create(cls, path: Path, config: Config, env: JsonRow) -> RunDir:
        """Makes a new run directory with its configuration and the versions it runs on.

        Raises:
            ConfigError: There is a run in it already, or it cannot be written.
        """
        run = cls(path)
        check_vacant(path)
        try:
            for folder in (run.checkpoints, path / "rubrics"):
                folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path / "env.json", json.dumps({"schema": SCHEMA, **env}, indent=2))
            run.write_config(config)
        except OSError as error:
            said = storage_problem(error, path) or f"{path}: cannot write the run here ({error})"
            raise ConfigError(f"{said}, or name another folder by --run-dir") from error
        return run

    @classmethod
    def open(cls, path: Path, given: JsonRow) -> tuple[RunDir, Config]:
        """Opens a run and its saved configuration, changed by what is ``given``.

        Raises:
            ConfigError: There is none.
            RunError: Its files have another form than this version reads.
        """
        run = cls(path)
        if not run.exists():
            raise ConfigError(
                f"{path}: not a run directory (no config.yaml); runs are created in runs/ unless --run-dir "
                "is given"
            )
        run._require_schema()
        # Its first rubric is its own by now; the file it came from may be gone or changed.
        first = run._version_path(0)
        kept = {"rubric": first} if first.exists() else {}
        return run, load_config(run.config_file, {**given, **kept}, environ={})

    def reconfigure(self, config: Config, batch: int) -> None:
        """Gives the run another configuration from ``batch`` on; keeps what it had in ``superseded/``."""
        self._superseded.mkdir(exist_ok=True)
        text = self.config_file.read_text(encoding="utf-8")
        write_atomically(self._superseded / f"config-until-{batch}.yaml", text)
        self.write_config(config)

    def note_stop(self, reason: str) -> None:
        """Keeps why the run stopped before its last batch; empty: it continues."""
        if reason:
            write_atomically(self.stop, json.dumps({"reason": reason}))
        else:
            self.stop.unlink(missing_ok=True)

    @property
    def stop_reason(self) -> str:
        """Why the run stopped; empty where it did not, or was killed. Raises ``RunError`` if damaged."""
        return read_object(self.stop, StopRow)["reason"] if self.stop.exists() else ""

    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self.config_file.is_file()

    def write_config(self, config: Config) -> None:
        """Writes the run's configuration, sealed: whoever changes it otherwise is noticed."""
        settings = save_config(config)
        write_atomically(self.config_file, f"{settings}{_SEAL}{_sha256(settings.encode())}\n")

    def require_own_config(self) -> None:
        """Refuses to continue with a configuration that is not as the run wrote it. Raises ``RunError``."""
        settings, _, seal = self.config_file.read_bytes().rpartition(_SEAL.encode())
        if seal.strip() != _sha256(settings).encode():
            raise RunError(
                f"{self.config_file}: damaged or changed since the run began",
                "restore it, or start a new run from it: mpo-lite train "
                f"{self.config_file} --run-dir NEW (resume takes flags for what may change in "
                "a run, such as --max-usd)",
            )

    def _require_schema(self) -> None:
        try:
            written = read_object(self.path / "env.json", RunFormat)
        except RunError:
            return  # whoever needs the file says so
        if (schema := written.get("schema", 0)) != SCHEMA:
            raise RunError(
                f"{self.path}: written in run format {schema}, and this version reads format {SCHEMA}",
                f"read it with the mpo-lite that wrote it ({written['mpo_lite']}), or train again: "
                f"mpo-lite train {self.config_file} --run-dir NEW",
            )

    @property
    def environment(self) -> JsonRow:
        """What the run was begun with: versions, processor, by whom. Raises ``RunError`` where that is gone
        or damaged.
        """
        return read_object(self.path / "env.json", Environment)

    @property
    def begun_by(self) -> str:
        """``train`` for the command line's runs; ``library`` where a user's own trainer writes them."""
        return self.environment["begun_by"]

    @property
    def pin(self) -> int | None:
        """The version that a person pinned, or None. Raises ``RunError`` where that is damaged."""
        return read_object(self.pinned, Pin)["version"] if self.pinned.exists() else None

    def rows(self, file: Path) -> list[JsonRow]:
        """The rows of one of the run's journals, in order.

        Raises:
            RunError: A line is damaged, or holds something else; says which.
        """
        return read_rows(file, KINDS[file.name])

    def iterate_rows(self, file: Path) -> Iterator[JsonRow]:
        """The rows of one of the run's journals one by one; see ``rows``."""
        return iterate_rows(file, KINDS[file.name])

    def ledger(self, process: int = 0) -> Path:
        """Where a process of the job accounts for its calls: each has a file of its own."""
        return self.path / f"calls{f'-{process}' if process else ''}.jsonl"

    def ledgers(self) -> dict[int, Path]:
        """The accounts by process; that of the first may not be there yet."""
        found = ((path.stem.removeprefix("calls-"), path) for path in self.path.glob("calls-*.jsonl"))
        return {0: self.ledger(), **{int(process): path for process, path in found if process.isdecimal()}}

    def lock(self) -> None:
        """Keeps other processes from writing here, until ``unlock`` or the end of this process.

        Raises:
            ConfigError: Another process is at it.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(f"{self.path}: another process is training this run; wait for it") from error

    def asked_to_stop(self) -> bool:
        """Whether somebody laid a file ``STOP`` into the folder; it is taken away, so that the
        run can be resumed.
        """
        stop = self.path / "STOP"
        asked = stop.exists()
        stop.unlink(missing_ok=True)
        return asked

    def locked(self) -> bool:
        """Whether a job is training this run now; no, on a disk that cannot be written to."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return True
        except OSError:
            return False
        self._lock.release()
        return False

    def unlock(self) -> None:
        """Lets other processes continue the run."""
        self._lock.release()

    def withdraw(self) -> None:
        """Takes back a run whose settings turned out unusable before it began: its folder is free again."""
        for folder in (self.checkpoints, self.path / "rubrics"):
            shutil.rmtree(folder, ignore_errors=True)
        for path in (self.path / "env.json", self.config_file, *self.ledgers().values()):
            path.unlink(missing_ok=True)

    def publish(self, version: RubricVersion) -> None:
        """Writes a rubric version."""
        write_version(self._version_path(version.number), version)

    def version(self, number: int) -> RubricVersion:
        """Reads a rubric version. Raises ``RunError`` where it is missing, or not as it was published."""
        return read_version(self._version_path(number), number)

    def latest(self) -> RubricVersion:
        """The newest rubric version. Raises ``RunError`` where there is none, or it was damaged."""
        names = (path.stem.removeprefix("v") for path in (self.path / "rubrics").glob("v*.yaml"))
        return self.version(max((int(name) for name in names if name.isdecimal()), default=0))

    def rewind(self, batch: int) -> None:
        """Takes the run back to where ``batch`` generation batches were done; keeps what is cut in
        ``superseded/``.
        """
        for file, until in self.cut_at(batch).items():
            self.cut(file, until)

    def cut(self, file: Path, until: int) -> None:
        """Takes a journal back to where ``until`` batches were done; keeps what is cut in ``superseded/``."""
        rows = self.rows(file)
        if tail := [row for row in rows if row["batch"] > until]:
            self._superseded.mkdir(exist_ok=True)
            journal(self._superseded / file.name, tail)
            write_journal(file, [row for row in rows if row["batch"] <= until])

    def cut_at(self, batch: int) -> dict[Path, int]:
        """Journals that are cut where a run continues after ``batch`` batches, and the last batch kept."""
        # The meta step of a batch comes after its checkpoint: it is still to be done.
        return {self.metrics: batch, self.gold: batch, self.alarms: batch, self.lineage: batch - 1}

    def meta_outcomes(self, first: int) -> dict[int, JsonRow]:
        """Lineage rows cut by ``rewind``, by batch, from ``first`` on: a resumed run takes over what they
        say.
        """
        rows = self.rows(self._superseded / self.lineage.name)
        return {row["batch"]: row for row in rows if row["batch"] >= first}

    def journal(self, rows: Iterable[Rollout]) -> None:
        """Commits a batch's outcomes to disk, synced."""
        journal(self.rollouts, map(rollout_row, rows))

    def read_rollouts(self) -> list[Rollout]:
        """All rollouts, the newest record of each row, in order."""
        rollouts = {(row["batch"], row["row"]): rollout_of(row) for row in self.iterate_rows(self.rollouts)}
        return [rollouts[place] for place in sorted(rollouts)]

    def _version_path(self, number: int) -> Path:
        return self.path / "rubrics" / f"v{number:03d}.yaml"


def check_vacant(path: Path) -> None:
    """Sees that a new run can be written to a folder: there is none yet, or an empty one.

    Raises:
        ConfigError: It holds a run or other files, is a file, or cannot be written to.
    """
    if RunDir(path).exists():
        raise ConfigError(
            f"{path}: already contains a run; resume it with mpo-lite resume {path}, or choose another "
            "--run-dir"
        )
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path}: is a file; name a folder by --run-dir")
    if path.exists() and any(one.name != _LOCK for one in path.iterdir()):
        raise ConfigError(f"{path}: holds other files; name a new or empty folder by --run-dir")
    fresh = [one for one in (path, *path.parents) if not one.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        writable = os.access(path, os.W_OK | os.X_OK)
        for one in fresh:
            one.rmdir()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot write the run here ({error.strerror}); name a folder by --run-dir"
        ) from error
    if not writable:
        raise ConfigError(f"{path}: cannot write the run here; name a folder by --run-dir")


def new_folder(name: str) -> Path:
    """Makes a folder for a run under ``runs``, named by the second, and no other run's.

    Raises:
        ConfigError: None can be made here.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for ending in ("", *(f"-{number}" for number in range(2, 100))):
        path = Path("runs") / f"{name}-{stamp}{ending}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"{path}: cannot be made ({error}); name a folder by --run-dir") from error
        return path
    raise ConfigError(f"runs/{name}-{stamp}: a hundred runs in one second; name a folder by --run-dir")


def rubric_at(path: Path) -> tuple[Rubric, str]:
    """A rubric by its file, or by the run whose last one it is; and where it comes from.

    Raises:
        UsageError: There is none, or it is malformed.
    """
    if not path.is_dir():
        return load_rubric(path), str(path)
    run, _ = RunDir.open(path, {})
    newest = run.latest()
    return newest.rubric, f"{path} v{newest.number}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
