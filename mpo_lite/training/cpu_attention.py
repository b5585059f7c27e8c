"""TRL's asynchronous trainer on a CPU: attention over packed sequences in plain torch.

TRL takes it from FlashAttention's GPU kernels, and asks a GPU for its peak performance. Only small policies
train on a CPU; what is trained is the same.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from mpo_lite.errors import ConfigError
from mpo_lite.training.trl_async import async_grpo_trainer, packing


def use_cpu_attention() -> None:
    """Has TRL's asynchronous trainer compute attention by ``attend_packed``."""
    packing._flash_attn = lambda: SimpleNamespace(flash_attn_varlen_func=attend_packed)
    async_grpo_trainer.get_peak_flops_per_device = lambda *_: None


def attend_packed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_bounds: torch.Tensor,
    key_bounds: torch.Tensor,
    *_: Any,
    softmax_scale: float | None = None,
    causal: bool = True,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
) -> torch.Tensor:
    """Attention of each segment to its own keys, with the arguments of FlashAttention's function.

    Args:
        query: (N, H, D); the segments one after the other.
        key: (M, H', D) with H a multiple of H'; the keys of the segments one after the other.
        value: The same.
        query_bounds: (S + 1,) where segments begin and end.
        key_bounds: The same of keys. The last query of a segment is at the place of its last key.
        softmax_scale: Factor on the products; None: 1/√D.
        causal: Must be set: a query sees no later key.
        window_size: How many keys before its own a query sees at most; -1: all of them.
        softcap: Must be 0.

    Returns:
        (N, H, D).

    Raises:
        ConfigError: The policy caps attention scores.
    """
    if softcap or not causal:
        raise ConfigError(
            "--trainer async: this policy's kind of attention is computed on a GPU only; use --trainer sync"
        )
    repeats = query.shape[1] // key.shape[1]
    outputs: list[torch.Tensor] = []
    query_ends, key_ends = query_bounds.tolist(), key_bounds.tolist()
    for index in range(len(query_ends) - 1):
        own_query = query[query_ends[index] : query_ends[index + 1]].transpose(0, 1)
        own = slice(key_ends[index], key_ends[index + 1])
        own_key, own_value = (
            each[own].transpose(0, 1).repeat_interleave(repeats, dim=0) for each in (key, value)
        )
        seen = _visible(own_query.shape[1], own_key.shape[1], window_size[0]).to(query.device)
        attended = scaled_dot_product_attention(
            own_query[None], own_key[None], own_value[None], attn_mask=seen, scale=softmax_scale
        )
        outputs.append(attended[0].transpose(0, 1))
    return torch.cat(outputs)


def _visible(queries: int, keys: int, window: int) -> torch.Tensor:
    """(queries, keys): which keys each of the last ``queries`` places sees."""
    seen = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    return seen if window < 0 else seen.triu(keys - queries - window)
