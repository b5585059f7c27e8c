"""The trainers: TRL's, with judging hidden behind generation.

```python
mpo = MPO(judge="gpt-4o", meta="claude", data="my_prompts.jsonl")
trainer = GRPO(mpo, model, args=GRPOConfig(..., shuffle_dataset=False), peft_config=LoraConfig())
```
"""

from __future__ import annotations

from trl import GRPOTrainer, RLOOTrainer

from mpo_lite.training.ppo import PPO
from mpo_lite.training.trainers import Overlap

__all__ = ["GRPO", "PPO", "RLOO"]


class GRPO(Overlap, GRPOTrainer):
    """Group relative policy optimization (arXiv 2402.03300); arguments are a GRPOConfig."""


class RLOO(Overlap, RLOOTrainer):
    """REINFORCE leave-one-out (arXiv 2402.14740); arguments are an RLOOConfig."""
