"""The trainers: TRL's, with judging hidden behind generation.

```python
mpo = MPO(judge="gpt-4o", meta="claude", data="my_prompts.jsonl")
trainer = GRPO(mpo, model, args=GRPOConfig(..., shuffle_dataset=False), peft_config=LoraConfig())
```

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
from pathlib import Path
from typing import Any

from transformers import StoppingCriteriaList
from trl import GRPOTrainer, RLOOTrainer

from mpo_lite.activity import Activity, activity
from mpo_lite.training.chat import Chat
from mpo_lite.training.generate import RowEnds
from mpo_lite.training.logprob_gap import LogprobGapMixin
from mpo_lite.training.mpo import MPO, text_of
from mpo_lite.training.sharding import require_same_sharding
from mpo_lite.training.weight_sync import keep_frozen_weights


class PrefetchMixin:
    """Mixin for TRL's GRPOTrainer and RLOOTrainer, before them in the order of bases.

    Args:
        mpo: Gives the trainer its reward and callback, and its data where none are given.
        options: The trainer's own arguments.
    """

    unsent: tuple[str, ...] = ()
    """Beginnings of the names of weights that a generation engine does not have."""

    def __init__(self, mpo: MPO, *arguments: Any, **options: Any) -> None:
        if options.get("reward_funcs"):
            raise TypeError("the reward comes from mpo; give further reward functions to MPO(extra=[...])")
        self.mpo = mpo
        options["reward_funcs"] = mpo.reward
        options["callbacks"] = [mpo.callback, *(options.get("callbacks") or ())]
        if options.get("train_dataset") is None:
            options["train_dataset"] = mpo.dataset("train")
        super().__init__(*arguments, **options)
        mpo.callback.chat = Chat(self.model, self._tokenizer, self.chat_template_kwargs)
        if getattr(self, "vllm_generation", None):
            keep_frozen_weights(self.vllm_generation, self.unsent)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        require_same_sharding(Path(resume_from_checkpoint), self.is_fsdp_enabled)
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        if not isinstance(prompts[0], str):
            prompts = [self.mpo.callback.chat.conversation(prompt) for prompt in prompts]
        return super()._tokenize_prompts(prompts)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if self.model.training:
            prompts = [row.get("task_prompt") or text_of(row["prompt"]) for row in inputs]
            self.mpo.prefetcher.start_batch(prompts, self.num_generations)
        return super()._generate_and_score_completions(inputs)

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        generated = super()._generate(prompts)
        if self.model.training:
            completions = next(part for part in generated[2:] if _are_completions(part, len(prompts)))
            for row, one in enumerate(self.mpo.answers(completions, generated[1])):
                self.mpo.prefetcher.add_completion(row, one)
        return generated

    def _generate_single_turn(self, *arguments: Any, **options: Any) -> Any:
        prompt_ids = arguments[0] if arguments else options["prompt_ids"]
        with activity("generating", total=len(prompt_ids), unit="answers") as work, self._watch_rows(work):
            return super()._generate_single_turn(*arguments, **options)

    @contextmanager
    def _watch_rows(self, work: Activity) -> Iterator[None]:
        """Has the model's ``generate`` tell of rows that end: for display, and to be judged at once."""
        model, chat = self.accelerator.unwrap_model(self.model_wrapped), self.mpo.callback.chat
        generate, judged = model.generate, self.model.training and self.mpo.session.config.overlap

        def on_end(row: int, ids: list[int]) -> None:
            work.advance()
            if judged:
                self.mpo.prefetcher.add_completion(row, chat.completion(ids))

        def generate_watched(**inputs: Any) -> Any:
            watch = RowEnds(inputs["input_ids"].shape[1], chat.ends, on_end)
            return generate(**inputs, stopping_criteria=StoppingCriteriaList([watch]))

        own = vars(model).get("generate")  # FSDP's, which gathers the weights
        model.generate = generate_watched
        try:
            yield
        finally:
            del model.generate
            if own:
                model.generate = own


class GRPO(PrefetchMixin, LogprobGapMixin, GRPOTrainer):
    """Group relative policy optimization (arXiv 2402.03300); arguments are a GRPOConfig."""


class RLOO(PrefetchMixin, LogprobGapMixin, RLOOTrainer):
    """REINFORCE leave-one-out (arXiv 2402.14740); arguments are an RLOOConfig."""


def _are_completions(part: Any, rows: int) -> bool:
    """Whether this is the list of B completions, texts or conversations, and not one of token ids."""
    return (
        isinstance(part, list)
        and len(part) == rows
        and (isinstance(part[0], str) or (bool(part[0]) and isinstance(part[0][-1], dict)))
    )
