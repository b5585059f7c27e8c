"""Prompts from the hub, or from jsonl, csv and parquet files: rows with a column that holds the prompt.

Data are data: nothing that a source names is ever imported or called.
"""

from __future__ import annotations

import csv
import json
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
_NAME_IT = "; name the column of the prompt with --prompt-column"
MOST_HELD_OUT = 64
"""Prompts that are held out where the task does not say how many."""


@dataclass(frozen=True)
class Prompts:
    """The prompts of a run.

    Attributes:
        train: To train on; distinct.
        held_out: Kept apart for the gold metric and for comparisons; none of them is in ``train``.
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


def load_prompts(data: DataSource) -> Prompts:
    """Reads all prompts and sets the held-out ones apart.

    Which rows are held out depends on their text alone, so runs of any seed keep the same ones apart.

    Args:
        data: Where they are.

    Raises:
        TaskError: The source cannot be read, or has no such column or too few rows.
    """
    source = data.source
    if source is None:
        raise TaskError("the task has no data: pass prompts with --data FILE.jsonl")
    rows = _read(source, data)
    texts = list(dict.fromkeys(row["prompt"] for row in rows))
    if len(texts) < 2:
        raise TaskError(f"{source}: {pluralize(len(texts), 'distinct prompt')}; at least 2 are needed")
    if data.held_out_source is not None:
        apart = _read(data.held_out_source, data)
        held_out = tuple(dict.fromkeys(row["prompt"] for row in apart))
        if both := set(texts) & set(held_out):
            raise TaskError(
                f"{data.held_out_source}: {pluralize(len(both), 'prompt')} also in {source}; held-out "
                "prompts must not be trained on"
            )
        return Prompts(tuple(texts), held_out, _by_prompt([*rows, *apart], data, source))
    count = _held_out(data, texts)
    texts = sorted(texts, key=text_hash)
    return Prompts(tuple(texts[count:]), tuple(texts[:count]), _by_prompt(rows, data, source))


def _read(source: str, data: DataSource) -> list[Row]:
    with activity(f"loading data {source}"):
        return mapped(_rows(source, data), data, source, _NAME_IT)


def _held_out(data: DataSource, texts: Sequence[str]) -> int:
    """How many prompts are kept out of training."""
    if data.held_out is None:
        return min(MOST_HELD_OUT, len(texts) // 5)
    if data.held_out > len(texts) - 2:
        raise TaskError(
            f"{data.source}: held_out {data.held_out} of {pluralize(len(texts), 'distinct prompt')} leaves "
            "fewer than 2 to train on; lower held_out"
        )
    return data.held_out


def mapped(rows: Iterable[Row], data: DataSource, source: str, mend: str = "") -> list[Row]:
    """The rows, with ``prompt``, ``reference`` and ``cluster`` as the task maps them beside their columns.

    Args:
        rows: As they were read.
        data: Names the columns.
        source: Where they come from, for errors.
        mend: What to say where the column of the prompt is missing.

    Raises:
        TaskError: A row lacks a column, or its prompt is no text; says which.
    """
    return [_mapped(row, data, f"{source}: row {number}", mend) for number, row in enumerate(rows, start=1)]


def _mapped(row: Row, data: DataSource, where: str, mend: str) -> Row:
    told = dict(row)
    template = Template(data.prompt)
    names = template.get_identifiers() if "$" in data.prompt else [data.prompt]
    texts = {name: _text(row, name, where, mend) for name in names}
    told["prompt"] = template.safe_substitute(texts) if "$" in data.prompt else texts[data.prompt]
    if data.reference is not None:
        told["reference"] = _column(row, data.reference, where)
    if data.cluster is not None:
        told["cluster"] = _text(row, data.cluster, where)
    return told


def _text(row: Row, column: str, where: str, mend: str = "") -> str:
    text = _column(row, column, where, mend)
    if not isinstance(text, str) or not text.strip():
        raise TaskError(f"{where}: {column!r} must be non-empty text")
    return text.strip()


def _column(row: Row, path: str, where: str, mend: str = "") -> Any:
    """A column, or what a dotted path leads to within one."""
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            raise TaskError(f"{where} has no column {path!r}; available: {', '.join(row)}{mend}")
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
            f"{source}: {kinds} clusters in {data.cluster!r}; a rubric distinguishes at most {MAX_CLUSTERS}"
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


def file_rows(path: Path) -> Iterator[Row]:
    """The rows of a jsonl, csv or parquet file.

    Raises:
        TaskError: There is no such file, it is of another kind, or one of its rows is malformed; says which.
    """
    if path.suffix not in DATA_ENDINGS:
        raise TaskError(f"{path}: must be a .jsonl, .csv or .parquet file, or a Hub dataset ID")
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
            texts = "text in 'prompt' and in 'response'" if needs_prompt else "text in 'response'"
            raise TaskError(f"{path}: row {number} must have {texts} or 'completion'")
        yield number, row, response


def cluster_of(row: Row, data: DataSource) -> str:
    """The kind of a row of responses: in the task's column, or in one called so; empty where it has none."""
    return str(row.get(data.cluster or "cluster") or "")


def _rows(source: str, data: DataSource) -> Iterator[Row]:
    path = Path(source).expanduser()
    return file_rows(path) if path.suffix in DATA_ENDINGS or path.exists() else _from_hub(source, data)


def _jsonl(path: Path) -> Iterator[Row]:
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise TaskError(f"{path}:{number}: not JSON ({error})") from error
                if not isinstance(row, dict):
                    raise TaskError(f'{path}:{number}: must be an object such as {{"prompt": "…"}}')
                yield row  # pyright: ignore[reportUnknownVariableType]


def _csv(path: Path) -> Iterator[Row]:
    with _opened(path) as file:
        reader = csv.DictReader(file)
        try:
            names = reader.fieldnames or ()
            if len(names) == 1 and (sign := next((one for one in ";\t" if one in names[0]), "")):
                told = {"\t": "tabs"}.get(sign, f"'{sign}'")
                raise TaskError(f"{path}: columns are separated by {told}; save it with commas")
            for number, row in enumerate(reader, start=1):
                if None in row:
                    raise TaskError(f"{path}: row {number} has more fields than the header has columns")
                yield row
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


def _from_hub(source: str, data: DataSource) -> Iterator[Row]:
    if not _HUB_ID.fullmatch(source):
        raise TaskError(f"data {source!r}: neither a file nor a Hub dataset ID such as me/prompts")
    import datasets  # pyright: ignore[reportMissingTypeStubs]

    datasets.disable_progress_bars()  # pyright: ignore
    try:
        with hub.cached_datasets() if hub.copies_alone(source) else nullcontext():
            yield from datasets.load_dataset(source, data.subset, split=data.split)  # pyright: ignore
    except ValueError as error:  # a subset or split that it does not have, or one that must be named
        said = " ".join(str(error).split())[:300]
        raise TaskError(f"data {source!r}: {said}; check --data-subset and --data-split") from error
    except (OSError, RuntimeError) as error:
        raise TaskError(
            f"data {source!r}: could not be downloaded from the Hub ({hub.why_missing()}); "
            "use local prompts (--data FILE.jsonl) and a local model (--policy DIR)"
        ) from error
