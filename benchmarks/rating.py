"""How often the intervals of ratings hold the truth: simulated matches of known strengths and position bias.

    python benchmarks/rating.py               # 1,000 simulations, about a minute

Three models, 100 prompts a pair, each in both orders. Intervals of 95% should hold the truth in 95%. Prints a
table and writes JSON.
"""

import argparse
import json
import math
import random
import statistics
from pathlib import Path

from mpo_lite.stats.rating import POINTS, Match, fit_ratings

SCENES = {
    "close, no bias": ([0.2, 0.0, -0.2], 0.0),
    "apart, first liked": ([0.8, 0.0, -0.8], 0.6),
    "one far ahead": ([2.0, -0.5, -1.5], 0.6),
}


def matches(strengths: list[float], bias: float, draw: random.Random, prompts: int = 100) -> list[Match]:
    found = []
    for first in range(len(strengths)):
        for second in range(len(strengths)):
            if first == second:
                continue
            chance = 1 / (1 + math.exp(strengths[second] - strengths[first] - bias))
            pair = f"{min(first, second)}{max(first, second)}"
            for prompt in range(prompts):
                winner = first if draw.random() < chance else second
                found.append(Match(f"{pair}-{prompt}", f"m{first}", f"m{second}", f"m{winner}"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/rating.json"))
    options = parser.parse_args()
    results = []
    print(
        "| strengths in log odds | worth of the first place | truth held | mean width, points |\n"
        "|---|---|---|---|"
    )
    for name, (strengths, bias) in SCENES.items():
        mean, held, widths = statistics.fmean(strengths), [], []
        for seed in range(options.simulations):
            table = fit_ratings(matches(strengths, bias, random.Random(seed)), draws=400, seed=seed)
            for model, strength in enumerate(strengths):
                one = table.ratings[f"m{model}"]
                held.append(one.lo <= 1000 + POINTS * (strength - mean) <= one.hi)
                widths.append(one.hi - one.lo)
        row = {"scene": name, "strengths": strengths, "bias": bias, "held": statistics.fmean(held)}
        results.append(row | {"width": statistics.fmean(widths), "simulations": options.simulations})
        print(
            f"| {name}: {strengths} | {bias} | {row['held']:.1%} | {results[-1]['width']:.0f} |", flush=True
        )
    options.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
