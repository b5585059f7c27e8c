"""Rows of a data set become prompts."""

import pytest

from mpo_lite.errors import TaskError
from mpo_lite.sandbox.data import prompts as sandbox_prompts
from mpo_lite.tasks.data import load_prompts, map_columns
from mpo_lite.tasks.spec import DataSource, load_task
from tests.support.task_rows import ROWS


def test_columns_are_mapped_and_missing_ones_named() -> None:
    source = DataSource(prompt="$context\n\nQuestion: $question", reference="answers.text", cluster="title")
    row = map_columns([ROWS["qa"](3)], source, "f")[0]
    assert row["prompt"] == "There are 3 dogs.\n\nQuestion: How many?"
    assert (row["reference"], row["cluster"]) == (["3"], "Dogs")
    with pytest.raises(TaskError, match=r"f: row 2 has no column 'question'; available: context"):
        map_columns([ROWS["qa"](3), {"context": "c"}], source, "f")
    with pytest.raises(TaskError, match=r"has no column 'answers.texts'"):
        map_columns([ROWS["qa"](3)], source.model_copy(update={"reference": "answers.texts"}), "f")


def test_the_sandboxs_prompts_are_those_it_makes() -> None:
    prompts = load_prompts(load_task("sandbox").data)
    made = {split: tuple(row["prompt"] for row in sandbox_prompts(split)) for split in ("train", "held_out")}
    assert {"train": prompts.train, "held_out": prompts.held_out} == made
