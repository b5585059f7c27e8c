"""The run directory: what a run writes, and how a killed run finds its place again.

``rollouts.jsonl`` is the journal: what a batch was rewarded with is on disk before the optimiser moves.
Metrics and lineage are append-only too; when a run resumes, their rows after the checkpoint move to
``superseded/``. The ledger never rolls back. All of it is JSON and YAML; a torn last line, which a kill may
leave, is skipped.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import yaml
from filelock import FileLock, Timeout

from mpo_lite.config import Config
from mpo_lite.errors import ConfigError, TaskError
from mpo_lite.files import JsonRow, append_rows, read_rows, rewrite_rows, write_atomically
from mpo_lite.resolve import load_config, save_config
from mpo_lite.rubric import Rubric, dump_rubric, load_rubric, parse_rubric
from mpo_lite.types import Assessment, Rollout, Verdict, text_hash

STATE_FILE = "mpo_state.json"


@dataclass(frozen=True)
class Version:
    """One immutable version of the rubric.

    Attributes:
        number: From 0; only grows.
        parent: The version it was made from; None for the first.
        batch: Generation batches done when it was published; it judges from this batch on.
        author: Model that wrote it, or where the first came from.
        rubric: Its content.
    """

    number: int
    parent: int | None
    batch: int
    author: str
    rubric: Rubric


class Run:
    """One run directory.

    Args:
        path: The directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics.jsonl"
        self.lineage = path / "lineage.jsonl"
        self.gold = path / "gold.jsonl"
        self.rollouts = path / "rollouts.jsonl"
        self.anchor = path / "anchor.jsonl"
        self.probes = path / "probes.jsonl"
        self.trials = path / "trials.jsonl"
        self.alarms = path / "alarms.jsonl"
        self.pinned = path / "pin.json"
        self.report = path / "report.html"
        self.checkpoints = path / "checkpoints"
        self._superseded = path / "superseded"
        # Held by the process: whichever thread closes the run may release it.
        self._lock = FileLock(path / ".lock", thread_local=False)

    @classmethod
    def create(cls, path: Path, config: Config, env: JsonRow) -> Run:
        """Makes a new run directory with its configuration and the versions it runs on.

        Raises:
            ConfigError: There is a run in it already, or it cannot be written.
        """
        run = cls(path)
        if run.exists():
            raise ConfigError(
                f"{path} holds a run already; continue it: mpo-lite resume {path}, or name another folder"
            )
        try:
            for folder in (run.checkpoints, path / "rubrics"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot write the run here ({error}); name a folder by --run-dir"
            ) from error
        write_atomically(path / "env.json", json.dumps(env, indent=2))
        write_atomically(path / "config.yaml", save_config(config))
        return run

    @classmethod
    def open(cls, path: Path, given: JsonRow) -> tuple[Run, Config]:
        """Opens a run and its saved configuration, with what is ``given`` anew. Raises ``ConfigError``
        without one.
        """
        run = cls(path)
        if not run.exists():
            raise ConfigError(
                f"{path}: no run here (no config.yaml); runs lie under runs/ unless --run-dir said else"
            )
        # Its first rubric is its own by now; the file it came from may be gone or changed.
        first = run._version_path(0)
        kept = {"rubric": first} if first.exists() else {}
        return run, load_config(path / "config.yaml", {**given, **kept}, environ={})

    def exists(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / "config.yaml").is_file()

    @property
    def environment(self) -> JsonRow:
        """What the run was begun with: versions, processor, by whom. Raises ``ConfigError`` where that is
        gone.
        """
        path = self.path / "env.json"
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            return {name: known[name] for name in ("begun_by", "mpo_lite", "python", "machine", "packages")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: missing or damaged; this is no run") from error

    @property
    def begun_by(self) -> str:
        """``train`` for the command line's runs; ``library`` where a user's own trainer writes them."""
        return self.environment["begun_by"]

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
        run can go on.
        """
        stop = self.path / "STOP"
        asked = stop.exists()
        stop.unlink(missing_ok=True)
        return asked

    def locked(self) -> bool:
        """Whether a job is training this run now; no where it lies on a disk that cannot be written to."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return True
        except OSError:
            return False
        self._lock.release()
        return False

    def unlock(self) -> None:
        """Lets other processes go on with the run."""
        self._lock.release()

    def withdraw(self) -> None:
        """Takes back a run whose settings turned out unusable before it began: its folder is free again."""
        for path in (self._version_path(0), self.path / "env.json", self.path / "config.yaml"):
            path.unlink(missing_ok=True)

    def publish(self, version: Version) -> None:
        """Writes a rubric version; one that is there already is the same, from before a kill."""
        head = {
            "version": version.number,
            "parent": version.parent,
            "batch": version.batch,
            "author": version.author,
        }
        head["reward_hash"] = version.rubric.reward_hash
        text = "".join(f"# {key}: {json.dumps(value)}\n" for key, value in head.items()) + dump_rubric(
            version.rubric
        )
        write_atomically(self._version_path(version.number), text)

    def version(self, number: int) -> Version:
        """Reads a rubric version back. Raises ``TaskError`` where its file is gone or was damaged."""
        path = self._version_path(number)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TaskError(f"{path}: cannot be read ({error}); the run needs this rubric") from error
        lines = takewhile(lambda line: line.startswith("# "), text.splitlines())
        head: dict[str, Any] = yaml.safe_load("\n".join(line[2:] for line in lines))
        rubric = parse_rubric(text, str(path))
        try:
            return Version(number, head["parent"], head["batch"], head["author"], rubric)
        except (KeyError, TypeError) as error:
            raise TaskError(f"{path}: its first lines, which say where it comes from, are gone") from error

    def latest(self) -> Version:
        """The newest rubric version. Raises ``TaskError`` where there is none."""
        numbers = [int(path.stem[1:]) for path in (self.path / "rubrics").glob("v[0-9]*.yaml")]
        return self.version(max(numbers, default=0))

    def rewind(self, batch: int) -> None:
        """Takes the run back to where ``batch`` generation batches were done; keeps what is cut in
        ``superseded/``.
        """
        # The meta step of a batch comes after its checkpoint: it is still to be done.
        for file, kept_until in (
            (self.metrics, batch),
            (self.gold, batch),
            (self.alarms, batch),
            (self.lineage, batch - 1),
        ):
            rows = read_rows(file)
            if tail := [row for row in rows if row["batch"] > kept_until]:
                self._superseded.mkdir(exist_ok=True)
                append_rows(self._superseded / file.name, tail)
            rewrite_rows(file, [row for row in rows if row["batch"] <= kept_until])
        rewrite_rows(self.rollouts, read_rows(self.rollouts))

    def meta_outcomes(self, first: int) -> dict[int, JsonRow]:
        """Lineage rows cut by ``rewind``, by batch, from ``first`` on: a resumed run takes over what they
        say.
        """
        rows = read_rows(self._superseded / self.lineage.name)
        return {row["batch"]: row for row in rows if row["batch"] >= first}

    def journal(self, rows: Iterable[Rollout]) -> None:
        """Commits a batch's outcomes to disk, synced."""
        append_rows(self.rollouts, (_rollout_row(row) for row in rows))

    def journalled(self, first: int) -> list[Rollout]:
        """Rollouts of batch ``first`` and later, the newest record of each row, in order."""
        found = {(row["batch"], row["row"]): row for row in read_rows(self.rollouts) if row["batch"] >= first}
        return [_rollout(found[place]) for place in sorted(found)]

    def last_checkpoint(self) -> Path | None:
        """The newest whole checkpoint: one whose state file, written last, is there."""
        whole = {step: path for step, path in self._checkpoints().items() if (path / STATE_FILE).exists()}
        return whole[max(whole)] if whole else None

    def remove_torn_checkpoints(self) -> None:
        """Removes checkpoints that a kill left without a state file."""
        for path in self._checkpoints().values():
            if not (path / STATE_FILE).exists():
                shutil.rmtree(path)

    def _checkpoints(self) -> dict[int, Path]:
        """The trainer's checkpoints by optimiser step; folders of other names are somebody else's."""
        found = (
            (path.name.removeprefix("checkpoint-"), path) for path in self.checkpoints.glob("checkpoint-*")
        )
        return {int(step): path for step, path in found if step.isdecimal()}

    def _version_path(self, number: int) -> Path:
        return self.path / "rubrics" / f"v{number:03d}.yaml"


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
    run, _ = Run.open(path, {})
    newest = run.latest()
    return newest.rubric, f"{path} v{newest.number}"


def verdict_of(row: JsonRow) -> Verdict:
    """A verdict from the form in which it is journalled, that of ``dataclasses.asdict``."""
    assessments = {key: Assessment(**value) for key, value in row["assessments"].items()}
    told: JsonRow = row | {"assessments": assessments}
    return Verdict(**told)


def write_state(checkpoint: Path, state: JsonRow) -> None:
    """Completes a checkpoint by its state file. What the trainer pickled beside it, we neither read nor
    keep.
    """
    (checkpoint / "training_args.bin").unlink(missing_ok=True)
    write_atomically(checkpoint / STATE_FILE, json.dumps(state, indent=2))


def read_state(checkpoint: Path) -> JsonRow:
    """The state file of a checkpoint, or an empty one where it has none. Raises ``ConfigError`` if
    unreadable.
    """
    path = checkpoint / STATE_FILE
    try:
        state: Any = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError:
        state = None
    if not isinstance(state, dict):
        raise ConfigError(f"{path}: damaged; delete this checkpoint to go on from the one before")
    return cast(JsonRow, state)


def _rollout_row(rollout: Rollout) -> JsonRow:
    return {"id": rollout.id, "text": text_hash(rollout.completion), **asdict(rollout)}


def _rollout(row: JsonRow) -> Rollout:
    names = ("batch", "row", "prompt", "completion", "version", "reward", "cluster")
    return Rollout(**{name: row[name] for name in names}, verdict=verdict_of(row["verdict"]))
