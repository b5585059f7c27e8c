"""``mpo-lite calibrate``: the figures are right, failures no scores, and the page whole."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mpo_lite.cli.main import main
from mpo_lite.jsonl import read_rows
from mpo_lite.meta.margins import kendall_tau
from tests.support.llm_server import Body, LLMServer, completion_of, kind_of, prompt_text
from tests.support.scoring import failing, refused, served, told, write

WORDS = "plain words that fill an answer until no rule minds its length any more "
RUBRIC = {
    "criteria": [
        {"id": "sound", "description": "Reasons.", "levels": ["no", "some", "many", "all"], "weight": 3},
        {"id": "polite", "description": "Is polite.", "levels": ["no", "yes"]},
    ]
}  # fmt: skip


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are tested elsewhere."""
    monkeypatch.setattr("mpo_lite.stats.agreement.DRAWS", 20)


def answer(quality: int, number: int) -> str:
    return f"{WORDS} quality {quality} number {number}"


def quality_of(text: str) -> int:
    quality = re.search(r"quality (\d)", text)
    return int(quality[1]) if quality else 0


def levels(sound: int, polite: int = 1) -> Body:
    return {
        "sound": {"reason": f"sound {sound}", "level": sound},
        "polite": {"reason": "polite", "level": polite},
    }


def judging(level: Callable[[str], int | None]) -> Callable[[str, Body], str | None]:
    """A judge that gives each answer its level of ``sound``; with None it says nothing of use."""

    def fault(kind: str, body: Body) -> str | None:
        if kind == "repair":
            return "No."
        if kind != "judge":
            return None
        sound = level(completion_of(body))
        return "No." if sound is None else json.dumps(levels(sound))

    return fault


def scored(path: Path) -> Path:
    """24 answers to 12 prompts; the label is the quality, plus a little."""
    return write(
        path,
        [
            {"prompt": f"question {n % 12}", "response": answer(n % 4, n), "stars": n % 4 + (n % 5 == 0),
             "model": "ab"[n % 2]}
            for n in range(24)
        ],
    )  # fmt: skip


def pairs(path: Path, winner: Callable[[int], str] = lambda n: "ab"[n % 3 == 0]) -> Path:
    return write(
        path,
        [
            {"prompt": f"question {n}", "response_a": answer(n % 4, n), "response_b": answer((n + 1) % 4, n),
             "winner": winner(n)}
            for n in range(12)
        ],
    )  # fmt: skip


@pytest.fixture
def calibrate(tmp_path: Path, capsys: Any) -> Callable[..., dict[str, Any]]:
    rubric = tmp_path / "rubric.yaml"
    rubric.write_text(json.dumps(RUBRIC))

    def run(server: LLMServer, data: Path, *flags: str) -> dict[str, Any]:
        out = ["--out", str(tmp_path / "page.html"), "--overwrite", "--json", "-o", "call_timeout=5"]
        main(["calibrate", str(data), *served(server, tmp_path), "--rubric", str(rubric), *out, *flags])
        return told(capsys)

    return run


