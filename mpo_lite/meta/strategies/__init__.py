"""Ways to show the meta-judge what is to be learnt from; one file each. Another one is one more file."""

from mpo_lite.meta.strategies.base import Case, Strategy
from mpo_lite.meta.strategies.pairs import pairs
from mpo_lite.meta.strategies.samples import samples

STRATEGIES: dict[str, Strategy] = {"pairs": pairs, "samples": samples}

__all__ = ["STRATEGIES", "Case", "Strategy"]
