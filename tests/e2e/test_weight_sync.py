"""Weights go to a generation engine merged, and the frozen ones stay the same bits."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration

from mpo_lite.training.ppo import PPO, add_value_head
from mpo_lite.training.trainers import PrefetchMixin
from mpo_lite.training.weight_sync import keep_frozen_weights
from tests.support.zoo import publish


class Engine:
    """What TRL's client is to it: takes the weights of each sync."""

    def __init__(self, **options: Any) -> None:
        self.weights: dict[str, torch.Tensor] = {}

    def init_communicator(self, device: Any) -> None:
        pass

    def update_named_params(
        self, metadata: list[tuple[str, str, list[int]]], weights: Iterator[tuple[str, torch.Tensor]]
    ) -> None:
        self.weights = {name: data.clone() for name, data in weights}
        assert [(n, str(w.dtype)[6:], list(w.shape)) for n, w in self.weights.items()] == metadata

    def reset_prefix_cache(self) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return publish("qwen2.5", tmp_path / "policy")


def policy(folder: Path, dtype: torch.dtype = torch.bfloat16, value_head: bool = False, **lora: Any) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    if value_head:
        add_value_head(model)
        lora |= {"modules_to_save": ["v_head"], "exclude_modules": ["v_head"]}
    torch.manual_seed(1)
    return get_peft_model(model, LoraConfig(r=8, lora_alpha=16, **({"target_modules": "all-linear"} | lora)))


def move(model: Any) -> None:
    """As an optimiser would."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter += 0.05 * torch.randn_like(parameter)


def frozen(model: Any) -> dict[str, str]:
    def digest(data: torch.Tensor) -> str:
        return hashlib.sha256(data.detach().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()

    return {name: digest(one.data) for name, one in model.named_parameters() if not one.requires_grad}


def connected(model: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """TRL's generation engine, with a client that answers nothing."""
    monkeypatch.setattr(vllm_generation, "is_vllm_available", lambda: True)
    monkeypatch.setattr(vllm_generation, "VLLMClient", Engine)
    return VLLMGeneration(model, Accelerator(cpu=True), None, mode="server")


OTHERS = {"use_dora": True}, {"lora_bias": True, "target_modules": ["q_proj", "v_proj"]}


@pytest.mark.parametrize("lora", [{}, *OTHERS], ids=["lora", "dora", "bias"])
def test_frozen_weights_are_the_same_bits_after_a_hundred_syncs(
    lora: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = policy(folder, **lora)
    before, engine = frozen(model), connected(model, monkeypatch)
    keep_frozen_weights(engine)
    for _ in range(100 if not lora else 5):
        move(model)
        engine.sync_weights()
    assert frozen(model) == before
    merged = model.merge_and_unload(safe_merge=True)
    assert dict(merged.named_parameters()).keys() == engine.vllm_client.weights.keys()
    for name, data in merged.named_parameters():
        assert torch.equal(data, engine.vllm_client.weights[name]), name


def test_trl_alone_lets_frozen_weights_drift(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When this fails, TRL has learnt it: what ``weight_sync`` does can go."""
    model = policy(folder)
    before, engine = frozen(model), connected(model, monkeypatch)
    move(model)
    engine.sync_weights()
    assert frozen(model) != before


def test_the_same_weights_are_sent_as_by_trl_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when TRL changes what it passes over."""
    model = policy(folder, torch.float32)
    move(model)
    engine = connected(model, monkeypatch)
    engine.sync_weights()
    theirs = engine.vllm_client.weights
    keep_frozen_weights(engine)
    engine.sync_weights()
    ours = engine.vllm_client.weights
    assert list(ours) == list(theirs)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in ours)


def test_a_sync_that_breaks_off_leaves_the_policy_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = policy(folder)
    move(model)
    before, engine = frozen(model), connected(model, monkeypatch)
    keep_frozen_weights(engine)
    passing = engine._iter_named_params()
    for _ in range(4):
        next(passing)
    passing.close()
    assert frozen(model) == before
    assert not any(getattr(module, "merged", False) for module in model.modules())
    engine.sync_weights()
    assert frozen(model) == before


def test_a_sync_that_passes_over_other_names_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = policy(folder)
    engine = connected(model, monkeypatch)
    passing = engine._iter_named_params
    engine._iter_named_params = lambda: ((f"model.{name}", data) for name, data in passing())
    keep_frozen_weights(engine)
    with pytest.raises(RuntimeError, match="passed by 14 adapted layers"):
        engine.sync_weights()


def test_the_value_head_stays_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = policy(folder, value_head=True)
    before, engine = frozen(model), connected(model, monkeypatch)
    keep_frozen_weights(engine, PPO.unsent)
    engine.sync_weights()
    published = AutoModelForCausalLM.from_pretrained(folder)
    assert engine.vllm_client.weights.keys() == dict(published.named_parameters()).keys()
    assert frozen(model) == before
    assert PrefetchMixin.unsent == ()
