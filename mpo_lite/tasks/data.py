"""Prompts from the Hub, or from jsonl, csv and parquet files: rows with a column that contains the prompt.

Data is only ever read: nothing that it names is imported or called.
"""

from __future__ import annotations

import csv
import json
import math
import random
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any, TextIO, cast

from mpo_lite.activity import activity
from mpo_lite.config import DATA_ENDINGS
from mpo_lite.errors import TaskError
from mpo_lite.rubric import MAX_CLUSTERS
from mpo_lite.sanitize import pluralize
from mpo_lite.tasks import hub
from mpo_lite.tasks.spec import DataSource
from mpo_lite.types import text_hash

Row = dict[str, Any]
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
_COLUMN_HINT = "; name the column of the prompt with --prompt-column"
MOST_HELD_OUT = 64
"""Maximum number of prompts that are held out if the task does not say how many."""


@dataclass(frozen=True)
class Prompts:
    """The prompts of a run.

    Attributes:
        train: Distinct prompts to train on.
        held_out: Prompts for the gold metric and for comparisons; none of them is in ``train``.
        rows: Prompt → its row, with ``prompt``, ``reference`` and ``cluster`` as the task maps them.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    rows: Mapping[str, Row] = field(default_factory=dict[str, Row])

    def row(self, prompt: str) -> Row:
        """The row of a prompt; for one that is not in the data, a row with the prompt alone."""
        return self.rows.get(prompt, {"prompt": prompt})

    def cluster(self, prompt: str) -> str:
        """The cluster of a prompt; empty if the task has no clusters."""
        return str(self.row(prompt).get("cluster") or "")


def load_prompts(data: DataSource) -> Prompts:
    """Reads all prompts and separates the held-out ones.

    Which prompts are held out depends on their text alone, so runs with any seed hold out the same ones.

    Args:
        data: The task's data source.

    Raises:
        TaskError: The source cannot be read, or has no such column or too few rows.
    """
    source = data.source
    if source is None:
        raise TaskError("the task has no data: pass prompts with --data FILE.jsonl")
    rows = _load_rows(source, data)
    texts = list(dict.fromkeys(row["prompt"] for row in rows))
    if len(texts) < 2:
        raise TaskError(f"{source}: {pluralize(len(texts), 'distinct prompt')}; at least 2 are needed")
    if data.held_out_source is not None:
        held_out_rows = _load_rows(data.held_out_source, data)
        held_out = tuple(dict.fromkeys(row["prompt"] for row in held_out_rows))
        if shared := set(texts) & set(held_out):
            raise TaskError(
                f"{data.held_out_source}: {pluralize(len(shared), 'prompt')} also in {source}; held-out "
                "prompts must not be trained on"
            )
        return Prompts(tuple(texts), held_out, _index_by_prompt([*rows, *held_out_rows], data, source))
    count = _held_out_count(data, texts)
    # By hash: the split depends on the texts, not on their order in the file.
    texts = sorted(texts, key=text_hash)
    return Prompts(tuple(texts[count:]), tuple(texts[:count]), _index_by_prompt(rows, data, source))


def _load_rows(source: str, data: DataSource) -> list[Row]:
    with activity(f"loading data {source}"):
        return map_columns(_read_source(source, data), data, source, _COLUMN_HINT)


def _held_out_count(data: DataSource, texts: Sequence[str]) -> int:
    """How many prompts are held out."""
    if data.held_out is None:
        return min(MOST_HELD_OUT, len(texts) // 5)
    if data.held_out > len(texts) - 2:
        raise TaskError(
            f"{data.source}: held_out {data.held_out} of {pluralize(len(texts), 'distinct prompt')} leaves "
            "fewer than 2 to train on; lower held_out"
        )
    return data.held_out


def map_columns(rows: Iterable[Row], data: DataSource, source: str, hint: str = "") -> list[Row]:
    """Adds ``prompt``, ``reference`` and ``cluster`` to rows, as the task maps them.

    Args:
        rows: The rows as read.
        data: Names the columns.
        source: Where they come from, for errors.
        hint: Appended to the error about a missing prompt column.

    Raises:
        TaskError: A row lacks a column, or its prompt is not text; says which.
    """
    return [_map_row(row, data, f"{source}: row {number}", hint) for number, row in enumerate(rows, start=1)]


def _map_row(row: Row, data: DataSource, where: str, hint: str) -> Row:
    mapped = dict(row)
    template = Template(data.prompt)
    names = template.get_identifiers() if "$" in data.prompt else [data.prompt]
    texts = {name: _text_value(row, name, where, hint) for name in names}
    mapped["prompt"] = template.safe_substitute(texts) if "$" in data.prompt else texts[data.prompt]
    if data.reference is not None:
        mapped["reference"] = _column_value(row, data.reference, where)
    if data.cluster is not None:
        mapped["cluster"] = _text_value(row, data.cluster, where)
    return mapped


def _text_value(row: Row, column: str, where: str, hint: str = "") -> str:
    text = _column_value(row, column, where, hint)
    if not isinstance(text, str) or not text.strip():
        raise TaskError(f"{where}: {column!r} must be non-empty text")
    return text.strip()


def _column_value(row: Row, path: str, where: str, hint: str = "") -> Any:
    """The value of a column, or of a dotted path into a nested one."""
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            raise TaskError(f"{where} has no column {path!r}; available: {', '.join(row)}{hint}")
        value = cast(Row, value)[part]
    return value


def _index_by_prompt(rows: Iterable[Row], data: DataSource, source: str) -> dict[str, Row]:
    """Prompt → row; the first of several rows with the same prompt."""
    by_prompt: dict[str, Row] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt"], row)
    clusters = len({row["cluster"] for row in by_prompt.values()}) if data.cluster else 0
    if clusters > MAX_CLUSTERS:
        raise TaskError(
            f"{source}: {clusters} clusters in {data.cluster!r}; a rubric has at most {MAX_CLUSTERS}"
        )
    return by_prompt


def training_order(prompts: tuple[str, ...], count: int, seed: int) -> list[str]:
    """``count`` prompts in training order: epoch after epoch, each shuffled again.

    One long list that depends on the seed alone, so that a resumed run continues at its position in it.
    """
    shuffler, order = random.Random(f"order-{seed}"), list[str]()
    while len(order) < count:
        order += shuffler.sample(prompts, len(prompts))
    return order[:count]


def read_data_file(path: Path) -> Iterator[Row]:
    """Reads the rows of a jsonl, csv or parquet file.

    Raises:
        TaskError: The file is missing or of another kind, or one of its rows is malformed; says which.
    """
    if path.suffix not in DATA_ENDINGS:
        raise TaskError(f"{path}: must be a .jsonl, .csv or .parquet file, or a Hub dataset ID")
    if not path.is_file():
        raise TaskError(f"{path}: no such file")
    return {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}[path.suffix](path)


def read_responses(path: Path, needs_prompt: bool = True) -> Iterator[tuple[int, Row, str]]:
    """Reads the rows of a file of responses.

    Args:
        path: A .jsonl, .csv or .parquet file.
        needs_prompt: Whether each row must have text in ``prompt``.

    Returns:
        Row number from 1, the row, and its text in ``response`` or ``completion``.

    Raises:
        TaskError: The file cannot be read, or a row lacks one of the texts; says which.
    """
    for number, row in enumerate(read_data_file(path), start=1):
        response = row.get("response", row.get("completion"))
        if not isinstance(response, str) or (needs_prompt and not isinstance(row.get("prompt"), str)):
            texts = "text in 'prompt' and in 'response'" if needs_prompt else "text in 'response'"
            raise TaskError(f"{path}: row {number} must have {texts} or 'completion'")
        yield number, row, response


def map_response(row: Row, data: DataSource, where: str) -> Row:
    """Adds ``prompt``, ``reference`` and ``cluster`` to a row of responses.

    The prompt is in the column ``prompt``, or in the columns that the task's own data have.

    Args:
        row: The row as read.
        data: Names the columns.
        where: Names the row in errors.

    Raises:
        TaskError: The prompt is missing or not text.
    """
    columns = {"cluster": None, "reference": response_reference_column(row, data)}
    columns |= {"prompt": "prompt"} if "prompt" in row else {}
    mapped = map_columns([row], data.model_copy(update=columns), where)[0]
    return mapped | {"cluster": response_cluster(row, data)}


def parse_label(row: Row, column: str, where: str) -> float | None:
    """The number in a column of labels; None where it is empty.

    Args:
        row: A row of responses.
        column: The column.
        where: Names the row in errors.

    Raises:
        TaskError: There is no such column, or it holds something else.
    """
    if column not in row:
        raise TaskError(f"{where} has no column {column!r}; it has: {', '.join(map(str, row))}")
    value = row[column]
    if value is None or value == "":
        return None
    try:
        label = float(value)
    except (TypeError, ValueError):
        label = math.nan
    if not math.isfinite(label):
        raise TaskError(f"{where}: {column!r} must be a number, or empty")
    return label


def response_cluster(row: Row, data: DataSource) -> str:
    """The cluster of a row of responses: from the task's column, or one called ``cluster``; empty if none."""
    return str(row.get(data.cluster or "cluster") or "")


