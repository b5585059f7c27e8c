"""The machine and the versions a run trains on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from mpo_lite.config import Config
from mpo_lite.errors import ConfigError
from mpo_lite.loop.distributed import world_size

TRACKERS = {
    "azure_ml": ("azureml",),
    "clearml": ("clearml",),
    "codecarbon": ("codecarbon",),
    "comet_ml": ("comet_ml",),
    "dagshub": ("dagshub",),
    "dvclive": ("dvclive",),
    "flyte": ("flytekit",),
    "kubeflow": ("kubeflow",),
    "mlflow": ("mlflow",),
    "neptune": ("neptune",),
    "swanlab": ("swanlab",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}
"""What the trainer can report to → packages, one of which it needs."""
EXTRAS = {
    "train": ("torch", "transformers", "trl", "peft", "accelerate", "datasets"),
    "serve": ("fastapi", "uvicorn", "prometheus_client"),
    "calibrate": ("sklearn", "scipy", "krippendorff"),
}
"""Extra → packages that it installs."""
_PACKAGES = ("torch", "transformers", "trl", "peft", "litellm")


def environment() -> dict[str, Any]:
    """What decides whether a resumed run is bit-identical: Python, packages, processor, processes
    and threads.
    """
    return {
        "mpo_lite": version("mpo-lite"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processes": world_size(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "packages": {name: version(name) for name in _PACKAGES if find_spec(name)},
    }


def require_extra(extra: str) -> None:
    """Raises ``ConfigError`` where a package of an extra is missing; says what to install."""
    if missing := [name for name in EXTRAS[extra] if not find_spec(name)]:
        raise ConfigError(f"{', '.join(missing)} not installed: pip install 'mpo-lite[{extra}]'")


def check_packages(config: Config) -> None:
    """Checks that the packages are installed that the settings ask for.

    Raises:
        ConfigError: One is not; says which.
    """
    named = config.report_to or config.trl.get("report_to") or ()
    for tracker in (named,) if isinstance(named, str) else named:
        if tracker in ("none", "all"):
            continue
        if tracker not in TRACKERS:
            raise ConfigError(f"--report-to {tracker}: unknown tracker; known: {', '.join(TRACKERS)}")
        _require(f"--report-to {tracker}", *TRACKERS[tracker])
    if config.use_vllm or config.trl.get("use_vllm"):
        _require("--use-vllm", "vllm")
    if config.load_in_4bit:
        _require("--load-in-4bit", "bitsandbytes")


def check_trainer(config: Config) -> None:
    """Checks that the asynchronous trainer can do what the settings ask for.

    Raises:
        ConfigError: It cannot; says what to change.
    """
    if config.trainer == "sync":
        return
    unable = {
        f"--algorithm {config.algorithm}": config.algorithm != "grpo",
        f"--beta {config.beta:g} (it has no reference policy)": config.beta != 0,
        f"--num-iterations {config.num_iterations}": config.num_iterations != 1,
        "--criterion-weights contrast": config.criterion_weights != "rubric",
        "--aggregate normalize": config.aggregate != "sum",
        "--load-in-4bit": config.load_in_4bit,
        "--use-vllm (it always generates by the server)": bool(config.use_vllm),
        f"{world_size()} processes; train by TRL's own script against mpo-lite serve": world_size() > 1,
    }
    if refused := [name for name, asked in unable.items() if asked]:
        raise ConfigError(f"--trainer async: not with {refused[0]}")
    url = config.vllm_server_base_url or ""
    if not url or url.rstrip("/").endswith("/v1"):
        raise ConfigError(
            "--trainer async: a vLLM server generates; name it by --vllm-server-base-url, without /v1: for "
            "example http://localhost:8000"
        )
    require_extra("serve")


def _require(flag: str, *packages: str) -> None:
    if not any(find_spec(package) for package in packages):
        raise ConfigError(f"{flag}: {packages[0]} is not installed; pip install {packages[0]}")


def accelerators() -> list[tuple[str, float, float]]:
    """The GPUs that torch sees: name, free and total memory in GiB."""
    import torch

    if not torch.cuda.is_available():
        return []
    found: list[tuple[str, float, float]] = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append((torch.cuda.get_device_name(index), free / 2**30, total / 2**30))
    return found
