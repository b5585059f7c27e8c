"""Ways to show the meta-judge what is to be learnt from; one file each. Another one is one more file."""

from mpo_lite.meta.cases.base import Case, Strategy
from mpo_lite.meta.cases.pairs import pairs
from mpo_lite.meta.cases.samples import samples

STRATEGIES: dict[str, Strategy] = {"pairs": pairs, "samples": samples}

__all__ = ["STRATEGIES", "Case", "Strategy"]
