"""Generation outside training, in one place for all tokenizers, and the gold metric of what is generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from mpo_lite.activity import activity
from mpo_lite.errors import TaskError
from mpo_lite.jsonl import journal
from mpo_lite.loop.session import Answer, Session
from mpo_lite.tasks.data import Prompts
from mpo_lite.tasks.spec import Metric, Task
from mpo_lite.training.chat import Chat
from mpo_lite.types import Completion

GENERATION_SEED = 20_250_428
"""Sampling seed of everything generated here: its own, and the same each time, so that evaluations differ by
the policy."""
BATCH_SIZE = 64
"""Prompts that are generated at once, unless said otherwise."""


def gold_row(answers: Sequence[Completion], task: Task, gold: Metric, prompts: Prompts) -> dict[str, Any]:
    """Measures answers to the held-out prompts.

    Args:
        answers: One to each of the N held-out prompts.
        task: Named in errors.
        gold: The metric, in [0, 1].
        prompts: With what the metric needs to know of them.

    Returns:
        ``gold`` (mean), ``n`` and ``samples``: prompt, completion and gold of each that could be measured.

    Raises:
        TaskError: None could.
    """
    rows = [
        {"prompt": prompt, "completion": answer.text, "gold": gold(answer.text, prompts.row(prompt))}
        for prompt, answer in zip(prompts.held_out, answers, strict=True)
    ]
    rows = [row for row in rows if row["gold"] is not None]
    if not rows:
        raise TaskError(f"task {task.name}: the gold metric could measure none of {len(answers)} answers")
    return {"gold": sum(row["gold"] for row in rows) / len(rows), "n": len(rows), "samples": rows}


def record_gold(session: Session, batch: int, answer: Answer) -> float | None:
    """Measures gold of the present policy and journals it.

    Args:
        session: The run.
        batch: Batches or steps that the policy was trained for.
        answer: The policy.

    Returns:
        Gold; None where there is no metric or nothing held out.
    """
    held_out, gold = session.state.prompts.held_out, session.context.gold
    if gold is None or not held_out:
        return None
    measured = gold_row(answer(held_out), session.task, gold, session.state.prompts)
    row = {"batch": batch, "version": session.state.version.number, **measured}
    journal(session.run.gold, [row])
    session.context.observe("gold", row)
    return row["gold"]


def generate(
    model: Any,
    chat: Chat,
    conversations: Sequence[Sequence[Any]],
    *,
    max_new_tokens: int,
    temperature: float,
    batch_size: int = BATCH_SIZE,
) -> list[Completion]:
    """One completion per conversation; the state of training and of all random generators is kept.

    Args:
        model: A causal language model.
        chat: Its tokenizer.
        conversations: N lists of chat messages.
        max_new_tokens: Longest completion in tokens.
        temperature: Of sampling; 0 takes the likeliest token each time.
        batch_size: Conversations that are generated at once, at most.

    Returns:
        N completions.
    """
    # Spelled out in full: published models ship sampling settings of their own, such as a repetition penalty.
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        pad_token_id=chat.pad,
        eos_token_id=sorted(chat.ends),
        do_sample=temperature > 0,
        temperature=temperature or 1.0,
        top_k=0 if temperature else 50,  # transformers' own value, which greedy search does not warn of
        top_p=1.0,
        repetition_penalty=1.0,
    )
    completions: list[Completion] = []
    with (
        activity("generating", total=len(conversations), unit="answers") as work,
        _isolated_evaluation(model),
        torch.no_grad(),
    ):
        torch.manual_seed(GENERATION_SEED)
        for start in range(0, len(conversations), batch_size):
            prompts = [chat.prompt_ids(one) for one in conversations[start : start + batch_size]]
            ids, attended = pad_left(prompts, chat.pad)  # (B, T_prompt)
            watch = RowEnds(ids.shape[1], chat.ends, lambda row, ids: work.advance())
            output = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=attended.to(model.device),
                generation_config=settings,
                stopping_criteria=StoppingCriteriaList([watch]),
            )  # (B, T_prompt + T_new)
            work.advance(len(prompts) - watch.ended)
            completions += map(chat.completion, output[:, ids.shape[1] :].tolist())
    return completions


def pad_left(prompts: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts as one tensor, each at its right end, so that what is generated follows it without a gap.

    Args:
        prompts: B lists of token ids.
        pad: Id to pad with.

    Returns:
        Ids and attention mask, (B, T) each.
    """
    length = max(map(len, prompts))
    gaps = [length - len(ids) for ids in prompts]
    ids = [[pad] * gap + list(one) for gap, one in zip(gaps, prompts, strict=True)]
    attended = [[0] * gap + [1] * (length - gap) for gap in gaps]
    return torch.tensor(ids), torch.tensor(attended)


class RowEnds(StoppingCriteria):
    """Never stops anything; tells of each row of a batch once, at its first end-of-sequence token.

    Args:
        start: Length of the prompts, padding included.
        ends: Ids of the tokens that end a sequence.
        tell: Called with the row and its generated token ids.

    Attributes:
        ended: Rows that have ended.
    """

    def __init__(self, start: int, ends: frozenset[int], tell: Callable[[int, list[int]], None]) -> None:
        self.ended = 0
        self._start, self._ends, self._tell = start, sorted(ends), tell
        self._open: torch.Tensor | None = None  # (B,) rows that have not ended

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Called after each token; (B,) of False."""
        last = input_ids[:, -1]
        if self._open is None:
            self._open = torch.ones_like(last, dtype=torch.bool)
        fresh = self._open & torch.isin(last, torch.tensor(self._ends, device=last.device))
        self._open &= ~fresh
        for row in fresh.nonzero().flatten().tolist():
            self.ended += 1
            self._tell(row, input_ids[row, self._start :].tolist())
        return torch.zeros_like(last, dtype=torch.bool)


@contextmanager
def _isolated_evaluation(model: Any):
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