def test_figures_of_scores_are_those_of_an_independent_computation(calibrate: Any, tmp_path: Path) -> None:
    data = scored(tmp_path / "in.jsonl")
    with LLMServer(judging(lambda text: min(3, quality_of(text) + (len(text) % 2)))) as server:
        result = calibrate(server, data, "--labels", "stars")
    rows = read_rows(data)
    labels = np.array([row["stars"] for row in rows], float)
    sound = [min(3, quality_of(row["response"]) + len(row["response"]) % 2) for row in rows]
    rewards = np.array([(3 * level / 3 + 1) / 4 for level in sound])
    agreement = result["agreement"]
    assert agreement["kendall"]["value"] == pytest.approx(kendall_tau(rewards.tolist(), labels.tolist()))
    ranks = np.corrcoef(stats.rankdata(rewards), stats.rankdata(labels))[0, 1]
    assert agreement["spearman"]["value"] == pytest.approx(ranks)
    assert agreement["pearson"]["value"] == pytest.approx(np.corrcoef(rewards, labels)[0, 1])
    counts = np.array(result["confusion"])
    assert result["levels"] == ["0", "1", "2", "3", "4"] and counts.sum() == result["judged"] == 24
    assert counts.sum(1).tolist() == [Counter(labels)[level] for level in range(5)]
    assert agreement["accuracy"]["value"] == pytest.approx(np.trace(counts) / 24)
    assert agreement["accuracy"]["constant"] == pytest.approx(max(Counter(labels).values()) / 24)
    expected = np.outer(counts.sum(1), counts.sum(0)) / 24
    weights = np.subtract.outer(range(5), range(5)) ** 2
    assert agreement["weighted_kappa"]["value"] == pytest.approx(
        1 - (weights * counts).sum() / (weights * expected).sum()
    )
    assert agreement["error"]["value"] < agreement["error"]["constant"]
    first, second = result["criteria"]
    assert first["shares"] == [sound.count(level) / 24 for level in range(4)] and second["shares"] == [0, 1]
    assert first["agreement"]["value"] == pytest.approx(agreement["kendall"]["value"])
    assert second["agreement"]["value"] is None  # a constant agrees with nothing
    assert set(result["biases"]["authors"]) == {"a", "b"} and result["biases"]["position"] is None
    assert result["biases"]["noise"]["value"] == 0 and result["alpha"] is None
    assert "nearly all answers are at the same level of polite" in result["conclusion"]["sentence"]


