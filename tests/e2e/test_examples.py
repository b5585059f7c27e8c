"""What lies outside the package works too: the example script, and the wheel."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.jsonl import read_rows
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.data import policy_dir
from mpo_lite.sandbox.judge_server import running

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("script", ["grpo_script.py", "rloo_script.py"])
def test_the_example_scripts_train_and_evolve_their_rubrics(script: str, tmp_path: Path) -> None:
    with running(seed=0) as url:
        environ = os.environ | {
            "MPO_TASK": "sandbox",
            "MPO_JUDGE": "openai/sandbox-judge-0",
            "MPO_META": "openai/sandbox-meta-0",
            "MPO_JUDGE_API_BASE": url,
            "MPO_META_API_BASE": url,
            "MPO_CACHE_DIR": str(tmp_path / "cache"),
        }
        command = [
            sys.executable,
            ROOT / "examples" / "trl_scripts" / script,
            str(policy_dir()),
            str(tmp_path / "out"),
        ]
        subprocess.run(command, env=environ, check=True, capture_output=True, cwd=tmp_path)
        again = subprocess.run(command, env=environ, capture_output=True, text=True, cwd=tmp_path)
        assert "this run is finished" in again.stderr and "resume_from_checkpoint=True" in again.stderr
        assert_it_goes_on(command, environ, tmp_path)
    run = RunDir(tmp_path / "out" / "mpo")
    assert [row["batch"] for row in read_rows(run.metrics)] == [1, 2, 3, 4, 5]
    assert [row["batch"] for row in read_rows(run.lineage)] == [2, 4]
    assert len(read_rows(run.rollouts)) == 5 * 16
    assert read_rows(run.gold)[0]["n"] >= 64
    assert (tmp_path / "out" / "checkpoint-5" / "mpo_state.json").exists()


def assert_it_goes_on(command: list[Any], environ: dict[str, str], tmp_path: Path) -> None:
    """The script goes on in its run once told to resume; the command line leaves such a run alone."""
    resumed = tmp_path / "resumed.py"
    text = Path(command[1]).read_text().replace("train()", "train(resume_from_checkpoint=True)")
    resumed.write_text(text.replace("steps=4", "steps=5"))
    before = read_rows(tmp_path / "out" / "mpo" / "metrics.jsonl")
    going_on = [command[0], resumed, *command[2:]]
    (trained,) = (tmp_path / "out" / "checkpoint-4").glob("*.safetensors")
    content = trained.read_bytes()
    trained.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    damaged = subprocess.run(going_on, env=environ, capture_output=True, text=True, check=False)
    assert damaged.returncode and "damaged: not the bytes that were saved" in damaged.stderr
    trained.write_bytes(content)
    subprocess.run(going_on, env=environ, check=True, capture_output=True)
    assert read_rows(tmp_path / "out" / "mpo" / "metrics.jsonl")[: len(before)] == before
    cli = [sys.executable, "-m", "mpo_lite", "resume", str(tmp_path / "out" / "mpo")]
    refused = subprocess.run(cli, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "a trainer of your own" in refused.stderr


def test_the_wheel_runs_outside_the_repository(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet"]
    wheel = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run([*pip, *wheel], check=True, capture_output=True)
    (built,) = tmp_path.glob("mpo_lite-*.whl")
    site = tmp_path / "site"
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", str(site), str(built)], check=True, capture_output=True
    )
    environ = os.environ | {"PYTHONPATH": str(site)}
    where = "import mpo_lite, mpo_lite.prompts as p; print(mpo_lite.__file__, p.prompts_dir())"
    told = subprocess.run(
        [sys.executable, "-c", where], env=environ, cwd=tmp_path, capture_output=True, text=True
    )
    assert told.stdout.split() == [str(site / "mpo_lite" / "__init__.py"), str(site / "mpo_lite" / "prompts")]
    names = ("judge", "meta", "task", "policy")
    settings = [part for name in names for part in (f"--{name}", "sandbox")] + [
        "--steps",
        "2",
        "--interval",
        "1",
        "--no-use-gate",
    ]
    command = [
        sys.executable,
        "-m",
        "mpo_lite",
        "train",
        *settings,
        "--cache-dir",
        "cache",
        "--run-dir",
        "run",
    ]
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(read_rows(tmp_path / "run" / "lineage.jsonl")) == 1
    assert (tmp_path / "run" / "report.html").stat().st_size > 50_000  # its parts are in the wheel