def response_reference(row: Row, data: DataSource) -> Any:
    """The reference of a row of responses: from the task's column, or one called ``reference``; None if
    none.
    """
    column = response_reference_column(row, data)
    return _column_value(row, column, "a row of the responses") if column else None


def response_reference_column(row: Row, data: DataSource) -> str | None:
    """The column of ``response_reference``; None where there is none."""
    names = [data.reference, "reference"] if data.reference else []
    return next((name for name in names if name.split(".")[0] in row), None)


def _read_source(source: str, data: DataSource) -> Iterator[Row]:
    path = Path(source).expanduser()
    return (
        read_data_file(path)
        if path.suffix in DATA_ENDINGS or path.exists()
        else _read_hub_dataset(source, data)
    )


def _read_jsonl(path: Path) -> Iterator[Row]:
    with _open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise TaskError(f"{path}:{number}: not JSON ({error})") from error
                if not isinstance(row, dict):
                    raise TaskError(f'{path}:{number}: must be an object such as {{"prompt": "…"}}')
                yield row  # pyright: ignore[reportUnknownVariableType]


def _read_csv(path: Path) -> Iterator[Row]:
    with _open_text(path) as file:
        reader = csv.DictReader(file)
        try:
            names = reader.fieldnames or ()
            if len(names) == 1 and (separator := next((sign for sign in ";\t" if sign in names[0]), "")):
                name = {"\t": "tabs"}.get(separator, f"'{separator}'")
                raise TaskError(f"{path}: columns are separated by {name}; save it with commas")
            for number, row in enumerate(reader, start=1):
                if None in row:
                    raise TaskError(f"{path}: row {number} has more fields than the header has columns")
                yield row
        except csv.Error as error:
            raise TaskError(f"{path}: not a csv file ({error})") from error


