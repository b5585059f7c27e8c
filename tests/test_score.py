"""Judging, measuring and comparing without training: score, eval, compare, tasks and init."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from llm_server import LLMServer, kind_of, openai_reply, prompt_text

from mpo_lite.cli.main import main
from mpo_lite.config_sources import load_config
from mpo_lite.jsonl import read_rows
from mpo_lite.sandbox.data import policy_dir
from mpo_lite.sandbox.judge_server import running


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == 2
    return capsys.readouterr().err


def say(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    main(list(arguments))
    return capsys.readouterr().out


def failing(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The last line of a command that ends with exit code 1."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    said = capsys.readouterr()
    assert stopped.value.code == 1
    return said.err.splitlines()[-1]


LONG = "a " * 40
TINY = ["--baseline", "iter0", "--policy", "sandbox", "--steps", "1", "-o", "batch_prompts=2"]
TINY += ["-o", "group_size=2", "-o", "micro_batch=4", "-o", "max_new_tokens=8", "--json"]


def served(server: LLMServer, tmp_path: Path) -> list[str]:
    where = ["--judge-api-base", server.url, "--cache-dir", str(tmp_path / "cache")]
    return ["--judge", "openai/m", *where]


def trained(tmp_path: Path, *flags: str) -> None:
    main(["train", *flags, "--run-dir", str(tmp_path / "run"), *TINY])


def test_without_a_judge_rules_verifier_and_gold_are_told(tmp_path: Path, capsys: Any) -> None:
    rows = [
        {"problem": "1+1?", "solution": r"so \boxed{2}", "response": LONG + r"\boxed{2}", "extra": 7},
        {"problem": "1+2?", "solution": r"so \boxed{3}", "response": LONG + r"\boxed{4}"},
        {"problem": "1+3?", "solution": r"so \boxed{4}", "response": r"\boxed{4}"},
        {"prompt": "1+4?", "response": LONG + r"\boxed{5}"},
    ]
    data, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    main(["score", "--task", "math", "--no-judge", str(data), "--out", str(out), "--json"])
    summary, scored = told(capsys), read_rows(out)
    assert [row["gold"] for row in scored] == [1, 0, 1, None]
    assert [row["reward"] for row in scored] == [1, 0, 0, None]  # the third is too short
    assert [row["rules"] for row in scored] == [{"min_words": True}] * 2 + [
        {"min_words": False},
        {"min_words": True},
    ]
    for given, row in zip(rows, scored, strict=True):
        assert {name: row[name] for name in given} == given and row["criteria"] == {}
    assert summary["rows"] == 4 and summary["rewarded"] == 3 and summary["broken_rules"] == 1
    assert summary["gold"] == pytest.approx(2 / 3)


def test_the_reference_is_found_in_nested_and_in_plain_columns(tmp_path: Path, capsys: Any) -> None:
    nested = {"context": "Two dogs.", "question": "How many?", "answers": {"text": ["2", "two"]}}
    rows = [nested | {"response": "Two."}, {"prompt": "p", "reference": "three", "response": "four"}]
    data, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    main(["score", "--task", "qa", "--no-judge", str(data), "--out", str(out)])
    assert [row["gold"] for row in read_rows(out)] == [1, 0]
    assert "2 rows, 0 with a reward, gold 0.500" in capsys.readouterr().out


def test_responses_are_judged_and_each_row_says_why(tmp_path: Path, capsys: Any) -> None:
    rows = [{"prompt": f"question {n}", "response": f"answer {n}"} for n in range(6)]
    rows += [{"prompt": "question", "completion": ""}]
    data, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"

    def fault(kind: str, body: Any) -> str | None:
        return "No." if kind == "repair" or "answer 3" in prompt_text(body) else None

    with LLMServer(fault) as server:
        flags = served(server, tmp_path)
        main(["score", "--task", "essay", *flags, str(data), "--out", str(out), "--json"])
        summary, asked = told(capsys), len(server.requests)
        scored = read_rows(out)
        main(["score", "--task", "essay", *flags, str(data), "--out", str(out), "--json", "--overwrite"])
        told(capsys)
    assert summary["judge_calls"] >= 6 and summary["rewarded"] == 6 and summary["usd"] is None
    assert scored[3]["reward"] is None and scored[3]["criteria"] == {}  # a failure is no 0
    assert scored[6]["reward"] == 0 and scored[6]["rules"] == {"min_words": False}
    for row in scored[:3]:
        assert 0 <= row["reward"] <= 1 and row["gold"] is None
        assert set(row["criteria"]["discourse"]) == {"level", "reason"}
    assert asked >= 6


def test_a_cap_keeps_what_was_judged(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpo_lite.cli.score.CHUNK", 4)
    data = write(tmp_path / "in.jsonl", [{"prompt": f"q {n}", "response": f"answer {n}"} for n in range(12)])
    out = tmp_path / "out.jsonl"
    with LLMServer() as server:
        flags = served(server, tmp_path)
        with pytest.raises(SystemExit) as stopped:
            main(["score", *flags, "--max-calls", "9", str(data), "--out", str(out)])
        said = capsys.readouterr().err.splitlines()[-1]
        assert stopped.value.code == 3 and "out.jsonl; verdicts so far are cached: run the same" in said
        scored = read_rows(out)
        # One of the nine calls saw whether the judge is there; eight are of rows, wherever the chunks end.
        assert [row["reward"] is not None for row in scored].count(True) == 8 == len(server.requests) - 1
        assert all(row["reward"] is not None for row in scored[:4])
        assert scored[-1]["reward"] is None and scored[-1]["failure"]["kind"] == "stopped"


def test_rows_lost_to_the_server_are_tried_once_more_at_the_end(
    tmp_path: Path, capsys: Any, quick_retries: None
) -> None:
    data = write(tmp_path / "in.jsonl", [{"prompt": f"q {n}", "response": f"answer {n}"} for n in range(9)])
    left = {"answer 3": 5, "answer 7": 99}  # one that comes back, and one that stays lost

    def fault(kind: str, body: Any) -> Any:
        name = next((name for name in left if name in prompt_text(body)), "")
        if left.get(name):
            left[name] -= 1
            return web.Response(status=500)
        return None

    with LLMServer(fault) as server:
        out = tmp_path / "out.jsonl"
        main(["score", *served(server, tmp_path), str(data), "--out", str(out), "--json"])
    rows, summary = read_rows(out), told(capsys)
    assert [row["reward"] is None for row in rows] == [n == 7 for n in range(9)]
    assert rows[7]["failure"]["kind"] == "transport" and summary["failures"] == {"transport": 1}
    assert "(500) from a server that is up" in summary["failure"]


def test_an_outage_while_scoring_costs_no_row(
    tmp_path: Path, capsys: Any, quick_retries: None, caplog: Any
) -> None:
    data = write(tmp_path / "in.jsonl", [{"prompt": f"q {n}", "response": f"answer {n}"} for n in range(40)])

    def fault(kind: str, body: Any) -> Any:
        return web.Response(status=503) if 10 < len(server.requests) < 250 else None

    with LLMServer(fault) as server:
        out = tmp_path / "out.jsonl"
        main(["score", *served(server, tmp_path), str(data), "--out", str(out), "--json"])
    assert told(capsys)["rewarded"] == 40
    assert sum("waiting for it, up to 300 s" in line for line in caplog.messages) == 1


def test_a_judge_that_is_gone_ends_the_scoring(tmp_path: Path, capsys: Any, quick_retries: None) -> None:
    data = write(tmp_path / "in.jsonl", [{"prompt": f"q {n}", "response": f"answer {n}"} for n in range(4)])

    def fault(kind: str, body: Any) -> Any:
        return None if kind == "check" else web.Response(status=503)

    with LLMServer(fault) as server:
        flags = [*served(server, tmp_path), "-o", "verdict_timeout=0.5"]
        with pytest.raises(SystemExit) as stopped:
            main(["score", *flags, str(data), "--out", str(tmp_path / "out.jsonl")])
    assert stopped.value.code == 1
    assert "the first: openai/m answered no call for 0.5 s" in capsys.readouterr().err


def test_score_says_what_is_wrong_with_a_file(tmp_path: Path, capsys: Any) -> None:
    out = ["--no-judge", "--out", str(tmp_path / "out.jsonl")]
    assert "row 1 must have a text in 'response'" in refused(
        capsys, "score", str(write(tmp_path / "a.jsonl", [{"prompt": "p"}])), *out
    )
    assert "row 1 has no column 'problem'" in refused(
        capsys, "score", "--task", "math", str(write(tmp_path / "b.jsonl", [{"response": "r"}])), *out
    )
    assert "no rows" in refused(capsys, "score", str(write(tmp_path / "c.jsonl", [])), *out)


def test_eval_says_where_gold_could_not_be_measured(tmp_path: Path, capsys: Any) -> None:
    """A verifier that breaks down over an answer gives it no gold; the answers are kept."""
    task, out = tmp_path / "task", tmp_path / "out.jsonl"
    task.mkdir()
    write(task / "data.jsonl", [{"prompt": f"write about day {n}"} for n in range(40)])
    settings = {"name": "t", "description": "Answers.", "persona": "You judge.", "purpose": "Good answers."}
    data = {"source": "data.jsonl", "prompt": "prompt", "held_out": 8}
    (task / "task.yaml").write_text(json.dumps({**settings, "data": data, "gold": "breaks:gold"}))
    (task / "breaks.py").write_text(
        "from mpo_lite.tasks.symbolic import NotCompared\n\ndef gold(text, row):\n    raise NotCompared\n"
    )
    arguments = ["--task", str(task), "-n", "4", "--max-new-tokens", "4", "--out", str(out)]
    message = refused(capsys, "eval", str(policy_dir()), *arguments)
    assert "no gold for 4 of 4 answers, because the verifier crashed" in message
    assert [row["gold"] for row in read_rows(out)] == [None] * 4


def test_eval_measures_a_run_and_a_model(tmp_path: Path, capsys: Any) -> None:
    cache = ["--cache-dir", str(tmp_path / "cache")]
    trained(tmp_path, "--judge", "sandbox", "--task", "sandbox", *cache)
    gold = told(capsys)["gold"]["end"]
    main(["eval", str(tmp_path / "run"), "--json"])
    of_run = told(capsys)
    assert of_run["gold"] == pytest.approx(read_rows(tmp_path / "run" / "gold.jsonl")[-1]["gold"])
    assert of_run["lo"] <= of_run["gold"] <= of_run["hi"] and of_run["n"] == 72 and gold is not None
    answers = tmp_path / "answers.jsonl"
    main(["eval", str(policy_dir()), "--task", "sandbox", "--n", "8", "--out", str(answers), "--json"])
    of_model, rows = told(capsys), read_rows(answers)
    assert of_model["n"] == 8 == len(rows)
    assert of_model["gold"] == pytest.approx(sum(row["gold"] for row in rows) / 8)
    assert f"gold {of_model['gold']:.3f}" in say(
        capsys, "eval", str(policy_dir()), "--task", "sandbox", "-n", "8"
    )


def prefers_longer(kind: str, body: Any) -> str | None:
    """A judge of matches that takes the longer answer, and the first of two that are as long."""
    text = prompt_text(body)
    if kind_of(text) != "match":
        return None
    shown = re.findall(r"<completion-\w+>\n(.*?)\n</completion", text, re.DOTALL)
    won = "first" if len(shown[0]) >= len(shown[1]) else "second"
    return json.dumps({"reason": "longer", "winner": won})


def test_files_are_compared_in_both_orders_and_rated(tmp_path: Path, capsys: Any) -> None:
    prompts = [f"question {n}" for n in range(10)]
    short = write(tmp_path / "short.jsonl", [{"prompt": one, "response": "brief"} for one in prompts])
    long = write(tmp_path / "long.jsonl", [{"prompt": one, "response": "long " * 9} for one in prompts])
    twin = write(tmp_path / "twin.jsonl", [{"prompt": one, "completion": "long " * 9} for one in prompts[1:]])
    with LLMServer(prefers_longer) as server:
        flags = served(server, tmp_path)
        flags += ["--out", str(tmp_path / "out"), "--json"]
        main(["compare", str(short), str(long), str(twin), *flags])
        summary, asked = told(capsys), len(server.requests)
        main(["compare", str(short), str(long), str(twin), *flags, "--overwrite"])
        assert told(capsys)["ratings"] == summary["ratings"]
        assert len(server.requests) == asked + 1  # the one that sees whether the judge is there
    matches = read_rows(tmp_path / "out" / "matches.jsonl")
    assert len(matches) == 9 * 6 and summary["failed"] == 0
    assert {(row["model_a"], row["model_b"]) for row in matches} == {
        (a, b) for a in ("short", "long", "twin") for b in ("short", "long", "twin") if a != b
    }
    ratings = summary["ratings"]
    assert ratings["short"]["wins"] == 0 and list(ratings)[-1] == "short"
    assert ratings["long"]["elo"] == pytest.approx(ratings["twin"]["elo"], abs=1e-6)  # each first one won


def test_models_are_compared_on_held_out_prompts(tmp_path: Path, capsys: Any) -> None:
    answers = write(
        tmp_path / "other.jsonl",
        [{"prompt": f"write a short essay about {topic} .", "response": "no"} for topic in ("dogs", "trees")],
    )
    with running(seed=0) as url, LLMServer(prefers_longer) as server:
        flags = served(server, tmp_path)
        main(["compare", str(policy_dir()), str(answers), "--task", "sandbox", *flags, "--out",
              str(tmp_path / "out"), "--json"])  # fmt: skip
        assert url
    summary = told(capsys)
    assert summary["matches"] == 4 and next(iter(summary["ratings"])) == policy_dir().name


def test_models_are_compared_on_a_column_of_other_data(tmp_path: Path, capsys: Any) -> None:
    data = write(
        tmp_path / "asked.jsonl", [{"question": f"write about {topic} ."} for topic in ("dogs", "tea")]
    )
    other = tmp_path / "other"
    shutil.copytree(policy_dir(), other)
    with LLMServer(prefers_longer) as server:
        asks = ["--data", str(data), "--prompt-column", "question", "--max-new-tokens", "8"]
        out = ["--out", str(tmp_path / "out"), "--json"]
        main(["compare", str(policy_dir()), str(other), *asks, *served(server, tmp_path), *out])
        asked = server.prompts("match")
    assert told(capsys)["matches"] == 4
    assert asked and all("write about" in text for text in asked)


def test_compare_says_what_is_wrong(tmp_path: Path, capsys: Any) -> None:
    one = write(tmp_path / "one.jsonl", [{"prompt": "p", "response": "r"}])
    other = write(tmp_path / "other.jsonl", [{"prompt": "q", "response": "r"}])
    out = ["--judge", "openai/m", "--out", str(tmp_path / "out")]
    assert "at least two" in refused(capsys, "compare", str(one), *out)
    assert "no prompt has answers of all" in refused(capsys, "compare", str(one), str(other), *out)
    assert "two models are called 'one'" in refused(capsys, "compare", str(one), str(one), *out)
    gone = str(tmp_path / "nofile.jsonl")
    assert refused(capsys, "compare", str(one), gone, *out).endswith(f"{gone}: no such file\n")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["NOPE"],
            "NOPE: no such directory; give a run (mpo-lite runs lists them), a model directory, or a Hub id",
        ),
        (["runs/nope"], "runs/nope: no such directory; "),
        (["./some/model"], "./some/model: no such directory; "),
        (["a.jsonl"], "a.jsonl: no such file"),
        (["prompts.jsonl"], "prompts.jsonl: is a file; give a run, a model directory, or a Hub id"),
        (
            ["some/model"],
            "task essay: has no gold metric; choose a task that has one with --task (ethics, math, qa",
        ),
        (["some/model", "--task", "essay"], "task essay: has no gold metric; choose"),
        (["some/model", "--goal", "Short poems."], "task goal: has no gold metric; choose"),
    ],
)
def test_eval_says_what_is_missing(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "prompts.jsonl", [{"prompt": "p"}])
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "config.yaml").write_text("steps: 1\n")
    message = refused(capsys, "eval", *arguments)
    assert said in message and "Traceback" not in message


def malformed(*numbers: int) -> Any:
    """A judge whose verdicts and matches on some answers are malformed, and cannot be repaired."""

    def fault(kind: str, body: Any) -> str | None:
        asked = kind_of(prompt_text(body))
        bad = asked != "check" and any(f"answer {n}" in prompt_text(body) for n in numbers)
        tie = json.dumps({"reason": "r", "winner": "tie"}) if asked == "match" else None
        return "No." if kind == "repair" or bad else tie

    return fault


def eight(path: Path) -> Path:
    return write(path, [{"prompt": f"question {n}", "response": f"answer {n}"} for n in range(8)])


def refusing(kind: str, body: Any) -> web.Response | None:
    """A judge that declines to judge anything."""
    message = {"role": "assistant", "content": None, "refusal": "I cannot do that."}
    reply = {**openai_reply(None), "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
    return None if kind == "check" else web.json_response(reply)


def no_request(kind: str, body: Any) -> web.Response | None:
    """A server that takes no request but the one that sees whether it is there."""
    bad = {"error": {"message": "Bad request: no such thing", "type": "invalid_request_error"}}
    return None if kind == "check" else web.json_response(bad, status=400)


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            malformed(*range(8)),
            "8 rows, none judged: 8 malformed, more than --max-judge-failures 0.05 allows; ",
        ),
        (
            refusing,
            "8 rows, none judged: 8 refused; name a judge that does not decline such samples; the first: ",
        ),
        (
            no_request,
            "8 rows, none judged: 8 lost to server errors, more than --max-judge-failures 0.05 allows; ",
        ),
    ],
)
def test_where_nothing_is_judged_score_fails_and_says_why(
    fault: Any, said: str, tmp_path: Path, capsys: Any
) -> None:
    data, out = eight(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    with LLMServer(fault) as server:
        flags = [*served(server, tmp_path), "-o", "breaker_pause=0"]
        line = failing(capsys, "score", str(data), *flags, "--out", str(out))
    assert said in line and "; the first: " in line and str(out) in line
    scored = read_rows(out)
    assert len(scored) == 8
    for row in scored:
        assert row["reward"] is None and row["failure"]["detail"]
    assert scored[0]["failure"]["detail"] in line


def test_how_much_may_fail_in_score_is_what_may_fail_in_training(tmp_path: Path, capsys: Any) -> None:
    """Three of a file are tolerated; more than that by --max-judge-failures."""
    data, out = eight(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    with LLMServer(malformed(1, 2, 3)) as server:
        main(["score", str(data), *served(server, tmp_path), "--out", str(out)])
        assert (
            "8 rows, 5 with a reward, 3 of 8 not judged: 3 malformed, first failure: "
            in capsys.readouterr().out
        )
    with LLMServer(malformed(1, 2, 3, 4)) as server:
        command = [
            "score",
            str(data),
            *served(server, tmp_path / "other"),
            "--out",
            str(tmp_path / "o.jsonl"),
        ]
        line = failing(capsys, *command)
        assert "4 of 8 not judged: 4 malformed, more than --max-judge-failures 0.05 allows; " in line
        main([*command, "--overwrite", "--max-judge-failures", "0.5", "--json"])
    assert told(capsys)["failures"] == {"parse": 4}


@pytest.mark.usefixtures("quick_retries")
def test_a_judge_that_is_down_for_a_while_costs_no_row(tmp_path: Path, capsys: Any) -> None:
    """The calls of a first pass are all lost; those of the second, after a pause, are answered."""
    lost: list[int] = []

    def fault(kind: str, body: Any) -> web.Response | None:
        if kind == "check" or len(lost) >= 8 * 5:
            return None
        lost.append(1)
        return web.json_response({"error": {"message": "overloaded"}}, status=503)

    data, out = eight(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    with LLMServer(fault) as server:
        flags = [*served(server, tmp_path), "-o", "breaker_pause=0.1", "--json"]
        main(["score", str(data), *flags, "--out", str(out)])
    assert told(capsys)["rewarded"] == 8 and lost


def test_a_judge_that_fails_beyond_the_first_rows_is_asked_no_further(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpo_lite.cli.score.CHUNK", 4)
    data, out = eight(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    with LLMServer(malformed(0, 1, 2, 3)) as server:
        failing(capsys, "score", str(data), *served(server, tmp_path), "--out", str(out))
        assert not any("answer 5" in prompt_text(body) for body in server.requests)
    assert [row["failure"]["kind"] for row in read_rows(out)] == ["parse"] * 4 + ["stopped"] * 4


def test_compare_fails_where_too_little_is_judged(tmp_path: Path, capsys: Any) -> None:
    one, other, out = eight(tmp_path / "one.jsonl"), eight(tmp_path / "other.jsonl"), tmp_path / "out"
    with LLMServer(malformed(*range(8))) as server:
        command = ["compare", str(one), str(other), *served(server, tmp_path), "--out", str(out)]
        line = failing(capsys, *command)
    assert "16 matches, none judged: 16 malformed, more than --max-judge-failures 0.05 allows" in line
    assert "the first: openai/m gave no usable answer" in line and not (out / "matches.jsonl").exists()
    with LLMServer(malformed(1, 2, 3, 4)) as server:
        command = ["compare", str(one), str(other), *served(server, tmp_path / "c"), "--out", str(out)]
        assert "8 of 16 not judged: 8 malformed, more than" in failing(capsys, *command)
        main([*command, "--max-judge-failures", "0.5"])
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("8 of 16 not judged: 8 malformed, spend unpriced; saved in ")


def test_refine_fails_where_nothing_is_judged_or_proposed(tmp_path: Path, capsys: Any) -> None:
    data, out = eight(tmp_path / "in.jsonl"), tmp_path / "rubric.yaml"

    def command(server: LLMServer, cache: str) -> list[str]:
        meta = ["--meta", "openai/n", "--meta-api-base", server.url, "--mode", "paper", "--rounds", "2"]
        return ["refine", str(data), *served(server, tmp_path / cache), *meta, "--out", str(out)]

    with LLMServer(malformed(*range(8))) as server:
        line = failing(capsys, *command(server, "one"))
        assert "8 answers, none judged: 8 malformed, more than" in line and "the first: openai/m" in line
        assert not server.prompts("analyse")  # nothing was paid for the meta-judge

    def meta_fails(kind: str, body: Any) -> str | None:
        return "A list." if kind in ("analyse", "refine", "merge", "repair") else None

    with LLMServer(meta_fails) as server:
        line = failing(capsys, *command(server, "two"))
    assert "no usable proposal in 2 rounds: " in line and not out.exists()


def test_a_goal_in_a_sentence_is_refined_for(tmp_path: Path, capsys: Any) -> None:
    data, out = eight(tmp_path / "in.jsonl"), tmp_path / "rubric.yaml"
    with LLMServer() as server:
        meta = ["--meta", "openai/n", "--meta-api-base", server.url, "--mode", "paper", "--rounds", "1"]
        goal = ["--goal", "Letters that a landlord answers.", "--out", str(out)]
        main(["refine", str(data), *served(server, tmp_path), *meta, *goal])
        assert all("Letters that a landlord answers." in text for text in server.prompts("judge"))
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == f"1 of 1 round changed the rubric, spend unpriced, written to {out}" and out.exists()


def test_a_first_task_of_ones_own_trains_as_it_is_written(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "mine"
    main(["init", str(folder)])
    experiment = folder / "experiment.yaml"
    assert f"mpo-lite train {experiment}" in capsys.readouterr().out
    first, *_ = experiment.read_text(encoding="utf-8").splitlines()
    assert first == "# yaml-language-server: $schema=mpo-lite.schema.json"
    schema = json.loads((folder / "mpo-lite.schema.json").read_text(encoding="utf-8"))
    settings = load_config(experiment, {}, environ={})
    assert settings.task == str(folder) and settings.max_usd == 5 and "max_usd" in schema["properties"]
    assert len(read_rows(folder / "prompts.jsonl")) == 20
    main(["tasks", str(folder)])
    assert "bedtime: Short bedtime stories" in capsys.readouterr().out
    cache = ["--cache-dir", str(tmp_path / "cache")]
    trained(tmp_path, "--task", str(folder), "--judge", "sandbox", *cache)
    assert told(capsys)["steps"] == 1
    assert "is not empty" in refused(capsys, "init", str(folder))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("purpose: >-", "porpose: >-", 'task.yaml:LINE porpose: unknown key, did you mean "purpose"?'),
        ("min_words: 20", "min_words: none", "task.yaml:LINE rules.min_words: "),
        (
            '# must_match: "<answer>.*</answer>"',
            'must_match: "("',
            "task.yaml:LINE rules.must_match: no regular expression",
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
    assert "own_metric:share gave 5; it must give a number from 0 to 1" in refused(capsys, *arguments)


def test_a_goal_in_a_sentence_is_a_task(tmp_path: Path, capsys: Any) -> None:
    data = write(tmp_path / "data.jsonl", [{"prompt": f"a story about {n}"} for n in range(12)])
    goal = "Vivid bedtime stories for five-year-olds, under 200 words"
    with LLMServer() as server:
        trained(tmp_path, "--goal", goal, "--data", str(data), *served(server, tmp_path))
        assert all(goal in text for text in server.prompts("judge"))
    assert told(capsys)["steps"] == 1
    assert goal in (tmp_path / "run" / "rubrics" / "v000.yaml").read_text()
    assert "give prompts by --data" in refused(
        capsys, "estimate", "--goal", goal, "--judge", "gpt-4o", "--meta", "claude"
    )
