"""Prompts from the hub, from jsonl, csv and parquet files, or from a function: rows with one text column."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any, TextIO, cast

from mpo_lite.activity import activity
from mpo_lite.errors import TaskError
from mpo_lite.rubric import MAX_CLUSTERS
from mpo_lite.tasks.hub import go_offline_without_hub
from mpo_lite.tasks.spec import DataSource, load_function
from mpo_lite.types import text_hash

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".csv", ".parquet")
"""Of the files that rows are read from."""


@dataclass(frozen=True)
class Prompts:
    """The prompts of a run.

    Attributes:
        train: To train on; distinct.
        held_out: Kept apart for the gold metric; none of them is in ``train``.
        rows: Prompt → its row, with ``prompt``, ``reference`` and ``cluster`` as the task maps them.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    rows: Mapping[str, Row] = field(default_factory=dict[str, Row])

    def row(self, prompt: str) -> Row:
        """The row of a prompt; of one that is none of the data's, the prompt alone."""
        return self.rows.get(prompt, {"prompt": prompt})

    def cluster(self, prompt: str) -> str:
        """The kind of a prompt; empty where the task tells no kinds apart."""
        return str(self.row(prompt).get("cluster") or "")


def load_prompts(data: DataSource, override: str | None = None) -> Prompts:
    """Reads all prompts and sets the held-out ones apart.

    Which rows are held out depends on their text alone, so runs of any seed keep the same ones apart.

    Args:
        data: The task's source.
        override: A file or hub id instead of it.

    Raises:
        TaskError: The source cannot be read, or has no such column or too few rows.
    """
    source = override or data.source
    if source is None:
        raise TaskError("the task names no data: give prompts by --data FILE.jsonl")
    if ":" in source and not Path(source).exists():
        function = load_function(source, "data.source")
        parts = [mapped(_made(function, part, source), data, source) for part in ("train", "held_out")]
        train, held_out = (tuple(dict.fromkeys(row["prompt"] for row in part)) for part in parts)
        return Prompts(train, held_out, _by_prompt([*parts[0], *parts[1]], data, source))
    with activity(f"loading data {source}"):
        rows = mapped(_rows(source, data.split), data, source)
    texts = sorted({row["prompt"] for row in rows}, key=text_hash)
    held_out = min(data.held_out, len(texts) // 5)
    if len(texts) < 2:
        raise TaskError(f"{source}: {len(texts)} distinct prompts; at least 2 are needed")
    return Prompts(tuple(texts[held_out:]), tuple(texts[:held_out]), _by_prompt(rows, data, source))


def mapped(rows: Iterable[Row], data: DataSource, source: str) -> list[Row]:
    """The rows, with ``prompt``, ``reference`` and ``cluster`` as the task maps them beside their columns.

    Raises:
        TaskError: A row lacks a column, or its prompt is no text; says which.
    """
    return [_mapped(row, data, f"{source}: row {number}") for number, row in enumerate(rows, start=1)]


def _mapped(row: Row, data: DataSource, where: str) -> Row:
    told = dict(row)
    template = Template(data.prompt)
    names = template.get_identifiers() if "$" in data.prompt else [data.prompt]
    texts = {name: _text(row, name, where) for name in names}
    told["prompt"] = template.safe_substitute(texts) if "$" in data.prompt else texts[data.prompt]
    if data.reference is not None:
        told["reference"] = _column(row, data.reference, where)
    if data.cluster is not None:
        told["cluster"] = _text(row, data.cluster, where)
    return told


def _text(row: Row, column: str, where: str) -> str:
    text = _column(row, column, where)
    if not isinstance(text, str) or not text.strip():
        raise TaskError(f"{where}: {column!r} must be a non-empty text")
    return text.strip()


def _column(row: Row, path: str, where: str) -> Any:
    """A column, or what a dotted path leads to within one."""
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            raise TaskError(f"{where} has no column {path!r}; it has: {', '.join(map(str, row))}")
        value = cast(Row, value)[part]
    return value


def _by_prompt(rows: Iterable[Row], data: DataSource, source: str) -> dict[str, Row]:
    """Prompt → row; of several rows with one prompt, the first."""
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(row["prompt"], row)
    kinds = len({row["cluster"] for row in found.values()}) if data.cluster else 0
    if kinds > MAX_CLUSTERS:
        raise TaskError(
            f"{source}: {kinds} kinds in {data.cluster!r}; a rubric tells at most {MAX_CLUSTERS} apart"
        )
    return found


def training_order(prompts: tuple[str, ...], count: int, seed: int) -> list[str]:
    """``count`` prompts in training order: epoch after epoch, each shuffled anew by ``seed``.

    One long list, so that a resumed run continues in it at the position where it was.
    """
    shuffler, order = random.Random(f"order-{seed}"), list[str]()
    while len(order) < count:
        order += shuffler.sample(prompts, len(prompts))
    return order[:count]


def _made(function: Callable[..., Any], part: str, source: str) -> list[Row]:
    """The rows that a function of the user's gives for one part."""
    try:
        rows: list[Any] = list(function(part))
    except TypeError as error:
        raise TaskError(f"{source}: must take 'train' or 'held_out' and give rows ({error})") from error
    if not all(isinstance(row, dict) for row in rows):
        raise TaskError(f'{source}: each row must be a mapping such as {{"prompt": "…"}}')
    return rows


def file_rows(path: Path) -> Iterator[Row]:
    """The rows of a jsonl, csv or parquet file.

    Raises:
        TaskError: There is no such file, it is of another kind, or one of its rows is malformed; says which.
    """
    if path.suffix not in SUFFIXES:
        raise TaskError(f"{path}: give a .jsonl, .csv or .parquet file, or the id of a hub data set")
    if not path.is_file():
        raise TaskError(f"{path}: no such file")
    return {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}[path.suffix](path)


def responses(path: Path, needs_prompt: bool = True) -> Iterator[tuple[int, Row, str]]:
    """The rows of a file of responses, numbered from 1.

    Args:
        path: A .jsonl, .csv or .parquet file.
        needs_prompt: Whether each must have a text in ``prompt``.

    Returns:
        Number, row as it stands, and its text in ``response`` or ``completion``.

    Raises:
        TaskError: The file cannot be read, or a row lacks one of the texts; says which.
    """
    for number, row in enumerate(file_rows(path), start=1):
        response = row.get("response", row.get("completion"))
        if not isinstance(response, str) or (needs_prompt and not isinstance(row.get("prompt"), str)):
            texts = "texts in 'prompt' and in 'response'" if needs_prompt else "a text in 'response'"
            raise TaskError(f"{path}: row {number} must have {texts} or 'completion'")
        yield number, row, response


def cluster_of(row: Row, data: DataSource) -> str:
    """The kind of a row of responses: in the task's column, or in one called so; empty where it has none."""
    return str(row.get(data.cluster or "cluster") or "")


def _rows(source: str, split: str) -> Iterator[Row]:
    path = Path(source).expanduser()
    return file_rows(path) if path.suffix in SUFFIXES or path.exists() else _hub(source, split)


def _jsonl(path: Path) -> Iterator[Row]:
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise TaskError(f"{path}:{number}: not JSON ({error})") from error
                if not isinstance(row, dict):
                    raise TaskError(f'{path}:{number}: must be an object such as {{"prompt": "…"}}')
                yield row  # pyright: ignore[reportUnknownVariableType]


def _csv(path: Path) -> Iterator[Row]:
    with _opened(path) as file:
        try:
            yield from csv.DictReader(file)
        except csv.Error as error:
            raise TaskError(f"{path}: not a csv file ({error})") from error


@contextmanager
def _opened(path: Path) -> Generator[TextIO]:
    """A text file in UTF-8, with or without the mark that spreadsheets put first."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: cannot be read ({error}); save it as UTF-8") from error


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet as parquet  # pyright: ignore[reportMissingTypeStubs]

    try:
        yield from parquet.read_table(path).to_pylist()  # pyright: ignore
    except (OSError, ValueError) as error:
        raise TaskError(f"{path}: not a parquet file ({error})") from error


def _hub(source: str, split: str) -> Iterator[Row]:
    go_offline_without_hub()
    import datasets  # pyright: ignore[reportMissingTypeStubs]

    datasets.disable_progress_bars()  # pyright: ignore
    try:
        yield from datasets.load_dataset(source, split=split)  # pyright: ignore
    except (OSError, ValueError, RuntimeError) as error:
        raise TaskError(
            f"data {source!r}: cannot be had from the hub ({type(error).__name__}); "
            "give local prompts by --data FILE.jsonl and a local model by --policy DIR"
        ) from error
