"""Ways to show the meta-judge what there is to learn from; one file each."""

from mpo_lite.meta.cases.base import Background, Case, Strategy
from mpo_lite.meta.cases.pairs import pairs
from mpo_lite.meta.cases.samples import samples

STRATEGIES: dict[str, Strategy] = {"pairs": pairs, "samples": samples}

__all__ = ["STRATEGIES", "Background", "Case", "Strategy"]
