"""Labelled answers: rows with one answer and a score, or with two answers and a winner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mpo_lite.errors import TaskError
from mpo_lite.judge.base import Sample
from mpo_lite.offline import response_sample
from mpo_lite.tasks.data import Row, map_response, parse_label, read_data_file
from mpo_lite.tasks.spec import Task

Kind = Literal["scores", "pairs"]
LEAST_ROWS = 4
"""Labelled rows below which nothing is measured."""
_SCORED, _PAIRED = (("response",), ("completion",)), ("response_a", "response_b")
_WINNER = "winner"
_OUTCOMES = {"a": 1.0, "model_a": 1.0, "b": 0.0, "model_b": 0.0, "tie": 0.5}
"""What a winner may be called, in lower case → the score of the first answer."""


@dataclass(frozen=True)
class Columns:
    """The columns that a command names; empty: the usual ones.

    Attributes:
        labels: Of the score or the winner.
        responses: Of the answer, or of both answers.
        authors: Of who wrote the answer, or each of them.
    """

    labels: str = ""
    responses: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelledRow:
    """A row of the data.

    Attributes:
        number: Its number in the file, from 1.
        answers: One answer, or the two answers of a pair.
        label: The score, more is better; of a pair 1 if the first answer won, 0 if the second, 0.5 for a tie.
        authors: Who wrote each answer; empty if unknown.
    """

    number: int
    answers: tuple[Sample, ...]
    label: float
    authors: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """The task prompt."""
        return self.answers[0].prompt


@dataclass(frozen=True)
class LabelledData:
    """Labelled answers.

    Attributes:
        kind: What the labels are.
        rows: The labelled rows; those of one prompt are adjacent if they are scored one by one.
        unlabelled: Number of rows without a label.
    """

    kind: Kind
    rows: tuple[LabelledRow, ...]
    unlabelled: int


def read_labelled(path: Path, columns: Columns, task: Task) -> LabelledData:
    """Reads labelled answers; rows with two answers make it pairs.

    Raises:
        TaskError: The file cannot be read, a row lacks a column or has another label, or there are too few
            labelled rows; says which.
    """
    rows: list[LabelledRow] = []
    kind: Kind | None = None
    unlabelled = 0
    for number, row in enumerate(read_data_file(path), start=1):
        where = f"{path}: row {number}"
        names = columns.responses or _find_responses(row, where)
        kind = kind or ("scores" if len(names) == 1 else "pairs")
        authors = _find_authors(row, columns, kind)
        if kind == "scores":
            if not columns.labels:
                raise TaskError(f"{path}: name the column of the score with --labels")
            label = parse_label(row, columns.labels, where)
        else:
            label = _parse_winner(row, columns.labels or _WINNER, names, authors, where)
        if label is None:
            unlabelled += 1
        else:
            answers = tuple(_to_sample(row, name, task, where) for name in names)
            rows.append(LabelledRow(number, answers, label, authors))
    if kind is None:
        raise TaskError(f"{path}: contains no rows")
    prompts = {prompt: place for place, prompt in enumerate(dict.fromkeys(row.prompt for row in rows))}
    if len(rows) < LEAST_ROWS or len(prompts) < 2:
        raise TaskError(f"{path}: at least {LEAST_ROWS} labelled rows with two different prompts are needed")
    if kind == "scores":  # a groupwise judge sees the answers to a prompt together, as in training
        rows.sort(key=lambda row: prompts[row.prompt])
    return LabelledData(kind, tuple(rows), unlabelled)


def _find_responses(row: Row, where: str) -> tuple[str, ...]:
    for names in (*_SCORED, _PAIRED):
        if all(name in row for name in names):
            return names
    raise TaskError(
        f"{where} has neither 'response' (or 'completion') nor 'response_a' and 'response_b'; name the "
        "columns of the answers with --responses, once for scores and twice for pairs"
    )


def _find_authors(row: Row, columns: Columns, kind: Kind) -> tuple[str, ...]:
    names = columns.authors or (("model",) if kind == "scores" else ("model_a", "model_b"))
    authors = tuple(str(row.get(name) or "") for name in names)
    return authors if all(authors) else ()


def _to_sample(row: Row, column: str, task: Task, where: str) -> Sample:
    response = row.get(column)
    if not isinstance(response, str):
        raise TaskError(f"{where}: {column!r} must be text")
    fields = map_response(row, task.data, where)
    return response_sample(row | {"prompt": fields["prompt"]}, response, task)


def _parse_winner(
    row: Row, column: str, responses: Sequence[str], authors: Sequence[str], where: str
) -> float | None:
    """The score of the first answer; None without a winner."""
    if column not in row:
        raise TaskError(f"{where} has no column {column!r}; name the column of the winner with --labels")
    winner = str(row[column] or "").strip()
    if not winner:
        return None
    names = list(authors or ()) if len(set(authors)) == 2 else []
    if winner in names:
        return 1.0 - names.index(winner)
    if winner in responses:
        return 1.0 - list(responses).index(winner)
    outcome = _OUTCOMES.get(winner.lower().partition(" ")[0])  # also "tie (both bad)"
    if outcome is None:
        either = " or ".join(map(repr, names)) or "'model_a' or 'model_b'"
        raise TaskError(f"{where}: {column!r} must be 'a', 'b', 'tie', {either}, but is {winner[:40]!r}")
    return outcome
