"""A published chat model as the policy: ``MPO_REAL_POLICY`` names its folder or hub id."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from mpo_lite.cli.main import main
from mpo_lite.config import Config
from mpo_lite.jsonl import read_rows
from mpo_lite.run_dir import RunDir
from mpo_lite.training.generate import generate
from mpo_lite.training.policy import chat_of, load_trained_policy
from tests.support.jobs import Train
from tests.support.llm_server import LLMServer, completion_of, kind_of, prompt_text

POLICY = os.environ.get("MPO_REAL_POLICY", "")
DATA = os.environ.get("MPO_TEST_DATA", "")
pytestmark = pytest.mark.skipif(not POLICY, reason="MPO_REAL_POLICY names no model")

TASK = """name: repeat
description: Says a word again.
purpose: The answer says the word it is asked for.
persona: You are a reader.
data: {source: rows.jsonl, prompt: prompt}
generation: {max_new_tokens: 12}
gold: measure:said
"""
WORDS = (
    *("apple", "river", "garden", "window", "silver", "mountain"),
    *("candle", "bridge", "forest", "pencil", "ocean", "yellow"),
)


@pytest.fixture(scope="module")
def model() -> tuple[Any, Any]:
    config = Config(policy=POLICY, bf16=False)
    policy, tokenizer = load_trained_policy(config, None)
    assert policy.dtype == torch.float32
    return policy, chat_of(config, policy, tokenizer)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    folder = tmp_path / "repeat"
    folder.mkdir()
    (folder / "task.yaml").write_text(TASK)
    (folder / "measure.py").write_text(
        "def said(completion, row):\n    return float(row['word'] in completion.lower())\n"
    )
    # Prompts of very different lengths: in one batch all but the longest are padded.
    rows = [
        {"prompt": f"{'Please listen carefully. ' * (n % 5)}Repeat this word: {word}", "word": word}
        for n, word in enumerate(WORDS * 4)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.skipif(not DATA, reason="MPO_TEST_DATA holds no essay prompts")
def test_greedy_answers_in_a_batch_are_those_of_each_prompt_alone(model: tuple[Any, Any]) -> None:
    rows = read_rows(Path(DATA) / "essay_prompts.jsonl")[:12]
    asked = [[{"role": "user", "content": row["prompt"]}] for row in rows]
    alone = generate(*model, asked, max_new_tokens=16, temperature=0, batch_size=1)
    assert generate(*model, asked, max_new_tokens=16, temperature=0) == alone
    assert len({one.text for one in alone}) > 9


def test_answers_are_on_topic(model: tuple[Any, Any]) -> None:
    asked = [[{"role": "user", "content": f"Repeat this word: {word}"}] for word in WORDS]
    answers = generate(*model, asked, max_new_tokens=12, temperature=0)
    said = [word in one.text.lower() for word, one in zip(WORDS, answers, strict=True)]
    assert sum(said) >= 0.75 * len(WORDS), [one.text for one in answers]


def test_gold_does_not_depend_on_the_batch_size(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for size in ("1", "64"):
        main(["eval", POLICY, "--task", str(task), "--temperature", "0", "--batch-size", size, "--json"])
    one, other = (json.loads(line) for line in capsys.readouterr().out.splitlines()[-2:])
    assert one == other and one["n"] > 3 and one["gold"] > 0.5


def test_it_trains(train: Train, task: Path, tmp_path: Path) -> None:
    with LLMServer() as server:
        train(
            *("--judge", "openai/j", "--judge-api-base", server.url, "--baseline", "iter0"),
            *("--policy", POLICY, "--task", str(task), "--data", str(task / "rows.jsonl")),
            steps=2, max_new_tokens=16, batch_prompts=2, micro_batch=8,
        )  # fmt: skip
        judged = [completion_of(body) for body in server.requests if kind_of(prompt_text(body)) == "judge"]
    rollouts = read_rows(RunDir(tmp_path / "run").rollouts)
    assert len(rollouts) == 16 and judged
    assert not any("<|" in text for text in judged)
    assert len({row["truncated"] for row in rollouts}) == 2  # some answers end within the limit, some do not
