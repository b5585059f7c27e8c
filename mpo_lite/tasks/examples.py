"""Files of labelled examples that judges are shown; ``mpo-lite calibrate`` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from mpo_lite.errors import TaskError
from mpo_lite.jsonl import append_rows
from mpo_lite.tasks.data import read_data_file
from mpo_lite.types import Example


def load_examples(path: Path) -> tuple[Example, ...]:
    """Reads examples.

    Raises:
        TaskError: The file cannot be read, or a row is no example; says which.
    """
    examples = [_parse_example(row, f"{path}: row {number}")
                for number, row in enumerate(read_data_file(path), start=1)]  # fmt: skip
    if not examples:
        raise TaskError(f"{path}: contains no examples")
    return tuple(examples)


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """Writes examples as ``load_examples`` reads them."""
    append_rows(path, (asdict(example) for example in examples))


def _parse_example(row: dict[str, Any], where: str) -> Example:
    answers = row.get("answers")
    texts = [
        row.get("prompt"),
        row.get("label"),
        *(cast(list[Any], answers) if isinstance(answers, list) else []),
    ]
    if len(texts) not in (3, 4) or not all(isinstance(text, str) for text in texts):
        raise TaskError(f"{where}: must have text in 'prompt' and 'label', and one or two texts in 'answers'")
    prompt, label, *rest = map(str, texts)
    return Example(prompt, tuple(rest), label)
