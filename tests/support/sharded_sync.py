"""Run by two processes: what a sharded policy sends to a generation engine is what a whole one sends."""

import sys
from copy import deepcopy
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor

from mpo_lite.training.weight_sync import keep_frozen_weights
from tests.e2e.test_weight_sync import Engine, move, policy
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration

vllm_generation.is_vllm_available = lambda: True
vllm_generation.VLLMClient = Engine
model = policy(Path(sys.argv[1]))
move(model)
whole = dict(deepcopy(model).merge_and_unload(safe_merge=True).named_parameters())
accelerator = Accelerator(cpu=True)
sharded, _ = accelerator.prepare(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad]))
assert all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
frozen = {name: p.full_tensor().clone() for name, p in sharded.named_parameters() if not p.requires_grad}
engine = VLLMGeneration(sharded, accelerator, None, mode="server")
keep_frozen_weights(engine)
engine.sync_weights()
if accelerator.is_main_process:
    sent = engine.vllm_client.weights
    assert sent.keys() == whole.keys()
    assert all(torch.equal(sent[name], data) for name, data in whole.items())
left = {name: p.full_tensor() for name, p in sharded.named_parameters() if not p.requires_grad}
assert all(torch.equal(frozen[name], data) for name, data in left.items())
print("the same")
