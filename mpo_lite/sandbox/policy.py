"""Builds the tiny chat policy of the sandbox from nothing.

A decoder of 0.36M parameters over a word-level vocabulary, trained for a minute on template essays of
mixed quality: some complete, some with parts missing, off topic, padded with form words or repeating
themselves. So the policy can write well and badly from the start, and reinforcement decides which it does
more often.

The configuration is Granite's (a plain decoder with rotary positions) for one reason: ``AutoTokenizer``
chooses the tokenizer class by the model type, and this type leaves a tokenizer file as it is; under others
a word-level tokenizer is loaded as a byte-level one and mangles text. Role tokens are special tokens; the
chat template breaks their brackets inside messages, so that no message can type one.

Rebuild: ``mpo-lite sandbox policy OUT``. The same versions on the same machine give the same
bytes.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import GraniteConfig, GraniteForCausalLM, PreTrainedTokenizerFast

from mpo_lite.sandbox.data import (
    BENEFITS,
    CONNECTIVES,
    INSISTENCE,
    MARKS,
    PEOPLE,
    PRAISE,
    TIMES,
    TOPICS,
    VIRTUES,
    Topic,
    prompts,
    topic_of,
    vocabulary,
)

PAD, UNK, END = "<|pad|>", "<|unk|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + (message['role'] if message['role'] in ['system', 'assistant'] else 'user') + '|>' }}"
    "{{ ' ' + message['content'] | replace('<|', '< |') | replace('|>', '| >') + ' <|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_ESSAYS = 6000
_EPOCHS = 5
_BATCH = 64
_PEAK_RATE = 4e-3
_FAMILIES = (CONNECTIVES, PRAISE, INSISTENCE, MARKS)


def essay(topic: Topic, rng: random.Random) -> str:
    """One template essay, at most 63 words and marks; its quality is drawn first and sways every choice."""
    quality = rng.random()
    part = 0.48 + 0.5 * quality  # chance that a part is there
    astray = 0.18 * (1.0 - quality)  # chance that a word comes from another topic

    def noun() -> str:
        source = rng.choice(TOPICS) if rng.random() < astray else topic
        return rng.choice(source.nouns)

    parts: list[str] = []
    if rng.random() < part:
        parts.append(_claim(topic, rng))
    for _ in range(2):
        if rng.random() < part:
            parts.append(_reason(topic, noun(), rng))
    if rng.random() < part:
        parts.append(_example(noun(), rng))
    if rng.random() < 0.25 * (1.0 - quality) and parts:
        parts.insert(rng.randrange(len(parts) + 1), rng.choice(parts))  # says a thing twice
    if rng.random() < 0.2 + 0.4 * (1.0 - quality):
        _pad(parts, rng)
    if rng.random() < part or not parts:
        parts.append(_close(topic, rng))
    while len(" ".join(parts).split()) > 63:
        parts.pop(rng.randrange(len(parts)))
    return " ".join(parts)


def _claim(topic: Topic, rng: random.Random) -> str:
    start = rng.choice(("i think that ", "i say that ", ""))
    return f"{start}{topic.name} are {rng.choice(VIRTUES)} for people ."


def _reason(topic: Topic, noun: str, rng: random.Random) -> str:
    benefit = rng.choice(BENEFITS)
    return rng.choice(
        (
            f"one reason is that the {noun} gives {benefit} .",
            f"{topic.name} {topic.verb} because people need {benefit} .",
            f"people need the {noun} because it gives {benefit} .",
        )
    )


def _example(noun: str, rng: random.Random) -> str:
    person, time = rng.choice(PEOPLE), rng.choice(TIMES)
    return rng.choice(
        (
            f"for example my {person} used a {noun} last {time} .",
            f"for example a {noun} helped my {person} last {time} .",
        )
    )


def _close(topic: Topic, rng: random.Random) -> str:
    ending = f"in the end {topic.name} are {rng.choice(VIRTUES)} ."
    return rng.choice((ending, f"so we should keep {topic.name} ."))


def _pad(parts: list[str], rng: random.Random) -> None:
    """Adds form words: before a sentence, as a mark, or a run of them."""
    family = rng.choice(_FAMILIES)
    for _ in range(rng.randint(1, 3)):
        run = " ".join(rng.choice(family) for _ in range(rng.choice((1, 1, 2, 4, 6))))
        if family is PRAISE:
            piece = f"this essay is {run} ."
        elif family is MARKS or rng.random() < 0.5:
            piece = run
        else:
            piece = f"{run} ,"
        parts.insert(rng.randrange(len(parts) + 1), piece)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A lower-casing word-level tokenizer; what it does not know becomes ``<|unk|>``."""
    special = (PAD, UNK, END, *ROLES)
    vocab = {word: index for index, word in enumerate((*special, *vocabulary()))}
    core = Tokenizer(models.WordLevel(vocab, unk_token=UNK))
    core.normalizer = normalizers.Lowercase()  # type: ignore[assignment]
    core.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex(r"[\p{L}\p{N}]+|[^\p{L}\p{N}]"), behavior="isolated"),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNK,
        eos_token=END,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def _make_model(tokenizer: PreTrainedTokenizerFast) -> GraniteForCausalLM:
    config = GraniteConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        attention_multiplier=32**-0.5,
        max_position_embeddings=2048,
        initializer_range=0.05,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return GraniteForCausalLM(config)


