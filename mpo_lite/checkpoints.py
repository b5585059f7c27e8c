"""The checkpoints of a run: complete once their manifest is written, and checked against it before anything
is loaded from them.

The manifest names every file of the checkpoint with its size and SHA-256, and how many rows the run's
journals had by then: a run that continues from a checkpoint continues from exactly that state, or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from mpo_lite.errors import ConfigError, RunError
from mpo_lite.jsonl import JsonRow, count_rows, read_object, write_atomically
from mpo_lite.llm.ledger import read_calls
from mpo_lite.records import KINDS
from mpo_lite.run_dir import RunDir

STATE_FILE = "mpo_state.json"
MANIFEST = "manifest.json"
START = "start"
"""Names the state before the first batch where a checkpoint is asked for."""


class _File(BaseModel):
    model_config = ConfigDict(strict=True)

    bytes: int
    sha256: str


class _Manifest(BaseModel):
    model_config = ConfigDict(strict=True)

    files: dict[str, _File]
    rows: dict[str, int]


class _State(BaseModel):
    model_config = ConfigDict(strict=True)

    batch: int
    version: int


def complete_checkpoint(run: RunDir, checkpoint: Path, state: JsonRow) -> None:
    """Completes what the trainer has saved, once all processes have: by our own state, then the manifest.

    What the trainer pickled there is neither read nor kept.

    Args:
        run: The run.
        checkpoint: The trainer's folder.
        state: What a resumed run starts with, ``batch`` and ``version`` among it.
    """
    (checkpoint / "training_args.bin").unlink(missing_ok=True)
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    write_atomically(checkpoint / STATE_FILE, json.dumps(state, indent=2))
    files = {
        path.relative_to(checkpoint).as_posix(): _sync_entry(path)
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file()
    }
    manifest = {"files": files, "rows": _rows_until(run, state["batch"])}
    write_atomically(checkpoint / MANIFEST, json.dumps(manifest, indent=2))


def read_state(checkpoint: Path) -> JsonRow:
    """The state of a checkpoint. Raises ``RunError`` where that is missing or damaged."""
    return read_object(checkpoint / STATE_FILE, _State)


def require_same_prompts(checkpoint: Path, state: JsonRow, prompts_hash: str) -> None:
    """Raises ``ConfigError`` where a run's data is no longer what it was when the checkpoint was saved."""
    if state.get("prompts") != prompts_hash:
        raise ConfigError(
            f"{checkpoint}: its data is no longer what it was trained on (other prompts, references or "
            "clusters); give it its data again, or begin a new run"
        )


def last_checkpoint(run: RunDir) -> Path | None:
    """The newest whole checkpoint: one whose manifest is there. Its files may have been damaged since."""
    whole = _whole(run)
    return whole[max(whole)] if whole else None


def intact_checkpoint(run: RunDir) -> Path:
    """The newest whole checkpoint, its files checked against the manifest.

    Raises:
        ConfigError: There is none yet.
        RunError: A file of it is damaged or missing; names it.
    """
    if (checkpoint := last_checkpoint(run)) is None:
        raise ConfigError(f"{run.path}: has no checkpoint yet; resume it with mpo-lite resume {run.path}")
    try:
        require_files(checkpoint)
    except RunError as error:
        raise _with_offer(run, checkpoint, error) from None
    return checkpoint


def resumable_checkpoint(run: RunDir, name: str | None) -> Path | None:
    """The checkpoint that a run continues from, checked with all that it depends on.

    Args:
        run: The run.
        name: Of the checkpoint, or ``start``; None for the newest.

    Returns:
        The checkpoint; None for the state before the first batch.

    Raises:
        ConfigError: There is no such checkpoint; names those there are.
        RunError: A file is damaged, missing or changed; names it, and the newest checkpoint before it that
            is as it was saved.
    """
    run.require_own_config()
    known = {path.name: path for _, path in sorted(_whole(run).items())}
    if name not in (None, START, *known):
        raise ConfigError(f"{run.path}: has no checkpoint {name}; --from takes {', '.join([*known, START])}")
    checkpoint = last_checkpoint(run) if name is None else known.get(name)
    try:
        require_intact(run, checkpoint)
    except RunError as error:
        raise _with_offer(run, checkpoint, error) from None
    return checkpoint


