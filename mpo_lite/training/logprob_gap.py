"""How likely the policy itself finds what it is rewarded for: a sign that costs nothing.

Every loss needs the policy's log-probabilities of its completions. Weighted by advantage, they tell what the
reward pays for: what the policy says anyway (then it grows narrower), or what it rarely says (then something
new is being learned, wanted or not).
"""

from __future__ import annotations

from typing import Any

import torch

GAP = "logprob_gap"
"""Name of the metric."""


class LogprobGapMixin:
    """Mixin for TRL's GRPOTrainer and RLOOTrainer, before them in the order of bases; logs the gap."""

    _passes: list[torch.Tensor] | None = None  # log-probabilities of the loss being computed, (b, T)

    def _get_per_token_logps_and_entropies(self, *arguments: Any, **options: Any) -> Any:
        output = super()._get_per_token_logps_and_entropies(*arguments, **options)
        if self._passes is not None:
            self._passes.append(output[0].detach())
        return output

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        self._passes = []
        try:
            loss = super()._compute_loss(model, inputs)
            logps = self._passes[0]
        finally:
            self._passes = None
        sums = advantage_sums(logps, inputs["advantages"], inputs["completion_mask"])
        gap = gap_of(self.accelerator.reduce(sums, reduction="sum"))
        if gap is not None:
            self._metrics["train" if self.model.training else "eval"][GAP].append(gap)
        return loss


def advantage_sums(logps: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Sums that ``gap_of`` needs; those of several processes add up.

    Args:
        logps: Log-probabilities of tokens, (B, T).
        advantages: (B,), or (B, T) where each token has its own.
        mask: (B, T), 1 for the tokens of completions.

    Returns:
        (4,): Σ A·log p and Σ A over tokens of positive advantage, Σ |A|·log p and Σ |A| over negative ones.
    """
    per_token = advantages if advantages.dim() == 2 else advantages.unsqueeze(1)
    weights = per_token.float() * mask
    better, worse = weights.clamp(min=0), (-weights).clamp(min=0)
    logps = logps.float()
    return torch.stack([(better * logps).sum(), better.sum(), (worse * logps).sum(), worse.sum()])


def gap_of(sums: torch.Tensor) -> float | None:
    """Mean log-probability per token, in nats, of what is rewarded minus that of what is not.

    Args:
        sums: From ``advantage_sums``, (4,).

    Returns:
        None where no advantage is positive or none negative.
    """
    better, better_weight, worse, worse_weight = sums.tolist()
    if better_weight <= 0 or worse_weight <= 0:
        return None
    return better / better_weight - worse / worse_weight
