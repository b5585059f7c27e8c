"""Meta Policy Optimization inside your own TRL script. See examples/trl_scripts/README.md."""

import sys

from trl import GRPOConfig, GRPOTrainer

from mpo_lite import MPO

policy, output = sys.argv[1], sys.argv[2]
# So short a run leaves the gate no calls of its share; leave use_gate out where you train for longer.
mpo = MPO(policy=policy, run_dir=f"{output}/mpo", use_gate=False, steps=4, interval=2,
          batch_prompts=4, group_size=4)  # fmt: skip
args = GRPOConfig(output, num_generations=4, per_device_train_batch_size=16, max_completion_length=24,
                  max_steps=4, shuffle_dataset=False, bf16=False, use_cpu=True, report_to=[])  # fmt: skip
trainer = GRPOTrainer(policy, mpo.reward, args, train_dataset=mpo.dataset("train"), callbacks=[mpo.callback])
trainer.train()