def require_intact(run: RunDir, checkpoint: Path | None) -> None:
    """Holds a checkpoint, and the rubrics and journals it rests on, against what was saved.

    Args:
        run: The run.
        checkpoint: None for the state before the first batch.

    Raises:
        RunError: Names the file that is damaged, missing or changed.
    """
    rows: dict[str, int] = {}
    version = batch = 0
    if checkpoint:
        rows = require_files(checkpoint)["rows"]
        state = read_state(checkpoint)
        version, batch = state["version"], state["batch"]
    if (pinned := run.pin) is not None:
        run.version(pinned)
    if checkpoint or run.rollouts.exists():  # else it may have been killed before it had a rubric
        for number in range(version + 1):
            run.version(number)
    _require_rows(run, rows, batch)
    run.meta_outcomes(batch)


def require_files(checkpoint: Path) -> JsonRow:
    """Holds the files of a checkpoint against its manifest.

    Returns:
        The manifest.

    Raises:
        RunError: Names the file that is damaged or missing.
    """
    manifest = read_object(checkpoint / MANIFEST, _Manifest)
    for name, saved in manifest["files"].items():
        path = checkpoint / name
        if not path.is_file():
            raise RunError(f"{path}: missing")
        if (size := path.stat().st_size) != saved["bytes"]:
            raise RunError(f"{path}: damaged: {size:,} bytes, of {saved['bytes']:,} that were saved")
        if _sha256(path) != saved["sha256"]:
            raise RunError(f"{path}: damaged: not the bytes that were saved")
    return manifest


def discard_after(run: RunDir, checkpoint: Path | None) -> None:
    """Clears the way for a run that continues from a checkpoint: removes those that a kill left without a
    manifest, and moves later ones to ``superseded/``.

    Args:
        run: The run.
        checkpoint: None for the state before the first batch.
    """
    whole, first = _whole(run), _step(checkpoint) if checkpoint else 0
    for step, path in _all(run).items():
        if step not in whole:
            shutil.rmtree(path)
        elif step > first:
            kept = run.path / "superseded" / path.name
            shutil.rmtree(kept, ignore_errors=True)
            kept.parent.mkdir(exist_ok=True)
            path.rename(kept)


def _rows_until(run: RunDir, batch: int) -> dict[str, int]:
    """How many rows of the journals a checkpoint rests on, by file: those that ``RunDir.rewind`` keeps."""
    cut = {
        file: sum(row["batch"] <= until for row in run.rows(file))
        for file, until in run.cut_at(batch).items()
    }
    whole = (
        run.rollouts,
        run.anchor,
        run.probes,
        run.trials,
        run.audits,
        run.audit_pairs,
        *run.ledgers().values(),
    )
    counts = cut | {file: count_rows(file) for file in whole}
    return {file.name: count for file, count in counts.items() if count}


def _require_rows(run: RunDir, counts: Mapping[str, int], batch: int) -> None:
    """Sees that the journals can be read, and hold what a checkpoint at ``batch`` rests on."""
    until = {file.name: limit for file, limit in run.cut_at(batch).items()}
    for name in dict.fromkeys([*KINDS, *(file.name for file in run.ledgers().values()), *counts]):
        file, count = run.path / name, counts.get(name, 0)
        if count and not file.exists():
            raise RunError(f"{file}: missing")
        rows = run.rows(file) if name in KINDS else read_calls(file)
        found = sum(name not in until or row["batch"] <= until[name] for row in rows)
        if found < count:
            raise RunError(f"{file}: cut short: {found:,} of its first {count:,} rows are left")


def _with_offer(run: RunDir, checkpoint: Path | None, error: RunError) -> RunError:
    """The error, with the newest earlier state that the run can continue from."""
    first = _step(checkpoint) if checkpoint else 0
    earlier = [path for step, path in sorted(_whole(run).items(), reverse=True) if step < first]
    places = {**{path.name: path for path in earlier}, **({START: None} if checkpoint else {})}
    intact = next((name for name, place in places.items() if _intact(run, place)), None)
    if intact is None:
        return error
    return RunError(
        error.what,
        f"{error.fix}, or continue from an earlier state: mpo-lite resume {run.path} --from {intact}",
    )


def _intact(run: RunDir, checkpoint: Path | None) -> bool:
    try:
        require_intact(run, checkpoint)
    except RunError:
        return False
    return True


def _whole(run: RunDir) -> dict[int, Path]:
    return {step: path for step, path in _all(run).items() if (path / MANIFEST).exists()}


def _all(run: RunDir) -> dict[int, Path]:
    """The trainer's checkpoints by optimiser step; folders of other names are somebody else's."""
    return {_step(path): path for path in run.checkpoints.glob("checkpoint-*") if _step(path) >= 0}


def _step(checkpoint: Path) -> int:
    name = checkpoint.name.removeprefix("checkpoint-")
    return int(name) if name.isdecimal() else -1


def _sync_entry(path: Path) -> JsonRow:
    """Size and hash of a file that the trainer wrote, once it is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
