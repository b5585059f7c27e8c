"""Signs of reward hacking in what a policy writes: pure functions over prompts, responses and rewards."""
