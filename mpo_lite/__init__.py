"""Meta Policy Optimization, lightly: a LoRA policy trained against an LLM judge whose rubric evolves
meanwhile.

``from mpo_lite import MPO`` is the library; ``mpo-lite`` is the same on the command line. Importing this
package loads neither torch nor LiteLLM and touches no network.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpo_lite.training.algorithms import GRPO, PPO, RLOO
    from mpo_lite.training.mpo import MPO

__version__ = version("mpo-lite")
__all__ = ["GRPO", "MPO", "PPO", "RLOO", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "MPO":  # loads transformers, the trainers torch: only on use
        from mpo_lite.training.mpo import MPO

        return MPO
    if name in ("GRPO", "PPO", "RLOO"):
        from mpo_lite.training import algorithms

        return getattr(algorithms, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
