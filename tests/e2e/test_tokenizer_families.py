"""Generation, training, evaluation and export are right for every family of tokenizer."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, RLOOConfig

from mpo_lite.activity import activities
from mpo_lite.checkpoints import last_checkpoint
from mpo_lite.cli.main import main
from mpo_lite.config import Config
from mpo_lite.jsonl import read_rows
from mpo_lite.run_dir import RunDir
from mpo_lite.sanitize import strip_thinking
from mpo_lite.training.chat import Chat
from mpo_lite.training.generate import RowEnds, generate
from mpo_lite.training.policy import chat_of, load_trained_policy
from mpo_lite.training.trainers import GRPO, RLOO
from mpo_lite.types import Completion
from tests.support.jobs import Train
from tests.support.llm_server import LLMServer, completion_of, kind_of, prompt_text
from tests.support.zoo import ZOO, publish

NAMES = list(ZOO)
LENGTH = 24


def talk(text: str, system: str | None = "Be brief.") -> list[dict[str, str]]:
    head = [{"role": "system", "content": system}] if system else []
    return [*head, {"role": "user", "content": text}]


TALKS = [talk("dogs and boats " * n + f"lake {n}", None if n % 3 == 0 else "Be brief.") for n in range(10)]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: publish(name, tmp_path_factory.mktemp(name)) for name in NAMES}


@pytest.fixture(params=NAMES)
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


def kind_at(folder: Path) -> Any:
    return next(kind for name, kind in ZOO.items() if folder.name.startswith(f"{name}0"))


def loaded(folder: Path) -> tuple[Any, Chat]:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, Chat(model, AutoTokenizer.from_pretrained(folder))


def greedy_alone(model: Any, chat: Chat, messages: list[Any], length: int) -> list[int]:
    """The likeliest tokens one by one, without padding, cache or ``generate``."""
    ids, begun = chat.prompt_ids(messages), len(chat.prompt_ids(messages))
    while len(ids) - begun < length and not (len(ids) > begun and ids[-1] in chat.ends):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[begun:]


def test_greedy_answers_do_not_depend_on_the_batch(folder: Path) -> None:
    model, chat = loaded(folder)
    assert chat.tokenizer.padding_side == "right"  # as published
    alone = [greedy_alone(model, chat, one, LENGTH) for one in TALKS]
    expected = [chat.completion(ids) for ids in alone]
    for size in (1, 4, 64):
        answers = generate(model, chat, TALKS, max_new_tokens=LENGTH, temperature=0, batch_size=size)
        assert answers == expected
    assert [one.truncated for one in expected] == [ids[-1] not in chat.ends for ids in alone]
    assert not all(one.truncated for one in expected)
    short = generate(model, chat, TALKS, max_new_tokens=2, temperature=0)
    assert any(one.truncated for one in short)
    assert not any(token in one.text for one in expected for token in chat.tokenizer.all_special_tokens)


@pytest.mark.parametrize(("trainer", "settings"), [(GRPO, GRPOConfig), (RLOO, RLOOConfig)])
def test_the_trainer_generates_as_we_do(
    trainer: Any, settings: Any, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    """The same prompt tokens and, greedy, the same answers, in a batch and alone."""
    model, chat = loaded(folder)

    def reward(completions: list[Any], **_: Any) -> list[float]:
        return [0.0] * len(completions)

    callback = TrainerCallback()
    mpo = SimpleNamespace(
        reward=reward, callback=callback, session=SimpleNamespace(config=SimpleNamespace(overlap=True))
    )
    arguments = settings(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, max_completion_length=LENGTH, report_to=[],
        per_device_train_batch_size=2, num_generations=2, generation_kwargs={"do_sample": False},
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": one} for one in TALKS])
    made = trainer(mpo, model, processing_class=chat.tokenizer, args=arguments, train_dataset=data)
    made.model.eval()
    ids, completions = made._generate(TALKS)[:2]
    assert ids == [chat.prompt_ids(one) for one in TALKS]
    assert completions == [made._generate([one])[1][0] for one in TALKS]
    answers = [callback.chat.completion(one) for one in completions]  # type: ignore[attr-defined]
    assert answers == generate(model, chat, TALKS, max_new_tokens=LENGTH, temperature=0)


def test_prompts_hold_their_messages_and_one_begin_token(folder: Path) -> None:
    _, chat = loaded(folder)
    kind = kind_at(folder)
    assert chat._takes_system == kind.takes_system
    for messages in TALKS:
        ids = chat.prompt_ids(messages)
        text = chat.tokenizer.decode(ids)
        assert all(message["content"] in text for message in messages)
        if kind.begin:
            begin = chat.tokenizer.convert_tokens_to_ids(kind.begin)
            assert ids[0] == begin == chat.tokenizer("a")["input_ids"][0] or kind.begin == "<bos>"
            assert ids.count(begin) == 1
    followed = [*talk("one"), {"role": "assistant", "content": "two"}, {"role": "user", "content": "three"}]
    assert "three" in chat.tokenizer.decode(chat.prompt_ids(followed))


def test_a_system_message_that_a_template_drops_is_folded_too(folders: dict[str, Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(folders["smollm2"])
    tokenizer = AutoTokenizer.from_pretrained(folders["smollm2"])
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    chat = Chat(model, tokenizer)
    assert tokenizer.decode(chat.prompt_ids(talk("hello"))) == "Be brief.\n\nhello"
    assert chat.conversation(talk("hello")[:1]) == [{"role": "user", "content": "Be brief."}]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("plain words", "plain words"),
        (" plain", " plain"),
        ("<think>a\n</think>\n\nwords", "words"),
        ("<think>a</think>b<think>c</think>words", "words"),
        ("a</think>words", "words"),
        ("<think>a", ""),
        ("<think>a</think>words<think>b", ""),
        ("<think></think>", ""),
    ],
)
def test_judges_see_no_thinking(text: str, answer: str, folder: Path) -> None:
    _, chat = loaded(folder)
    kind = kind_at(folder)
    if chat._opens_thinking and "</think>" not in text:
        answer = ""
    ids = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
    end = chat.tokenizer.convert_tokens_to_ids(kind.ends[-1])
    padding = [chat.pad] * 3
    got, whole = chat.completion(ids), chat.completion([*ids, end, *padding])
    assert got.text.strip() == whole.text.strip() == answer.strip()
    assert got.truncated and not whole.truncated


def test_thinking_between_special_tokens_is_seen_to_be_thinking(folders: dict[str, Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(folders["llama3"])
    tokenizer = AutoTokenizer.from_pretrained(folders["llama3"])
    marks = [AddedToken(mark, special=True) for mark in ("<think>", "</think>")]
    tokenizer.add_tokens(marks, special_tokens=True)
    chat = Chat(model, tokenizer)
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    assert tokenizer.decode(encode("<think>a</think>b"), skip_special_tokens=True) == "ab"
    assert chat.completion(encode("<think>a</think>b")) == Completion("b", truncated=True)
    assert chat.completion(encode("<think>ab")).text == ""


def test_thinking_that_the_prompt_opened() -> None:
    assert strip_thinking("all of it", opened=True) == ""
    assert strip_thinking("some</think> words", opened=True) == "words"


def test_template_arguments_reach_generation(folders: dict[str, Path]) -> None:
    config = Config(policy=str(folders["qwen3"]), trl={"chat_template_kwargs": {"enable_thinking": False}})
    chat = chat_of(config, *load_trained_policy(config, None))
    assert chat.tokenizer.decode(chat.prompt_ids(talk("hi"))).endswith("<think>\n\n</think>\n\n")
    assert chat.completion(chat.tokenizer("words")["input_ids"]).text == "words"


def test_progress_is_told_within_a_batch(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model, chat = loaded(folders["qwen2.5"])
    seen: list[tuple[str, int | None, int]] = []
    call = RowEnds.__call__

    def watched(self: RowEnds, *arguments: Any, **options: Any) -> Any:
        told = call(self, *arguments, **options)
        seen.extend((one.name, one.total, one.done) for one in activities())
        return told

    monkeypatch.setattr(RowEnds, "__call__", watched)
    generate(model, chat, TALKS, max_new_tokens=LENGTH, temperature=0, batch_size=8)
    assert {(name, total) for name, total, _ in seen} == {("generating", len(TALKS))}
    done = [count for _, _, count in seen]
    assert done == sorted(done) and len(set(done)) > 3
    assert not activities()


TASK = """name: zoo
description: Some answers.
purpose: Answers are good.
persona: You are a reader.
data: {source: rows.jsonl, prompt: prompt}
generation: {max_new_tokens: 12}
gold: measure:letters
"""


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A task with a system message and a gold metric."""
    folder = tmp_path / "zoo-task"
    folder.mkdir()
    (folder / "task.yaml").write_text(TASK)
    (folder / "policy.md").write_text("=== system\nBe brief.\n=== user\n$prompt\n")
    (folder / "measure.py").write_text(
        "def letters(completion, row):\n"
        "    return sum(map(str.isalpha, completion)) / (len(completion) + 1)\n"
    )
    rows = [{"prompt": f"lake {n} " + "and dogs " * (n % 7)} for n in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_each_trains_evaluates_and_leaves_as_a_plain_folder(
    algorithm: str, folder: Path, task: Path, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = kind_at(folder)
    with LLMServer() as server:
        train(
            *("--judge", "openai/j", "--judge-api-base", server.url, "--baseline", "iter0"),
            *("--policy", str(folder), "--task", str(task), "--data", str(task / "rows.jsonl")),
            *("--algorithm", algorithm),
            steps=2, max_new_tokens=12, batch_prompts=2, micro_batch=8, lora_r=4, learning_rate=1e-2,
        )  # fmt: skip
        judged = [completion_of(body) for body in server.requests if kind_of(prompt_text(body)) == "judge"]
    run = RunDir(tmp_path / "run")
    rollouts = read_rows(run.rollouts)
    assert len(rollouts) == 16 and judged
    marks = ("<think>", "</think>", "<|", "[INST]", "<bos>", "<s>", "</s>", "_of_turn>", *kind.ends)
    assert not any(mark in text for text in judged for mark in marks)
    assert any(row["truncated"] for row in rollouts)

    for size in ("1", "64"):
        main(["eval", str(run.path), "--temperature", "0", "--batch-size", size, "--json"])
    one, other = (json.loads(line) for line in capsys.readouterr().out.splitlines()[-2:])
    assert one == other and one["n"] > 1

    merged = tmp_path / "merged"
    main(["export", str(run.path), "--merge", str(merged)])
    tokenizer, published = (AutoTokenizer.from_pretrained(path) for path in (merged, folder))
    assert (tokenizer.pad_token, tokenizer.padding_side) == (published.pad_token, published.padding_side)
    assert type(tokenizer) is type(published) and tokenizer.chat_template == published.chat_template
    assert tokenizer.get_vocab() == published.get_vocab()
    exported = AutoModelForCausalLM.from_pretrained(merged).eval()
    assert exported.generation_config.eos_token_id == published_ends(folder)
    config = Config(policy=str(folder), algorithm=algorithm)  # type: ignore[arg-type]
    policy, tokenizer = load_trained_policy(config, last_checkpoint(run))
    chat = chat_of(config, policy, tokenizer)
    answers = generate(policy, chat, TALKS, max_new_tokens=12, temperature=0)
    assert answers == [chat.completion(greedy_alone(exported, chat, messages, 12)) for messages in TALKS]


def published_ends(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).generation_config.eos_token_id


def test_training_refuses_to_be_greedy(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train("--judge", "sandbox", "--baseline", "iter0", "--temperature", "0")
    assert "temperature 0: greedy answers to one prompt are all the same" in capsys.readouterr().err
