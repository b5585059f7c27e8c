"""Answers to the sandbox's prompts, as a decent first policy gives them."""

import random

from mpo_lite.judge.base import Sample
from mpo_lite.sandbox.data import prompts


def honest(count: int = 12) -> list[Sample]:
    """Answers as a decent first policy gives them."""
    drawn = random.Random(3)
    samples: list[Sample] = []
    for row in prompts("train")[:count]:
        topic = row["prompt"].split()[-2]
        reasons = [
            f"one reason is that {topic} give joy .",
            f"people need {topic} because they bring trust .",
            f"many keep {topic} since work goes better with them .",
        ]
        text = f"i think that {topic} are good . {' '.join(drawn.sample(reasons, 2))}"
        samples.append(Sample(row["prompt"], f"{text} in the end {topic} are useful ."))
    return samples
