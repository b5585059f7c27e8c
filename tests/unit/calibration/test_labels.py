"""Labelled files: scores and winners in the forms that people have."""

import json
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.calibration.labels import Columns, LabelledData, read_labelled
from mpo_lite.errors import TaskError
from mpo_lite.tasks.spec import load_task


def read(tmp_path: Path, rows: list[dict[str, Any]], columns: Columns | None = None) -> LabelledData:
    path = tmp_path / "labelled.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_labelled(path, columns or Columns(), load_task("essay"))


def pair(number: int, **more: Any) -> dict[str, Any]:
    return {"prompt": f"question {number}", "response_a": "one", "response_b": "other", **more}


@pytest.mark.parametrize(
    ("winner", "label"),
    [
        ("a", 1.0), ("B", 0.0), ("tie", 0.5), ("model_a", 1.0), ("model_b", 0.0), ("tie (bothbad)", 0.5),
        ("gpt", 1.0), ("claude", 0.0), ("response_b", 0.0),
    ],
)  # fmt: skip
def test_a_winner_is_a_side_or_a_name(winner: str, label: float, tmp_path: Path) -> None:
    rows = [pair(n, model_a="gpt", model_b="claude", winner=winner) for n in range(4)]
    data = read(tmp_path, rows)
    assert data.kind == "pairs" and [row.label for row in data.rows] == [label] * 4
    assert data.rows[0].authors == ("gpt", "claude")
    assert [answer.completion for answer in data.rows[0].answers] == ["one", "other"]


def test_rows_without_a_label_are_counted_and_prompts_put_together(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {n % 2}", "completion": f"{n}", "stars": n} for n in range(4)]
    data = read(tmp_path, [*rows, {"prompt": "q", "completion": "", "stars": None}], Columns("stars"))
    assert data.kind == "scores" and data.unlabelled == 1
    assert [row.label for row in data.rows] == [0, 2, 1, 3] and [row.number for row in data.rows] == [
        1,
        3,
        2,
        4,
    ]


def test_columns_of_other_names_are_named(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"question {n}", "left": "one", "right": "other", "by_l": "x", "by_r": "y", "best": "y"}
        for n in range(4)
    ]
    data = read(tmp_path, rows, Columns("best", ("left", "right"), ("by_l", "by_r")))
    assert data.kind == "pairs" and data.rows[0].label == 0.0 and data.rows[0].authors == ("x", "y")


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        ([{"prompt": "p", "text": "t"}], Columns("stars"), "row 1 has neither 'response'"),
        ([{"prompt": "p", "response": "t"}], Columns(), "name the column of the score with --labels"),
        ([{"prompt": "p", "response": "t"}], Columns("stars"), "row 1 has no column 'stars'"),
        ([{"prompt": "p", "response": "t", "stars": "good"}], Columns("stars"), "must be a number, or empty"),
        ([pair(1)], Columns(), "row 1 has no column 'winner'; name the column"),
        ([pair(1, winner="left")], Columns(), "'winner' must be 'a', 'b', 'tie', 'model_a' or 'model_b'"),
        ([pair(1, winner="a", response_b=3)], Columns(), "'response_b' must be text"),
        ([pair(1, winner="a")] * 5, Columns(), "at least 4 labelled rows with two different prompts"),
        ([], Columns("stars"), "contains no rows"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said(
    rows: list[dict[str, Any]], columns: Columns, said: str, tmp_path: Path
) -> None:
    with pytest.raises(TaskError) as refusal:
        read(tmp_path, rows, columns)
    assert said in str(refusal.value)