def test_figures_of_pairs_are_those_of_an_independent_computation(calibrate: Any, tmp_path: Path) -> None:
    data = pairs(tmp_path / "in.jsonl", lambda n: ("a", "b", "tie")[n % 3])
    with LLMServer(judging(lambda text: quality_of(text) // 2 * 2)) as server:
        result = calibrate(server, data)
    credits, firsts = [], []
    for row in read_rows(data):
        one, other = (quality_of(row[name]) // 2 for name in ("response_a", "response_b"))
        won = {"a": 1, "b": -1, "tie": 0}[row["winner"]]
        credits.append(1 - abs((one > other) - (one < other) - won) / 2)
        firsts.append(1 - abs(1 - won) / 2)
    agreement = result["agreement"]
    assert agreement["accuracy"]["value"] == pytest.approx(np.mean(credits))
    assert agreement["always_first"]["value"] == pytest.approx(np.mean(firsts))
    always_tie = np.mean([1.0 if row["winner"] == "tie" else 0.5 for row in read_rows(data)])
    assert result["constant"] == "always a tie" and agreement["accuracy"]["constant"] == always_tie
    counts = np.array(result["confusion"])
    by_chance = (counts.sum(0) * counts.sum(1)).sum() / 144
    assert agreement["kappa"]["value"] == pytest.approx((np.trace(counts) / 12 - by_chance) / (1 - by_chance))
    assert result["criteria"][0]["agreement"]["value"] == pytest.approx(np.mean(credits))


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("MPO_TEST_DATA"), reason="MPO_TEST_DATA is not set")
def test_real_essays_are_compared_as_their_scores_say(tmp_path: Path, capsys: Any) -> None:
    """The first 200 pairs of a run, with the simulated judge; the scores are those of ``mpo-lite score``."""
    rows = read_rows(Path(os.environ["MPO_TEST_DATA"], "essay_matches.jsonl"))[:200]
    data = write(tmp_path / "pairs.jsonl", rows)
    answers = [
        {"prompt": row["prompt"], "response": row[name]}
        for row in rows
        for name in ("response_a", "response_b")
    ]
    single = write(tmp_path / "answers.jsonl", answers)
    judge = ["--judge", "sandbox", "--task", "essay", "--cache-dir", str(tmp_path / "cache"), "--json"]
    main(["calibrate", str(data), *judge, "--out", str(tmp_path / "page.html")])
    result = told(capsys)
    main(["score", str(single), *judge, "--out", str(tmp_path / "scored.jsonl")])
    assert told(capsys)["judge_calls"] <= 1  # all verdicts come from the cache
    rewards = np.array([row["reward"] for row in read_rows(tmp_path / "scored.jsonl")]).reshape(-1, 2)
    won = np.array([row["winner"] == row["model_a"] for row in rows])
    gap = (rewards[:, 0] - rewards[:, 1]).round(9)
    correct = np.where(gap == 0, 0.5, (gap > 0) == won)
    assert result["judged"] == 200 and result["agreement"]["accuracy"]["value"] == pytest.approx(
        correct.mean()
    )
    assert result["agreement"]["always_first"]["value"] == pytest.approx(won.mean())
    signs = gap / np.where(gap == 0, 1, np.abs(gap))
    kappa = _kappa(signs + 1, 2.0 * won)
    assert result["agreement"]["kappa"]["value"] == pytest.approx(kappa)
    excess = [((sign + 1) / 2 - first, row) for sign, first, row in zip(signs, won, rows, strict=True)]
    by_author = {
        name: np.mean([value if row["model_a"] == name else -value for value, row in excess])
        for name in ("32b_32b", "32b_72b")
    }
    for name, value in by_author.items():
        assert result["biases"]["authors"][name]["value"] == pytest.approx(value)
    assert len(result["worst"]) == 10 and result["conclusion"]["answer"] == "no"


def _kappa(first: Any, second: Any) -> float:
    by_chance = sum((first == level).mean() * (second == level).mean() for level in (0, 1, 2))
    return ((first == second).mean() - by_chance) / (1 - by_chance)


def test_a_failed_judgement_is_left_out_and_counted(calibrate: Any, tmp_path: Path) -> None:
    data = scored(tmp_path / "in.jsonl")

    def level(text: str) -> int | None:
        return None if "number 7" in text else quality_of(text)

    with LLMServer(judging(level)) as server:
        result = calibrate(server, data, "--labels", "stars", "--probes", "4")
    assert result["judged"] == 23 and result["failures"] == {"parse": 1}
    assert np.sum(result["confusion"]) == 23


def test_a_judge_may_decline_to_judge_tricks(calibrate: Any, tmp_path: Path) -> None:
    data = scored(tmp_path / "in.jsonl")
    honest = {row["response"] for row in read_rows(data)}
    with LLMServer(judging(lambda text: quality_of(text) if text in honest else None)) as server:
        result = calibrate(server, data, "--labels", "stars", "--probes", "2")
    by_judge = [trick for trick in result["tricks"] if trick["decorates"]]
    assert by_judge and all(trick["reward"] is None and trick["count"] == 0 for trick in by_judge)
    assert result["judged"] == 24 and not any(trick["succeeds"] for trick in result["tricks"])


def test_a_judge_that_mostly_fails_is_not_measured(tmp_path: Path, capsys: Any) -> None:
    data = scored(tmp_path / "in.jsonl")
    with LLMServer(judging(lambda text: None)) as server:
        flags = [*served(server, tmp_path), "--labels", "stars", "--out", str(tmp_path / "page.html")]
        line = failing(capsys, "calibrate", str(data), *flags)
    assert "24 answers, none judged: 24 malformed" in line and "run the same command again" in line
    assert not (tmp_path / "page.html").exists()


def test_replicates_have_an_alpha(calibrate: Any, tmp_path: Path) -> None:
    data, asked = scored(tmp_path / "in.jsonl"), Counter[str]()

    def level(text: str) -> int:
        asked[text] += 1
        return min(3, quality_of(text) + (asked[text] == 2 and len(text) % 2 == 0))

    with LLMServer(judging(level)) as server:
        result = calibrate(server, data, "--labels", "stars", "--replicates", "2", "--probes", "0")
    assert set(asked.values()) == {2} and result["tricks"] == [] and result["probed"] == 0
    texts = [row["response"] for row in read_rows(data)]
    first = [quality_of(text) for text in texts]
    second = [min(3, quality_of(text) + (len(text) % 2 == 0)) for text in texts]
    ratings = np.array([first, second], float) / 4  # rewards differ by a quarter per level
    every = ratings.ravel()
    expected = (np.subtract.outer(every, every) ** 2).sum() / (len(every) * (len(every) - 1))
    alpha = 1 - ((ratings[0] - ratings[1]) ** 2).mean() / expected
    assert result["alpha"]["value"] == pytest.approx(alpha) and alpha < 1
    assert result["criteria"][0]["alpha"] < 1 and result["criteria"][1]["alpha"] is None


def test_noise_is_the_share_of_levels_that_change(calibrate: Any, tmp_path: Path) -> None:
    data, asked = scored(tmp_path / "in.jsonl"), Counter[str]()
    temperatures: list[float] = []

    def fault(kind: str, body: Body) -> str | None:
        text = completion_of(body)
        if kind != "judge":
            return None
        asked[text] += 1
        temperatures.append(body["temperature"])
        return json.dumps(levels(quality_of(text) ^ (asked[text] == 2)))

    with LLMServer(fault) as server:
        flags = ["--labels", "stars", "--probes", "6", "-o", "judge_temperature=0.3"]
        result = calibrate(server, data, *flags)
    assert set(temperatures) == {0.3}
    assert result["biases"]["noise"]["value"] == 0.5  # one of two criteria, each time
    assert [criterion["changed"] for criterion in result["criteria"]] == [1, 0]
    assert result["biases"]["reward_noise"]["value"] == pytest.approx(0.25)


def test_a_groupwise_judge_that_prefers_the_first_answer_is_caught(calibrate: Any, tmp_path: Path) -> None:
    def fault(kind: str, body: Body) -> str | None:
        if kind_of(prompt_text(body)) != "group":
            return json.dumps(levels(1)) if kind == "judge" else None
        return json.dumps({"answer_1": levels(3), "answer_2": levels(1)})

    with LLMServer(fault) as server:
        result = calibrate(server, pairs(tmp_path / "in.jsonl"), "--judge-mode", "groupwise")
    assert result["biases"]["position"]["value"] == pytest.approx(0.5)
    assert "it pays an answer 0.50 more where it is shown first" in result["conclusion"]["cautions"]


def test_a_judge_that_pays_for_tricks_must_not_train(calibrate: Any, tmp_path: Path) -> None:
    def level(text: str) -> int:
        decorated = "Moreover, furthermore" in text
        return 3 if text == "Thought process:" else min(3, quality_of(text) + decorated)

    with LLMServer(judging(level)) as server:
        flags = ["--labels", "stars", "--task", str(_task(tmp_path))]
        result = calibrate(server, scored(tmp_path / "in.jsonl"), *flags)
    paid = {trick["kind"] for trick in result["tricks"] if trick["succeeds"]}
    assert paid == {"opening", "connectives"} and result["conclusion"]["answer"] == "no"
    assert (
        'it pays for "Thought process:" alone as much as for the median honest answer'
        in result["conclusion"]["sentence"]
    )


def _task(tmp_path: Path) -> Path:
    """A task whose minimum length rejects the shortest tricks alone."""
    folder = tmp_path / "task"
    folder.mkdir()
    task = {"name": "short", "description": "d", "purpose": "p", "persona": "p", "data": {}}
    (folder / "task.yaml").write_text(json.dumps(task))
    return folder


def test_the_page_and_the_table_say_it(tmp_path: Path, capsys: Any) -> None:
    hostile = "<script>alert(1)</script>"
    rows = [row | {"response": row["response"] + hostile} for row in read_rows(scored(tmp_path / "in.jsonl"))]
    data, page = write(tmp_path / "in.jsonl", rows), tmp_path / "page.html"
    with LLMServer() as server:
        main(["calibrate", str(data), *served(server, tmp_path), "--labels", "stars", "--out", str(page)])
    text, printed = page.read_text(), capsys.readouterr().out
    assert hostile not in text and "&lt;script&gt;alert" in text
    sentence = printed.splitlines()[-2]
    assert sentence.startswith(("No: ", "With care: ")) and "Kendall&#39;s tau" in text
    for part in ("Kendall's tau", "Krippendorff", "length: partial", "an empty answer", "written to"):
        assert (part in printed) == (part != "Krippendorff")


def test_a_cap_stops_it_and_says_how_to_continue(tmp_path: Path, capsys: Any) -> None:
    data = scored(tmp_path / "in.jsonl")
    with LLMServer() as server, pytest.raises(SystemExit) as stopped:
        flags = [*served(server, tmp_path), "--labels", "stars", "--max-calls", "9"]
        main(["calibrate", str(data), *flags, "--out", str(tmp_path / "page.html")])
    assert stopped.value.code == 3
    assert "verdicts so far are cached: run the same command again" in capsys.readouterr().err


def test_mistakes_are_explained(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = str(scored(tmp_path / "in.jsonl"))
    command = ["calibrate", data, "--judge", "sandbox", "--labels", "stars"]
    assert "must end in .html" in refused(capsys, *command, "--out", str(tmp_path / "page.txt"))
    both = ["--responses", "response", "--authors", "model", "--authors", "model"]
    assert "once for scores, or twice for pairs" in refused(capsys, *command, *both)
    monkeypatch.setattr("mpo_lite.loop.environment.find_spec", lambda name: None if name == "scipy" else name)
    assert "scipy not installed: pip install 'mpo-lite[calibrate]'" in refused(capsys, *command)


def judging_by_examples(kind: str, body: Body) -> str | None:
    """A judge that has the quality upside down unless it is shown examples."""
    quality = quality_of(completion_of(body))
    right = "# Examples" in prompt_text(body)
    return json.dumps(levels(quality if right else 3 - quality)) if kind == "judge" else None


def test_examples_are_written_if_they_help_on_held_out_rows(
    calibrate: Any, tmp_path: Path, capsys: Any
) -> None:
    rows = [{"prompt": f"question {n}", "response": answer(n % 4, n), "stars": n % 4} for n in range(40)]
    data, file = write(tmp_path / "in.jsonl", rows), tmp_path / "page.examples.jsonl"
    flags = ["--labels", "stars", "--probes", "0", "--pick-examples", "4"]
    with LLMServer(judging_by_examples) as server:
        trial = calibrate(server, data, *flags)["examples"]
        assert trial["before"]["value"] == -1 and trial["after"]["value"] == 1 and trial["rows"] == 20
        picked = read_rows(file)
        assert [row["label"] for row in picked] == [f"{n}, on a scale from 0 to 3" for n in range(4)]
        held_out = [text for text in server.prompts("judge") if "# Examples" in text]
        # What was picked is not what decides.
        assert len(held_out) == 20
        assert not any(f"{row['prompt']}\n</task" in text for text in held_out for row in picked)
        server.requests.clear()
        scored_file = tmp_path / "scored.jsonl"
        shown = ["--examples", str(file), "--out", str(scored_file), "--cache-dir", str(tmp_path / "new")]
        main(
            ["score", str(data), *served(server, tmp_path), *shown, "--rubric", str(tmp_path / "rubric.yaml")]
        )
        for text in server.prompts("judge"):
            assert "2, on a scale from 0 to 3" in text and text.index("# Examples") > text.index("# Rubric")
    assert f"examples written to {file}" not in capsys.readouterr().out  # --json


def test_examples_that_do_not_help_are_not_written(calibrate: Any, tmp_path: Path) -> None:
    data = pairs(tmp_path / "in.jsonl", lambda n: "ab"[n % 2])
    rows = [row | {"prompt": f"{row['prompt']} {n}"} for n in range(2) for row in read_rows(data)]
    with LLMServer(judging(quality_of)) as server:
        trial = calibrate(server, write(data, rows), "--probes", "0", "--pick-examples", "2")["examples"]
        assert trial["gain"]["value"] == 0 and trial["file"] is None
        few = [
            "calibrate",
            str(pairs(tmp_path / "few.jsonl")),
            *served(server, tmp_path),
            "--pick-examples",
            "2",
        ]
        with pytest.raises(SystemExit):
            main([*few, "--out", str(tmp_path / "other.html")])
    assert not list(tmp_path.glob("*.examples.jsonl"))
    labels = {example["label"] for example in trial["examples"]}
    assert labels <= {"The first answer is better.", "The second answer is better."}


@pytest.mark.parametrize(
    "row", [{}, {"prompt": "p", "label": "l"}, {"prompt": "p", "label": "l", "answers": ["a", "b", "c"]}]
)
def test_a_malformed_example_is_named(row: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    file, data = write(tmp_path / "examples.jsonl", [row]), scored(tmp_path / "in.jsonl")
    command = ["score", str(data), "--judge", "openai/m", "--examples", str(file)]
    assert "examples.jsonl: row 1: must have text in 'prompt' and 'label'" in refused(
        capsys, *command, "--out", str(tmp_path / "out.jsonl")
    )
