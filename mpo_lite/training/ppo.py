"""PPO (arXiv 1707.06347), which TRL no longer has, as a small subclass of its GRPOTrainer.

Generation, log-probabilities, clipping and data order are GRPO's. What differs: a value head on the policy's
last hidden states, the KL penalty (k1, per token) within the reward, advantages by generalised advantage
estimation (arXiv 1506.02438) whitened over all processes, and a clipped value loss. Completions without a
reward are masked out of all of it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.func import functional_call
from trl import GRPOTrainer

from mpo_lite.training.logprob_gap import LogprobGapMixin
from mpo_lite.training.mpo import MPO
from mpo_lite.training.trainers import PrefetchMixin

VALUE_HEAD = "v_head"


class PPO(PrefetchMixin, LogprobGapMixin, GRPOTrainer):
    """The trainer; its arguments are a GRPOConfig, its policy has a value head (``add_value_head``).

    Args:
        mpo: The run; ``mpo.session.config.ppo`` holds what GRPOConfig does not know.
        model: A causal language model with a value head.
        options: GRPOTrainer's arguments; the adapter must save the value head.
    """

    unsent = (f"{VALUE_HEAD}.",)

    def __init__(self, mpo: MPO, model: Any, **options: Any) -> None:
        if not hasattr(model, VALUE_HEAD):
            raise ValueError("the policy has no value head: call add_value_head(model) first")
        mpo.baseline = "batch"
        self._values: list[torch.Tensor] = []  # of each scoring pass since it was emptied, (B, T)
        self._scores = torch.empty(0)  # (B,) rewards of this process's completions, NaN where there is none
        super().__init__(mpo, model, **options)

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        policy = self.accelerator.unwrap_model(self.model).get_base_model()
        seen: list[torch.Tensor] = []

        def note(module: Any, inputs: Any, output: Any) -> None:
            head = getattr(policy, VALUE_HEAD)
            hidden = output[0][:, -logits_to_keep - 1 : -1]  # (b, T, H): the state before each token
            # A value has no room for 8 bits, which is what FSDP's mixed precision gathers weights in.
            weights = {name: weight.float() for name, weight in head.named_parameters()}
            with torch.autocast(hidden.device.type, enabled=False):
                seen.append(functional_call(head, weights, hidden.float()).squeeze(-1))

        hook = getattr(policy, policy.base_model_prefix).register_forward_hook(note)
        try:
            output = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        finally:
            hook.remove()
        self._values.append(torch.cat(seen))
        return output

    def _calculate_rewards(self, inputs: Any, prompts: Any, *args: Any, **kwargs: Any) -> Any:
        rewards = super()._calculate_rewards(inputs, prompts, *args, **kwargs)  # of all processes
        first = self.accelerator.process_index * len(prompts)
        self._scores = rewards[first : first + len(prompts), 0]
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._values.clear()
        batch = super()._generate_and_score_completions(inputs)
        mask = batch["completion_mask"]  # (B, T)
        if "old_per_token_logps" not in batch:  # one pass over the batch: TRL needs none, values do
            self._values.clear()
            with torch.no_grad():
                batch["old_per_token_logps"] = self._compute_values(batch)
        values = self._values[0] * mask
        logps = batch["old_per_token_logps"]
        kl = (logps - batch.get("ref_per_token_logps", logps)) * mask
        scored = ~torch.isnan(self._scores)
        if self.model.training and self._is_first_of_version:
            values = (values + self._shift_values(values, mask * scored.unsqueeze(1))) * mask
        rewards = token_rewards(torch.nan_to_num(self._scores), self.beta * kl, mask)
        settings = self.mpo.session.config.ppo
        advantages, returns = gae(rewards, values, mask, settings.gamma, settings.lam)
        taken = mask * scored.unsqueeze(1)
        batch |= {
            "advantages": self._whiten(advantages, taken),
            "returns": returns,
            "old_values": values,
            "tool_mask": scored.unsqueeze(1).expand_as(mask).int(),
        }
        self._log("kl", kl, taken)
        return batch

    @property
    def _is_first_of_version(self) -> bool:
        """Whether the batch just scored is the first that the current rubric version judges."""
        state = self.mpo.session.state
        return state.version.batch == state.batch - 1

    def _shift_values(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Moves the value head's bias so that values have the mean of the scores.

        A new rubric shifts all rewards at once. Gradient steps would follow slowly, and until then every
        advantage would be off by the shift; whitening hides that only within one batch.

        Args:
            values: (B, T).
            mask: (B, T), 1 for the tokens of scored completions.

        Returns:
            What was added to the bias, the same in all processes.
        """
        gaps = torch.nan_to_num(self._scores).unsqueeze(1) - values
        shift = self._mean(gaps, mask)
        for name, parameter in self._value_head():
            if name.endswith("bias"):
                parameter.data += shift
        return shift

    def _value_head(self) -> list[tuple[str, torch.nn.Parameter]]:
        """The trained parameters of the value head by name, those that the optimiser moves."""
        model = self.accelerator.unwrap_model(self.model)
        if isinstance(model, FSDPModule):
            model.reshard()  # else they are gathered copies, which are dropped
        named = model.named_parameters()
        return [(name, one) for name, one in named if f".{VALUE_HEAD}." in name and one.requires_grad]

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """TRL's optimizer, with the value head in a group of its own where it has its own learning rate."""
        rate, is_split = self.mpo.session.config.ppo.value_learning_rate, self.optimizer is not None
        optimizer = super().create_optimizer(model)
        if rate is None or is_split:
            return optimizer
        head = {id(parameter) for _, parameter in self._value_head()}
        for group in list(optimizer.param_groups):
            taken = [parameter for parameter in group["params"] if id(parameter) in head]
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in head]
            if taken:
                optimizer.add_param_group({**group, "params": taken, "lr": rate})
        return optimizer

    def _compute_values(self, batch: dict[str, Any]) -> torch.Tensor:
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        attended = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        length, rows = batch["completion_ids"].shape[1], self.args.per_device_train_batch_size
        return self._get_per_token_logps_and_entropies(self.model, ids, attended, length, batch_size=rows)[0]

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        self._values.clear()
        with self._kl_is_in_the_reward():
            policy_loss = super()._compute_loss(model, inputs)
        mask = inputs["completion_mask"] * inputs["tool_mask"]
        settings = self.mpo.session.config.ppo
        losses = value_losses(
            self._values[0], inputs["old_values"], inputs["returns"], settings.cliprange_value
        )
        value_loss = (losses * mask).sum() / mask.sum().clamp(min=1)
        self._log("value_loss", losses.detach(), mask)
        return policy_loss + settings.vf_coef * value_loss / self.current_gradient_accumulation_steps

    @contextmanager
    def _kl_is_in_the_reward(self):
        beta, self.beta = self.beta, 0.0
        try:
            yield
        finally:
            self.beta = beta

    def _whiten(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Mean 0 and variance 1 over the tokens of all processes."""
        moments = torch.stack([(values * mask).sum(), (values.square() * mask).sum(), mask.sum().float()])
        total, squares, count = self.accelerator.reduce(moments, reduction="sum")
        mean = total / count.clamp(min=1)
        variance = (squares / count.clamp(min=1) - mean.square()).clamp(min=0)
        return (values - mean) * torch.rsqrt(variance + 1e-8) * mask

    def _log(self, name: str, values: torch.Tensor, mask: torch.Tensor) -> None:
        """The mean over the tokens of all processes, among TRL's own metrics."""
        mode = "train" if self.model.training else "eval"
        self._metrics[mode][name].append(self._mean(values, mask).item())

    def _mean(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The mean over the tokens of all processes; 0 where there are none."""
        sums = torch.stack([(values * mask).sum(), mask.sum().float()])
        total, count = self.accelerator.reduce(sums, reduction="sum")
        return total / count.clamp(min=1)


def add_value_head(model: Any) -> None:
    """Gives a causal language model a value head: one linear layer on its last hidden states, 0 at first."""
    hidden = model.config.get_text_config().hidden_size
    head = torch.nn.Linear(hidden, 1, device=model.device, dtype=torch.float32)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    setattr(model, VALUE_HEAD, head)


def token_rewards(scores: torch.Tensor, penalties: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Rewards per token: minus its KL penalty, and the completion's reward at its last token.

    Args:
        scores: (B,).
        penalties: (B, T), 0 beyond the end.
        mask: (B, T), 1 up to a completion's last token.
    """
    last = mask.sum(1, keepdim=True).clamp(min=1) - 1  # (B, 1)
    return (-penalties * mask).scatter_add(1, last.long(), scores.unsqueeze(1).to(penalties.dtype))


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation over completions; beyond its end a state is worth 0.

    Args:
        rewards: (B, T).
        values: (B, T).
        mask: (B, T), 1 up to a completion's last token.
        gamma: Discount, in [0, 1].
        lam: Weight of the longer estimates, in [0, 1].

    Returns:
        Advantages and returns, (B, T) each, 0 beyond the end.
    """
    values = values * mask
    advantages = torch.zeros_like(values)
    coming = torch.zeros_like(values[:, 0])
    following = torch.zeros_like(coming)
    for step in reversed(range(values.shape[1])):
        delta = rewards[:, step] + gamma * following - values[:, step]
        coming = (delta + gamma * lam * coming) * mask[:, step]
        advantages[:, step], following = coming, values[:, step]
    return advantages, (advantages + values) * mask


def value_losses(
    values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, cliprange: float
) -> torch.Tensor:
    """Squared error of values per token, (B, T): the larger of the plain and the clipped one, halved."""
    clipped = old + (values - old).clamp(-cliprange, cliprange)
    return 0.5 * torch.max((values - returns).square(), (clipped - returns).square())
