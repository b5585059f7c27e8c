"""RLOO, judged while it generates, with a reward of your own. See README.md beside it."""

import sys

from peft import LoraConfig
from trl import RLOOConfig

from mpo_lite import MPO, RLOO


def brevity(completions: list, **columns: object) -> list[float]:
    """A hundredth off per word above forty."""
    return [-0.01 * max(0, len(completion[-1]["content"].split()) - 40) for completion in completions]


policy, output = sys.argv[1], sys.argv[2]
mpo = MPO(extra=[brevity], policy=policy, run_dir=f"{output}/mpo", use_gate=False, steps=4, interval=2,
          batch_prompts=4, group_size=4)  # fmt: skip
args = RLOOConfig(output, num_generations=4, per_device_train_batch_size=16, max_completion_length=24,
                  max_steps=4, shuffle_dataset=False, bf16=False, use_cpu=True, report_to=[])  # fmt: skip
trainer = RLOO(mpo, policy, args=args, peft_config=LoraConfig(target_modules="all-linear"))
trainer.train()
