"""The callback of an asynchronous training: keeps run and trainer in step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mpo_lite.errors import StopRun
from mpo_lite.jsonl import JsonRow

if TYPE_CHECKING:
    from mpo_lite.training.asynchronous import AsyncJob

LARGEST_KL = 0.5
"""Nats per token between trainer and server at a step before which no weights have moved: rounding alone
leaves less than a hundredth.
"""
# TRL's names of what the metrics of a batch take over from its log.
_TRL_METRICS = {
    "loss": "loss",
    "entropy": "entropy",
    "grad_norm": "grad_norm",
    "completions/mean_length": "tokens",
    "completions/clipped_ratio": "clipped",
    "perf/step_s": "step_seconds",
    "perf/rollout_wait_s": "wait_seconds",
    "kl": "sampler_kl",  # to the policy that answered
    "sample/staleness_mean": "staleness",
    "sample/dropped_stale_total": "dropped",
}


class AsyncCallback(TrainerCallback):
    """Keeps run and trainer in step.

    Args:
        job: The training.
        trainer: TRL's.
    """

    def __init__(self, job: AsyncJob, trainer: Any) -> None:
        self._job, self._trainer = job, trainer
        self._first_step = 1

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measures gold of the initial policy."""
        self._name_policy()
        self._first_step = state.global_step + 1
        if not state.global_step:
            self._job.evaluate(0)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ends the run where something asks for it."""
        self._job.check()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluates where due."""
        self._name_policy()
        if (
            state.global_step % self._job.session.config.eval_every == 0
            or state.global_step >= state.max_steps
        ):
            self._job.evaluate(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Gives the step's figures to the batches that are judged from now on."""
        known = {ours: (logs or {}).get(theirs) for theirs, ours in _TRL_METRICS.items()}
        figures: JsonRow = {name: value for name, value in known.items() if value is not None}
        self._job.owner.figures = figures or self._job.owner.figures
        divergence = figures.get("sampler_kl")
        if divergence is not None and state.global_step == self._first_step and divergence > LARGEST_KL:
            raise StopRun(
                f"the policy that trains is {divergence:.2g} nats per token away from the one that answered: "
                "have vLLM serve the same model"
            )

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Completes the checkpoint."""
        step = state.global_step
        self._job.complete_checkpoint(Path(args.output_dir) / f"checkpoint-{step}", step)

    def _name_policy(self) -> None:
        """Has the server answer by the adapter of this step."""
        self._job.policy.model = f"{self._trainer._lora_name}-v{self._trainer.model_version}"