def _batches(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> list[dict[str, torch.Tensor]]:
    """Essays as padded batches of near-equal length; the prompt carries no loss."""
    asked = [row["prompt"] for row in prompts("train")]
    rows: list[tuple[list[int], int]] = []
    for _ in range(_ESSAYS):
        prompt = rng.choice(asked)
        topic = topic_of(prompt)
        if topic is None:
            raise ValueError(f"a sandbox prompt names no topic: {prompt!r}")
        head: str = tokenizer.apply_chat_template(  # type: ignore[assignment]
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        text = f"{head} {essay(topic, rng)} {END}"
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[assignment]
        rows.append((ids, len(tokenizer(head, add_special_tokens=False)["input_ids"])))  # type: ignore[arg-type]
    rows.sort(key=lambda row: len(row[0]))
    states: list[dict[str, torch.Tensor]] = []
    for start in range(0, len(rows), _BATCH):
        chunk = rows[start : start + _BATCH]
        width = max(len(ids) for ids, _ in chunk)
        inputs = torch.zeros(len(chunk), width, dtype=torch.long)  # (B, T); the pad id is 0
        labels = torch.full((len(chunk), width), -100)
        for index, (ids, skipped) in enumerate(chunk):
            inputs[index, : len(ids)] = torch.tensor(ids)
            labels[index, skipped : len(ids)] = torch.tensor(ids[skipped:])
        states.append({"input_ids": inputs, "attention_mask": (inputs != 0).long(), "labels": labels})
    return states


def build(out: Path, seed: int = 0) -> None:
    """Makes, trains and saves the policy.

    Args:
        out: Folder to write; made if missing. Loads through ``AutoModelForCausalLM`` and ``AutoTokenizer``.
        seed: Decides initial weights, essays and their order.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in a fixed order, and more threads would only wait for each other
    try:
        torch.manual_seed(seed)
        rng = random.Random(seed)
        tokenizer = make_tokenizer()
        model = _make_model(tokenizer)
        _train(model, _batches(tokenizer, rng), rng)
    finally:
        torch.set_num_threads(threads)
    model.generation_config.update(do_sample=True, temperature=1.0)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _train(model: GraniteForCausalLM, batches: list[dict[str, torch.Tensor]], rng: random.Random) -> None:
    total = _EPOCHS * len(batches)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_PEAK_RATE, weight_decay=0.05)

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / 40) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / total)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    model.train()
    for _ in range(_EPOCHS):
        rng.shuffle(batches)
        for batch in batches:
            output: Any = model(**batch)
            output.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.eval()
