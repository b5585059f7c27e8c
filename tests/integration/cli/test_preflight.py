"""``try`` tells whether a judge and a rubric can train: sound, indifferent, fickle, paid by
anything, broken.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.cli.main import main
from tests.support.llm_server import LLMServer, completion_of, kind_of, prompt_text


def tried(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, server: LLMServer, *more: str, meta: bool = False
) -> tuple[int, Any]:
    rows = [
        {"prompt": f"Write about topic {n // 4}.", "response": f"Some {'good ' * (n % 4)}words. " * 5}
        for n in range(8)
    ]
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"topic {n}"}) + "\n" for n in range(9)))
    models = f"--judge openai/m --judge-api-base {server.url} -o judge_price=[1,2]"
    models += f" --meta openai/n --meta-api-base {server.url}" if meta else " --baseline iter0"
    places = f"--data {data} --cache-dir {tmp_path / 'cache'} --responses {file}"
    try:
        code = main(["try", *f"{models} {places}".split(), *more]) or 0
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    out = capsys.readouterr().out
    return code, json.loads(out.splitlines()[-1]) if "--json" in more else out


def level(of: Any) -> Any:
    """A judge that gives the level ``of`` says: of a completion and of how often it was asked."""
    calls: list[str] = []

    def fault(kind: str, body: Any) -> str | None:
        if kind_of(prompt_text(body)) != "judge":
            return None
        calls.append(completion_of(body))
        told = {"reason": "It is so.", "level": of(calls[-1], calls.count(calls[-1]))}
        return json.dumps({"discourse": told})

    return fault


def good(text: str, times: int) -> int:
    """A level by what is good in an answer of ours, and 0 for any other."""
    return min(2, 1 + text.count("good") // 8) if text.startswith("Some") else 0


def test_a_sound_judge_can_train(tmp_path: Path, capsys: Any) -> None:
    with LLMServer(level(good)) as server:
        code, found = tried(capsys, tmp_path, server, "-o", "gate.margin=0.0", "--json")
    assert (code, found["problems"]) == (0, []) and found["judged"] == 8
    assert found["spread"] > 0.05 and found["repeat_difference"] == 0
    assert found["usd_per_answer"] > 0 and found["usd_run"][0] > 0 and found["calls"] >= 8
    assert found["scores"][0]["criteria"]["discourse"]["reason"] == "It is so."


def test_a_judge_that_tells_nothing_apart_cannot(tmp_path: Path, capsys: Any) -> None:
    with LLMServer(level(lambda text, call: 3)) as server:
        code, said = tried(capsys, tmp_path, server)
    assert code == 1
    assert "✗ scores barely differ within a prompt (0.000)" in said
    assert (
        "✗ known-bad answers score as high as honest ones, or higher: a title without any text under it"
        in said
    )
    assert "Based on only 8 answers to 2 prompts; use -n 32 for a more reliable result." in said


def test_a_judge_that_differs_with_itself_cannot(tmp_path: Path, capsys: Any) -> None:
    with LLMServer(level(lambda text, times: good(text, times) + 3 * (times > 1))) as server:
        code, found = tried(capsys, tmp_path, server, "--json")
    assert code == 1 and found["repeat_difference"] > found["spread"] > 0
    assert "two judgements of one answer differ" in found["problems"][0]


def test_a_judge_that_fails_cannot(tmp_path: Path, capsys: Any) -> None:
    with LLMServer(lambda kind, body: None if kind == "check" else "No.") as server:
        code, found = tried(capsys, tmp_path, server, "--json")
    assert code == 1 and found["reward"] is None
    (problem,) = found["problems"]
    assert problem.startswith(
        "8 answers, none judged: 8 malformed, more than --max-judge-failures 0.05 allows; "
    )
    assert "the first: openai/m gave no usable answer" in problem


def test_what_the_judge_answers_in_place_of_a_verdict_is_shown(tmp_path: Path, capsys: Any) -> None:
    answer = json.dumps({"discourse": {"reason": "Nice.", "level": "high"}})
    with LLMServer(lambda kind, body: None if kind == "check" else answer) as server:
        code, said = tried(capsys, tmp_path, server)
        _, found = tried(capsys, tmp_path, server, "--json")
    assert code == 1
    for text in (said, found["scores"][0]["failure"]):
        assert "discourse: the level must be a whole number from 0 to" in text
        assert f"the reply began: {answer}" in text


def test_the_meta_judge_does_one_step_on_the_judged_answers(tmp_path: Path, capsys: Any) -> None:
    with LLMServer(level(good)) as server:
        code, found = tried(capsys, tmp_path, server, "-o", "gate.margin=0.0", "--json", meta=True)
        assert [len(server.prompts(kind)) for kind in ("analyse", "refine", "merge")] == [4, 4, 1]
        _, said = tried(capsys, tmp_path, server, "-o", "gate.margin=0.0", meta=True)
    assert (code, found["problems"], found["meta_calls"]) == (0, [], 9)
    step = found["meta_step"]
    (added,) = step["added"]
    assert not step["failed"] and step["dropped"] == ["discourse"]
    assert (
        f"  + {added}: Whether sign" in said
        and "  - discourse: " in said
        and "not checked by the gate" in said
    )


def test_a_meta_judge_that_is_too_weak_is_a_problem(tmp_path: Path, capsys: Any) -> None:
    judge = level(good)

    def fault(kind: str, body: Any) -> Any:
        return judge(kind, body) if kind in ("judge", "check", "analyse") else "A list of things."

    with LLMServer(fault) as server:
        code, said = tried(capsys, tmp_path, server, "-o", "gate.margin=0.0", meta=True)
    assert code == 1
    assert "✗ the meta step failed: refining failed for 4 of 4 samples: openai/n gave no usable" in said


def test_a_meta_judge_that_changes_nothing_is_told(tmp_path: Path, capsys: Any) -> None:
    judge = level(good)

    def fault(kind: str, body: Any) -> Any:
        return '{"criteria": []}' if kind == "refine" else judge(kind, body)

    with LLMServer(fault) as server:
        code, said = tried(capsys, tmp_path, server, "-o", "gate.margin=0.0", meta=True)
    assert code == 0 and "  the meta-judge keeps the rubric as it is" in said


def test_a_rubric_that_pays_for_nothing_is_told_from_one_that_pays_for_anything(
    tmp_path: Path, capsys: Any
) -> None:
    with LLMServer(level(lambda text, times: 0)) as server:
        code, said = tried(capsys, tmp_path, server)
    assert code == 1 and "✗ the rubric rewards none of these answers: all 8 answers scored 0\n" in said
    assert "known-bad" not in said and said.count("✗") == 1


def test_what_a_known_bad_answer_earns_stands_beside_what_honest_ones_do(tmp_path: Path, capsys: Any) -> None:
    with LLMServer(level(lambda text, times: good(text, times) if text.startswith("Some") else 5)) as server:
        code, found = tried(capsys, tmp_path, server, "--json")
        assert code == 1 and found["sentinel_margins"]["title"] < 0
        (paid,) = found["problems"]
        assert paid.startswith("known-bad answers score as high as honest ones, or higher: ")
        assert "a title without any text under it (1.00, honest ones 0." in paid
        # A meta-judge is there to mend that: it is no reason not to train.
        code, found = tried(capsys, tmp_path, server, "--json", meta=True)
        assert (code, found["problems"], found["weaknesses"]) == (0, [], [paid])
        _, said = tried(capsys, tmp_path, server, meta=True)
    assert f"– {paid}\n" in said and "the meta-judge can fix what" in said and "✗" not in said


def test_a_rule_that_gives_all_answers_nothing_is_named(tmp_path: Path, capsys: Any) -> None:
    with LLMServer(level(good)) as server:
        code, said = tried(capsys, tmp_path, server, "--task", "ethics")
        assert server.prompts("judge") == []
    assert code == 1
    assert (
        "a rule of the task scores all 8 answers 0 before the judge sees them; mpo-lite tasks ethics" in said
    )


@pytest.mark.parametrize("task", ["essay", "math"])
def test_answers_of_a_file_need_no_data(
    task: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task names a data set of the hub, which is out of reach."""
    monkeypatch.setattr("mpo_lite.tasks.data._read_hub_dataset", lambda *_: pytest.fail("the hub was asked"))
    file = tmp_path / "answers.jsonl"
    rows = [{"prompt": f"topic {n}", "response": f"Some good words on {n}. " * (n + 8)} for n in range(9)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with LLMServer() as server:
        models = f"--judge openai/m --judge-api-base {server.url} --baseline iter0 --task {task}"
        places = f"--cache-dir {tmp_path / 'cache'} --responses {file} --json -n 9 --max-judge-failures 1"
        main(["try", *f"{models} {places}".split()])
    found = json.loads(capsys.readouterr().out)
    assert (found["answers"], found["prompts"], found["spread"]) == (9, 9, None)


def test_of_one_answer_a_prompt_nobody_knows_whether_they_are_told_apart(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "answers.jsonl"
    rows = [{"prompt": f"topic {n}", "response": f"Some good words on {n}."} for n in range(8)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with LLMServer(level(lambda text, times: 3 if text.startswith("Some") else 0)) as server:
        models = f"--judge openai/m --judge-api-base {server.url} --baseline iter0 -o gate.margin=0"
        assert not main(["try", *f"{models} --cache-dir {tmp_path / 'c'} --responses {file}".split()])
    said = capsys.readouterr().out
    assert "no problem found, but no prompt has two answers" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "answers.jsonl: no such file"),
        ('{"prompt": "p", "response": "r"}\n' * 4, "answers to at least two prompts are needed"),
    ],
)
def test_a_file_that_cannot_be_judged_is_named(
    text: str | None, said: str, tmp_path: Path, capsys: Any
) -> None:
    file = tmp_path / "answers.jsonl"
    if text:
        file.write_text(text)
    with pytest.raises(SystemExit, match="2"):
        main(["try", "--judge", "openai/m", "--baseline", "iter0", "--responses", str(file)])
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["try", "estimate"])
def test_settings_that_do_not_matter_are_taken_and_not_listed(command: str, capsys: Any) -> None:
    main([command, "--help"])
    said = capsys.readouterr().out
    assert "--judge" in said and "--data" in said
    assert not [flag for flag in ("--lora-r", "--report-to", "--use-vllm", "--bf16") if flag in said]
    with pytest.raises(SystemExit, match="2"):
        main([command, "--lora-r", "8"])
    assert "no judge" in capsys.readouterr().err
