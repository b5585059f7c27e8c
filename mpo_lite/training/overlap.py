"""Judging hidden behind generation: a trainer that tells of each completion as it ends.

TRL generates a batch, runs its log-probability passes, and only then asks for rewards. Here each completion
is told of at its end-of-sequence token, while the others are still generated; what is still missing when
generation ends (all of it, where vLLM generates) overlaps the passes that follow. Rewards are asked for where
TRL asks for them, so that losses are the same with and without.

The methods overridden are TRL's own, with underscores: a test compares their signatures and what they return
with what is relied on here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from mpo_lite.training.mpo import MPO, text_of


class Overlap:
    """Mixin for TRL's GRPOTrainer and RLOOTrainer, before them in the order of bases.

    Args:
        mpo: Gives the trainer its reward and callback, and its data where none are given.
        options: The trainer's own arguments.
    """

    def __init__(self, mpo: MPO, *arguments: Any, **options: Any) -> None:
        if options.get("reward_funcs"):
            raise TypeError("the reward comes from mpo; give further reward functions to MPO(extra=[...])")
        self.mpo = mpo
        options["reward_funcs"] = mpo.reward
        options["callbacks"] = [mpo.callback, *(options.get("callbacks") or ())]
        if options.get("train_dataset") is None:
            options["train_dataset"] = mpo.dataset("train")
        super().__init__(*arguments, **options)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if self.model.training:
            prompts = [row.get("task_prompt") or text_of(row["prompt"]) for row in inputs]
            self.mpo.early.expect(prompts, self.num_generations)
        return super()._generate_and_score_completions(inputs)

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        told = super()._generate(prompts)
        if self.model.training:
            completions = next(part for part in told[2:] if _are_completions(part, len(prompts)))
            for row, completion in enumerate(completions):
                self.mpo.early.ended(row, text_of(completion))
        return told

    def _generate_single_turn(self, *arguments: Any, **options: Any) -> Any:
        with self._watched():
            return super()._generate_single_turn(*arguments, **options)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Has the model's ``generate`` tell of rows that end, where their text is what they decode to."""
        tokenizer = self._tokenizer
        parsed = any(getattr(tokenizer, name, None) for name in ("response_template", "response_schema"))
        if parsed or not self.model.training or not self.mpo.session.config.overlap:
            yield
            return
        model = self.accelerator.unwrap_model(self.model_wrapped)
        generate = model.generate

        def watched(**inputs: Any) -> Any:
            start = inputs["input_ids"].shape[1]
            watch = _Watch(start, self.eos_token_ids, tokenizer, self.mpo.early.ended)
            return generate(**inputs, stopping_criteria=StoppingCriteriaList([watch]))

        model.generate = watched
        try:
            yield
        finally:
            del model.generate


class _Watch(StoppingCriteria):
    """Never stops anything; tells of each row once, at its first end-of-sequence token."""

    def __init__(self, start: int, ends: list[int], tokenizer: Any, tell: Any) -> None:
        self._start, self._ends, self._tokenizer, self._tell = start, ends, tokenizer, tell
        self._open: torch.Tensor | None = None  # (B,) rows that have not ended

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        last = input_ids[:, -1]
        if self._open is None:
            self._open = torch.ones_like(last, dtype=torch.bool)
        fresh = self._open & torch.isin(last, torch.tensor(self._ends, device=last.device))
        self._open &= ~fresh
        for row in fresh.nonzero().flatten().tolist():
            ids = input_ids[row, self._start :].tolist()
            self._tell(row, self._tokenizer.decode(ids, skip_special_tokens=True))
        return torch.zeros_like(last, dtype=torch.bool)


def _are_completions(part: Any, rows: int) -> bool:
    """Whether this is the list of B completions, texts or conversations, and not one of token ids."""
    return (
        isinstance(part, list)
        and len(part) == rows
        and (isinstance(part[0], str) or (bool(part[0]) and isinstance(part[0][-1], dict)))
    )
