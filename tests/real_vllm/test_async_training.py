"""``--trainer async`` with a real vLLM that generates and takes adapters: ``make test-vllm``."""

from pathlib import Path

from vllm_server import FOR_TRAINING, serving

from mpo_lite.cli.main import main
from mpo_lite.jsonl import read_rows
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.data import policy_dir


def test_the_sandbox_policy_trains_on_what_vllm_generates(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    with serving(policy_dir(), tmp_path, name="policy", flags=FOR_TRAINING) as url:
        settings = {
            "task": "sandbox", "policy": "sandbox", "judge": "sandbox", "baseline": "expert", "steps": "10",
            "learning-rate": "2e-3", "micro-batch": "32", "eval-every": "10", "trainer": "async",
            "vllm-server-base-url": url.removesuffix("/v1"), "run-dir": str(run.path),
            "cache-dir": str(tmp_path / "cache"),
        }  # fmt: skip
        main(["train", *(part for name, value in settings.items() for part in (f"--{name}", value))])
    metrics = read_rows(run.metrics)
    gaps = [row["sampler_kl"] for row in metrics if row.get("sampler_kl") is not None]
    assert len(gaps) > 5 and max(gaps) < 0.1 and len(metrics) <= 12
    assert [row["batch"] for row in read_rows(run.gold)] == [0, 10]
