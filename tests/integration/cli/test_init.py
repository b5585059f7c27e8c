"""``mpo-lite init``: a first task, changed by its user."""

from pathlib import Path
from typing import Any

import pytest

from mpo_lite.cli.main import main
from mpo_lite.jsonl import read_rows
from tests.support.scoring import refused, write


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("purpose: >-", "porpose: >-", 'task.yaml:LINE porpose: unknown key, did you mean "purpose"?'),
        ("min_words: 20", "min_words: none", "task.yaml:LINE rules.min_words: "),
        (
            '# must_match: "<answer>.*</answer>"',
            'must_match: "("',
            "task.yaml:LINE rules.must_match: not a valid regular expression",
        ),
        (
            "# gold: my_metrics:quality",
            "gold: my_metrics:quality #",
            "gold: my_metrics.py is not in ",
        ),
        ("# reference: answer ", "reference: answer #", "has no column 'answer'"),
    ],
)
def test_a_wrong_task_file_is_refused_with_its_place(
    old: str, new: str, said: str, tmp_path: Path, capsys: Any
) -> None:
    folder = tmp_path / "mine"
    main(["init", str(folder)])
    text = (folder / "task.yaml").read_text()
    line = text[: text.index(old)].count("\n") + 1
    (folder / "task.yaml").write_text(text.replace(old, new))
    message = refused(capsys, "estimate", "--task", str(folder), "--judge", "gpt-4o", "--baseline", "iter0")
    assert said.replace("LINE", str(line)) in message and "Traceback" not in message


def test_a_metric_beside_the_task_is_used_and_its_failures_are_told(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "mine"
    main(["init", str(folder)])
    text = (folder / "task.yaml").read_text()
    (folder / "task.yaml").write_text(text.replace("# gold: my_metrics:quality", "gold: own_metric:share #"))
    code = "def share(completion, row):\n    return len(completion) / 100\n"
    (folder / "own_metric.py").write_text(code)
    data = write(tmp_path / "in.jsonl", [{"prompt": "p", "response": "x" * 50}])
    out = ["--out", str(tmp_path / "out.jsonl"), "--overwrite"]
    arguments = ["score", "--task", str(folder), "--no-judge", str(data), *out]
    main(arguments)
    assert read_rows(tmp_path / "out.jsonl")[0]["gold"] == 0.5
    write(data, [{"prompt": "p", "response": "x" * 500}])
    capsys.readouterr()
    assert "own_metric:share returned 5; it must return a number from 0 to 1" in refused(capsys, *arguments)
