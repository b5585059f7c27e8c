"""Sampling from the policy outside training, and the gold metric of what it says."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import torch

from mpo_lite.tasks.data import Prompts
from mpo_lite.tasks.spec import Metric, Task

GOLD_SEED = 20_250_428
"""Sampling seed of every gold evaluation: its own, and the same each time, so that evaluations differ by the
policy."""
GOLD_BATCH = 64


def gold_row(model: Any, tokenizer: Any, task: Task, gold: Metric, prompts: Prompts, **options: Any) -> dict:
    """Answers the held-out prompts and measures the answers.

    Args:
        model: The policy, trained or in training; left as it was.
        tokenizer: Its tokenizer.
        task: Makes conversations of prompts.
        gold: The metric, in [0, 1].
        prompts: Of which the N held-out ones are answered.
        options: ``max_new_tokens`` and ``temperature`` of ``sample``.

    Returns:
        ``gold`` (mean), ``n`` and ``samples``: prompt, completion and gold of each.
    """
    asked = prompts.held_out
    completions = sample(model, tokenizer, [task.policy_messages(prompt) for prompt in asked], **options)
    rows = [
        {"prompt": prompt, "completion": completion, "gold": gold(completion, prompts.row(prompt))}
        for prompt, completion in zip(asked, completions, strict=True)
    ]
    return {"gold": sum(row["gold"] for row in rows) / len(rows), "n": len(rows), "samples": rows}


def sample(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[list[Any]],
    *,
    max_new_tokens: int,
    temperature: float,
) -> list[str]:
    """One completion per conversation, sampled; the state of training and of all random generators is kept.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer, with a chat template.
        conversations: N lists of chat messages.
        max_new_tokens: Longest completion in tokens.
        temperature: Of sampling, above 0.

    Returns:
        N texts without special tokens.
    """
    texts: list[str] = []
    with _apart(model), torch.no_grad():
        torch.manual_seed(GOLD_SEED)
        for start in range(0, len(conversations), GOLD_BATCH):
            inputs = tokenizer.apply_chat_template(
                conversations[start : start + GOLD_BATCH],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                padding=True,
                padding_side="left",
            ).to(model.device)
            output = model.generate(
                **inputs,
                do_sample=True,
                temperature=temperature,
                top_k=0,
                top_p=1.0,
                max_new_tokens=max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
                use_cache=True,
            )  # (B, T_prompt + T_new)
            texts += tokenizer.batch_decode(
                output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            )
    return texts


@contextmanager
def _apart(model: Any):
    """Evaluation mode and random numbers of its own: an evaluated run trains on exactly as one that was
    not.
    """
    training = model.training
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        model.eval()
        try:
            yield
        finally:
            model.train(training)
