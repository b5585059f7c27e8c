"""Training: TRL trainer, reward function and callback. The only place, with generation, that loads torch."""
