"""``try`` tells whether a judge and a rubric can train: sound, indifferent, fickle, paid by
anything, broken.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from llm_server import LLMServer, completion_of, kind_of, prompt_text

from mpo_lite.cli.main import main


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
    assert "✗ scores hardly differ within a prompt (0.000)" in said
    assert "✗ the rubric pays for a title without any text under it (margin +0.00)" in said


def test_a_judge_that_differs_with_itself_cannot(tmp_path: Path, capsys: Any) -> None:
    with LLMServer(level(lambda text, times: good(text, times) + 3 * (times > 1))) as server:
        code, found = tried(capsys, tmp_path, server, "--json")
    assert code == 1 and found["repeat_difference"] > found["spread"] > 0
    assert "two judgements of one answer differ" in found["problems"][0]


def test_a_judge_that_fails_cannot(tmp_path: Path, capsys: Any) -> None:
    with LLMServer(lambda kind, body: None if kind == "check" else "No.") as server:
        code, found = tried(capsys, tmp_path, server, "--json")
    assert code == 1 and found["reward"] is None and "100% of the judgements failed" in found["problems"][0]


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
    assert f"  + {added}: Whether sign" in said and "  - discourse: " in said and "no gate" in said


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


def test_fresh_answers_of_the_policy_are_judged(tmp_path: Path, capsys: Any) -> None:
    main(["try", "--judge", "sandbox", "--meta", "sandbox", "--policy", "sandbox", "--task", "sandbox",
          "--cache-dir", str(tmp_path), "--json"])  # fmt: skip
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    texts = [row["response"] for row in found["scores"]]
    assert len(texts) == 8 and len(set(texts)) > 4 and len({row["prompt"] for row in found["scores"]}) == 2
    assert found["simulated_judge"] and set(found["sentinel_margins"]) >= {"title", "injection"}
