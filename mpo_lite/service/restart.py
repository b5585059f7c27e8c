"""How a service finds its place again: its state, the answers it had judged, what clients said of prompts."""

from __future__ import annotations

import time
from typing import Annotated, Any

from pydantic import Field

from mpo_lite.errors import ConfigError
from mpo_lite.jsonl import JsonRow, journal, read_object, read_rows
from mpo_lite.loop.session import Session
from mpo_lite.records import Count, Record, Text, rollout_row, verdict_of
from mpo_lite.run_dir import RunDir
from mpo_lite.sanitize import strip_thinking
from mpo_lite.service.batches import Batch, Batches, Entry, Group, Submission


class ServiceState(Record):
    """``service.json``: where the service was after its last whole batch."""

    batch: Count = 0
    version: Count = 0
    fell_back: bool = False
    scheduler: Annotated[dict[str, Any], Field(default_factory=dict)]


class PromptRow(Record):
    """A prompt, with what a client said of it."""

    prompt: Text
    reference: Text = ""
    cluster: Text = ""


def read_service_state(run: RunDir) -> ServiceState:
    """The state of a service's run; that of a new one where there is none yet.

    Raises:
        RunError: The file is damaged.
    """
    if not run.service_state.exists():
        return ServiceState(scheduler={})
    return ServiceState.model_validate(read_object(run.service_state, ServiceState))


class PromptRows:
    """What clients say of prompts; kept in the run, as gate and meta-judge see it too.

    Args:
        run: The run.
        rows: Prompt → row, as the run's prompts have it; added to.
    """

    def __init__(self, run: RunDir, rows: dict[str, JsonRow]) -> None:
        self._run, self._rows = run, rows
        self._unwritten: list[JsonRow] = []
        for row in read_rows(run.served_prompts, PromptRow):
            rows.setdefault(row["prompt"], row)

    def add(self, submission: Submission) -> None:
        """Adds what a client says of its prompt, unless the task's data or an earlier answer has said it."""
        prompt = submission.prompt
        if prompt in self._rows or not (submission.reference or submission.cluster):
            return
        row = {"prompt": prompt, "reference": submission.reference, "cluster": submission.cluster}
        self._rows[prompt] = row
        self._unwritten.append(row)

    def write(self) -> None:
        """Journals what was added since; called off the event loop."""
        if unwritten := self._unwritten:
            self._unwritten = []
            journal(self._run.served_prompts, unwritten)


class Judged:
    """Answers that were judged before a restart, and whose clients may not have been answered.

    A client that sends one again is given the same reward by the same rubric version. Answers are
    distinguished by their text: engines name none.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], list[Entry]] = {}

    def add(self, entry: Entry) -> None:
        """Adds an answer."""
        self._entries.setdefault(_text(entry.submission), []).append(entry)

    def claim(self, submission: Submission) -> Entry | None:
        """The answer with this text, which another submission cannot claim any more; None without one."""
        if not self._entries:
            return None
        entries = self._entries.get(_text(submission))
        return entries.pop(0) if entries else None


def restore(session: Session, batches: Batches, last: int) -> Judged:
    """Puts back the answers of open batches, and makes those of the last whole one claimable.

    Args:
        session: The run, resumed.
        batches: The service's, still without answers.
        last: The last batch that is done, 0 without one.
    """
    judged, now, run = Judged(), time.monotonic(), session.run
    last_groups: dict[str, Group] = {}
    recent = (row for row in run.iterate_rows(run.rollouts) if row["batch"] >= last)
    rows = {(row["batch"], row["row"]): row for row in recent}
    for (number, place), row in sorted(rows.items()):
        version, verdict = run.version(row["version"]), verdict_of(row["verdict"])
        submission = _submission(row)
        if number == last:
            # Of a batch that is done: its groups only tell what their answers earned.
            group = last_groups.setdefault(
                submission.group_key, Group(Batch(number, version), submission.group_key, 0, now)
            )
            group.entries.append(Entry(submission, group, place, verdict))
            group.update()
            judged.add(group.entries[-1])
        else:
            judged.add(batches.restore(number, version, submission, verdict, place, now))
    session.state.replay.clear()
    return judged


def require_served(run: RunDir) -> None:
    """Raises ``ConfigError`` for a run that something else than ``serve`` writes."""
    if run.begun_by != "serve":
        raise ConfigError(
            f"{run.path}: not the run of a service; name another folder by --run-dir, or start from its "
            f"last rubric: --rubric {run.path}"
        )


def journal_row(entry: Entry) -> JsonRow:
    """A judged answer as the run's journal has it."""
    rollout = entry.to_rollout()
    assert rollout
    submission = entry.submission
    return rollout_row(rollout) | {
        "group": submission.group,
        "group_size": submission.group_size,
        "step": submission.step,
    }


def _submission(row: JsonRow) -> Submission:
    return Submission(
        row["prompt"],
        row["completion"],
        group=row.get("group", ""),
        group_size=row.get("group_size"),
        truncated=row.get("truncated", False),
        step=row.get("step"),
        cluster=row.get("cluster", ""),
    )


def _text(submission: Submission) -> tuple[str, str]:
    return submission.prompt, strip_thinking(submission.completion)
