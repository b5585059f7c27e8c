"""The built-in tasks: each trains on rows of its data set's shape; verifier, rules, columns."""

from pathlib import Path

import pytest

from mpo_lite.cli.main import main
from mpo_lite.errors import TaskError
from mpo_lite.offline import response_sample
from mpo_lite.prompts import prompts_dir
from mpo_lite.tasks.spec import load_task


def names() -> list[str]:
    return sorted(path.parent.name for path in (prompts_dir() / "tasks").glob("*/task.yaml"))


def test_the_papers_tasks_are_there() -> None:
    assert {"essay", "summarization", "ethics", "math", "qa"} <= set(names())


@pytest.mark.parametrize("name", names())
def test_a_built_in_task_is_whole(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    task = load_task(name)
    assert task.rubric.criteria and len(task.expert_rubric.criteria) >= 3
    assert task.policy_messages("do it")[-1]["content"].count("do it") == 1
    assert (task.gold_metric() is None) == (name == "essay")
    main(["tasks", name])
    assert task.description in capsys.readouterr().out


def test_judges_are_told_what_the_policy_is_asked_and_its_limits() -> None:
    shown = load_task("ethics").brief(320).instructions
    asked, limit, form = shown.split("\n\n")[0], *shown.split("\n\n")[-2:]
    assert "in at least 30 words" in asked and "[task]" in shown
    assert limit == "An answer is cut off after 320 tokens (about 240 English words)."
    assert "fewer than 30 words" in form and "<verdict>" in form
    # Answers that come from elsewhere have other limits; a prompt that stands alone needs no words.
    assert "cut off" not in load_task("ethics").brief().instructions
    assert load_task("sandbox").brief().instructions == ""


def test_the_reference_is_shown_where_the_task_says_so_and_never_the_gold_metric(tmp_path: Path) -> None:
    row = {"prompt": "p", "reference": ["a lion", "lions", "a lion"], "gold": 1.0}
    assert load_task("math").shown_reference({"reference": "x = 2"}) == "x = 2"
    assert load_task("qa").shown_reference(row) == "" and load_task("math").shown_reference({}) == ""
    text = 'name: t\ndescription: d\npurpose: p\npersona: You.\ndata: {prompt: q, reference: "$a"}\n'
    (tmp_path / "task.yaml").write_text(text.replace('"$a"', "a") + "judge_sees: [reference]\n")
    assert load_task(str(tmp_path)).shown_reference(row) == "a lion\nlions"
    (tmp_path / "task.yaml").write_text(text.replace(', reference: "$a"', "") + "judge_sees: [reference]\n")
    with pytest.raises(TaskError, match=r"judge_sees lists reference, but data\.reference names no column"):
        load_task(str(tmp_path))
    (tmp_path / "task.yaml").write_text(text.replace('"$a"', "a") + "judge_sees: [gold]\n")
    with pytest.raises(TaskError, match="judge_sees"):
        load_task(str(tmp_path))


def test_a_reference_that_no_judge_sees_need_not_fit_the_tasks_column() -> None:
    row = {"prompt": "Who?", "answers": ["a lion"]}  # the task's own data have answers.text
    assert response_sample(row, "A lion.", load_task("qa")).reference == ""
    assert response_sample({"prompt": "1+1?", "solution": "2"}, "2", load_task("math")).reference == "2"
