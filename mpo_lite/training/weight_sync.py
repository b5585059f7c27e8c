"""Weights on their way to a generation engine, without a change to those that are frozen.

TRL merges the adapter into the base weights in place, sends them, and subtracts it again. In bfloat16 the
subtraction does not undo the sum: the frozen weights, and with them the reference policy, drift with every
sync. Here each adapted layer is merged on a copy of its own, one at a time, while TRL passes over it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.distributed.tensor import DTensor

_PREFIX = "base_model.model."
"""Peft's, before the names that a policy's modules have without an adapter."""


def keep_frozen_weights(engine: Any, unsent: tuple[str, ...] = ()) -> None:
    """Has a ``VLLMGeneration`` of TRL's send merged copies.

    Args:
        engine: The engine, changed in place.
        unsent: Beginnings of the names of weights that the engine's model does not have.
    """
    passing = engine._iter_named_params

    def iterate_weights() -> Iterator[tuple[str, torch.Tensor]]:
        for name, data in merged_weights(engine.model, passing, engine._fix_param_name_to_vllm):
            if not name.startswith(unsent):
                yield name, data

    engine._iter_named_params = iterate_weights


def merged_weights(
    model: Any, passing: Any, name_in_engine: Callable[[str], str]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of a policy under their names in the engine, the adapter merged in.

    Args:
        model: The policy.
        passing: Gives name and data of each weight that is sent; TRL's ``_iter_named_params``.
        name_in_engine: Of a weight of the policy without its adapter; TRL's ``_fix_param_name_to_vllm``.

    Raises:
        RuntimeError: TRL did not pass over all adapted layers.
    """
    if not isinstance(model, PeftModel):
        yield from passing()
        return
    layers = {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    adapted = {
        name_in_engine(f"{name.removeprefix(_PREFIX)}.{own_name}"): (layer, own_name)
        for name, layer in layers.items()
        for own_name, _ in layer.get_base_layer().named_parameters(recurse=False)
    }
    left = set(layers.values())
    with _suspend_merging(model):
        for name, data in passing():
            if name in adapted:
                layer, own_name = adapted[name]
                left.discard(layer)
                with _gather_shards(layer):
                    data = _merge_parameter(layer, own_name)
            yield name, data
    if left:
        raise RuntimeError(f"TRL's weight sync passed by {len(left)} adapted layers; please report this")


@contextmanager
def _suspend_merging(model: Any) -> Iterator[None]:
    """Has the model's own merging do nothing."""
    model.merge_adapter = model.unmerge_adapter = lambda: None
    try:
        yield
    finally:
        del model.merge_adapter, model.unmerge_adapter


@contextmanager
def _gather_shards(layer: Any) -> Iterator[None]:
    """Gives a layer whole parameters instead of shards, of which peft would merge nothing without a word."""
    shards = [
        (module, name, parameter)
        for module in layer.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(parameter, DTensor)
    ]
    try:
        for module, name, shard in shards:
            setattr(module, name, torch.nn.Parameter(shard.full_tensor(), requires_grad=False))
        yield
    finally:
        for module, name, shard in shards:
            setattr(module, name, shard)


def _merge_parameter(layer: Any, name: str) -> torch.Tensor:
    """A parameter of a layer with the adapter merged in, as a copy; the layer is left as it was."""
    base = layer.get_base_layer()
    # Merging replaces a weight's data, and the whole parameter, marked as unquantised, where it has 4 bits.
    before = [(key, each, each.data, dict(vars(each))) for key, each in base.named_parameters(recurse=False)]
    try:
        layer.merge(safe_merge=True)  # peft's word for: on a copy
        return getattr(base, name).data
    finally:
        layer.merged_adapters.clear()
        for key, parameter, data, attributes in before:
            parameter.data = data
            vars(parameter).update(attributes)
            setattr(base, key, parameter)
