"""Judging, measuring and comparing without training: score, eval, compare, tasks and init."""

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from mpo_lite.cli.main import main
from mpo_lite.jsonl import read_rows
from tests.support.llm_server import LLMServer, openai_reply, prompt_text
from tests.support.scoring import eight, failing, malformed, refused, rows, served, told, write

LONG = "a " * 40


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
    assert "(500) from a running server" in summary["failure"]


@pytest.mark.slow
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
    assert sum("waiting up to 300 s for it" in line for line in caplog.messages) == 1


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
    assert "row 1 must have text in 'response'" in refused(
        capsys, "score", str(write(tmp_path / "a.jsonl", [{"prompt": "p"}])), *out
    )
    assert "row 1 has no column 'problem'" in refused(
        capsys, "score", "--task", "math", str(write(tmp_path / "b.jsonl", [{"response": "r"}])), *out
    )
    assert "no rows" in refused(capsys, "score", str(write(tmp_path / "c.jsonl", [])), *out)


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
            "8 rows, none judged: 8 refused; use a judge that does not decline such samples; the first: ",
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


def score(tmp_path: Path, server: LLMServer, *flags: str, count: int = 24) -> list[str]:
    data, out = rows(tmp_path / "in.jsonl", count), tmp_path / "out.jsonl"
    judge = ["--judge", "openai/m", "--judge-api-base", server.url, "--cache-dir", str(tmp_path / "cache")]
    return ["score", "--task", "essay", *judge, str(data), "--out", str(out), *flags]


def fails_on(kind: str, answer: str) -> Any:
    def fault(asked: str, body: Any) -> str | None:
        return "No." if asked == "repair" or (asked == kind and answer in prompt_text(body)) else None

    return fault


def test_score_says_how_many_were_not_judged_and_why(tmp_path: Path, capsys: Any) -> None:
    with LLMServer(fails_on("judge", "answer 3")) as server:
        main(score(tmp_path, server, count=6))
        line = capsys.readouterr().out.splitlines()[-1]
        main(score(tmp_path, server, "--json", "--overwrite", count=6))
        assert json.loads(capsys.readouterr().out)["failures"] == {"parse": 1}
    assert "1 of 6 not judged: 1 malformed" in line
