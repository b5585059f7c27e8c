"""Meta Policy Optimization, lightly: a LoRA policy trained against an LLM judge whose rubric evolves
meanwhile.

``from mpo_lite import MPO`` is the library; ``mpo-lite`` is the same on the command line. Importing this
package loads neither torch nor LiteLLM and touches no network: each name loads what it needs on first use.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpo_lite.alarms.alarms import Alarm, ReferenceWindow, check_alarms
    from mpo_lite.config import Config
    from mpo_lite.config_sources import load_config
    from mpo_lite.errors import (
        BudgetReached,
        CallFailed,
        ConfigError,
        EndpointError,
        Interrupted,
        JudgeDown,
        MPOError,
        RunError,
        StopRun,
        StorageError,
        TaskError,
        Unavailable,
        UsageError,
    )
    from mpo_lite.jsonl import read_rows
    from mpo_lite.offline import Refinement, judge_answers, refine_rubric
    from mpo_lite.rubric import Criterion, Rubric, load_rubric
    from mpo_lite.run_dir import RubricVersion, RunDir
    from mpo_lite.training.job import Result, train
    from mpo_lite.training.mpo import MPO
    from mpo_lite.training.ppo import PPO, add_value_head
    from mpo_lite.training.resume import resume
    from mpo_lite.training.trainers import GRPO, RLOO
    from mpo_lite.types import Assessment, Rollout, Verdict

__all__ = [
    "GRPO",
    "MPO",
    "PPO",
    "RLOO",
    "Alarm",
    "Assessment",
    "BudgetReached",
    "CallFailed",
    "Config",
    "ConfigError",
    "Criterion",
    "EndpointError",
    "Interrupted",
    "JudgeDown",
    "MPOError",
    "ReferenceWindow",
    "Refinement",
    "Result",
    "Rollout",
    "Rubric",
    "RubricVersion",
    "RunDir",
    "RunError",
    "StopRun",
    "StorageError",
    "TaskError",
    "Unavailable",
    "UsageError",
    "Verdict",
    "__version__",
    "add_value_head",
    "check_alarms",
    "judge_answers",
    "load_config",
    "load_rubric",
    "read_rows",
    "refine_rubric",
    "resume",
    "train",
]
_HOMES = {
    "Alarm": "alarms.alarms",
    "Assessment": "types",
    "BudgetReached": "errors",
    "CallFailed": "errors",
    "Config": "config",
    "ConfigError": "errors",
    "Criterion": "rubric",
    "EndpointError": "errors",
    "GRPO": "training.trainers",
    "Interrupted": "errors",
    "JudgeDown": "errors",
    "MPO": "training.mpo",
    "MPOError": "errors",
    "PPO": "training.ppo",
    "RLOO": "training.trainers",
    "ReferenceWindow": "alarms.alarms",
    "Refinement": "offline",
    "Result": "training.job",
    "Rollout": "types",
    "Rubric": "rubric",
    "RunDir": "run_dir",
    "RunError": "errors",
    "StopRun": "errors",
    "StorageError": "errors",
    "TaskError": "errors",
    "Unavailable": "errors",
    "UsageError": "errors",
    "Verdict": "types",
    "RubricVersion": "run_dir",
    "add_value_head": "training.ppo",
    "check_alarms": "alarms.alarms",
    "judge_answers": "offline",
    "load_config": "config_sources",
    "load_rubric": "rubric",
    "read_rows": "jsonl",
    "refine_rubric": "offline",
    "resume": "training.resume",
    "train": "training.job",
}
"""What is the library's → the module it lives in."""
__version__ = version("mpo-lite")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"mpo_lite.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        from mpo_lite.loop.environment import EXTRAS

        if (error.name or "").partition(".")[0] not in EXTRAS["train"]:
            raise
        raise ImportError(
            f"mpo_lite.{name} trains, and {error.name} is not installed: pip install 'mpo-lite[train]'"
        ) from error


def __dir__() -> list[str]:
    return sorted(__all__)