@contextmanager
def _open_text(path: Path) -> Generator[TextIO]:
    """Opens a UTF-8 text file, with or without the byte order mark that spreadsheets write."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: cannot be read ({error}); save it as UTF-8") from error


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet as parquet  # pyright: ignore[reportMissingTypeStubs]

    try:
        yield from parquet.read_table(path).to_pylist()  # pyright: ignore
    except (OSError, ValueError) as error:
        raise TaskError(f"{path}: not a parquet file ({error})") from error


def _read_hub_dataset(source: str, data: DataSource) -> Iterator[Row]:
    if not _HUB_ID.fullmatch(source):
        raise TaskError(f"data {source!r}: neither a file nor a Hub dataset ID such as me/prompts")
    import datasets  # pyright: ignore[reportMissingTypeStubs]

    datasets.disable_progress_bars()  # pyright: ignore
    try:
        with hub.offline_datasets() if hub.is_local_only(source) else nullcontext():
            yield from datasets.load_dataset(source, data.subset, split=data.split)  # pyright: ignore
    except ValueError as error:  # an unknown subset or split, or a missing one
        problem = " ".join(str(error).split())[:300]
        raise TaskError(f"data {source!r}: {problem}; check --data-subset and --data-split") from error
    except (OSError, RuntimeError) as error:
        raise TaskError(
            f"data {source!r}: could not be downloaded from the Hub ({hub.explain_missing()}); "
            "use local prompts (--data FILE.jsonl) and a local model (--policy DIR)"
        ) from error
