"""The quickstart's experiment by a plain TRL script, with rewards from ``mpo-lite serve``.

    python benchmarks/served.py --seeds 0-2

The script below knows nothing of rubrics: it is TRL's ``GRPOTrainer`` with ``RemoteReward``. The same seed
runs in process for comparison (``mpo-lite quickstart``); what is sampled differs between the two.
Judge and meta-judge are simulated: no evidence about real ones. Rows are kept in the output file.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from harness import HERE
from quickstart import interval
from quickstart import run as run_in_process

from mpo_lite.cli.quickstart import SETTINGS
from mpo_lite.jsonl import read_rows
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.data import policy_dir

EVERY = 5
MAX_TOKENS = 64


def train(url: str, seed: int, output: str) -> None:
    """A plain TRL script; prints gold every five batches."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from mpo_lite.integrations.trl import RemoteReward
    from mpo_lite.tasks.data import load_prompts, training_order
    from mpo_lite.tasks.spec import load_task
    from mpo_lite.training.chat import Chat
    from mpo_lite.training.generate import generate, gold_row

    task = load_task("sandbox")
    prompts, gold = load_prompts(task.data), task.gold_metric()
    assert gold
    steps, group, batch = SETTINGS["steps"], SETTINGS["group_size"], SETTINGS["batch_prompts"]
    order = training_order(prompts.train, steps * batch, seed)
    data = Dataset.from_list(
        [{"prompt": task.policy_messages(prompt), "task_prompt": prompt} for prompt in order]
    )
    args = GRPOConfig(
        output, num_generations=group, per_device_train_batch_size=group * batch, max_steps=steps,
        max_completion_length=MAX_TOKENS, learning_rate=SETTINGS["learning_rate"], beta=SETTINGS["beta"],
        lr_scheduler_type="cosine", shuffle_dataset=False, bf16=False, use_cpu=True, report_to=[], seed=seed,
        logging_steps=1, save_strategy="no", disable_tqdm=True, gradient_checkpointing=False,
    )  # fmt: skip

    class Gold(TrainerCallback):
        """Measures what neither judge nor policy sees."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % EVERY == 0:
                self.measure(state.global_step, **kwargs)

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.measure(0, **kwargs)

        def measure(self, batch: int, model: Any, processing_class: Any, **kwargs: Any) -> None:
            chat = Chat(model, processing_class, None)
            asked = [task.policy_messages(prompt) for prompt in prompts.held_out]
            answers = generate(model, chat, asked, max_new_tokens=MAX_TOKENS, temperature=1.0)
            value = gold_row(answers, task, gold, prompts)["gold"]
            print("GOLD", json.dumps([batch, value]), flush=True)

    reward = RemoteReward(url)
    trainer = GRPOTrainer(
        str(policy_dir()), reward, args, train_dataset=data, callbacks=[Gold()],
        peft_config=LoraConfig(r=32, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    trainer.train()


def run_served(seed: int, port: int) -> dict[str, Any]:
    """A service, and the script in a process of its own against it."""
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--{name.replace('_', '-')}={SETTINGS[name]}" for name in ("judge", "meta", "task")]
        sizes = ("batch_prompts", "group_size", "interval", "meta_samples")
        flags += [f"--{name.replace('_', '-')}={SETTINGS[name]}" for name in sizes]
        flags += ["--seed", str(seed), "--port", str(port), "--no-token", "--run-dir", f"{folder}/run"]
        flags += ["--cache-dir", f"{folder}/cache", "-o", f"max_new_tokens={MAX_TOKENS}"]
        url, started = f"http://127.0.0.1:{port}", time.monotonic()
        with open(f"{folder}/log", "w") as log:
            command = [sys.executable, "-m", "mpo_lite", "serve", *flags]
            service = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        try:
            while True:
                try:
                    httpx.get(f"{url}/healthz")
                    break
                except httpx.HTTPError:
                    assert service.poll() is None, Path(folder, "log").read_text()
                    time.sleep(0.2)
            script = [
                sys.executable,
                __file__,
                "--train",
                url,
                "--seeds",
                str(seed),
                "--out",
                f"{folder}/trl",
            ]
            done = subprocess.run(script, capture_output=True, text=True, env=environ)
            assert done.returncode == 0, done.stderr[-3000:]
        finally:
            service.terminate()
            service.wait(60)
        run = RunDir(Path(folder, "run"))
        gold = [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("GOLD ")]
        values = [value for _, value in gold]
        return {
            "arm": "served", "seed": seed, "gold_rows": gold,
            "gold": {"start": values[0], "min": min(values), "end": statistics.fmean(values[-3:])},
            "alarms": [[row["batch"], row["name"]] for row in read_rows(run.alarms)][:5],
            "accepted": [row["batch"] for row in read_rows(run.lineage) if row["status"] == "accepted"],
            "versions": run.latest().number, "batches": len(read_rows(run.metrics)),
            "filled": sum(row["filled"] for row in read_rows(run.metrics)),
            "seconds": round(time.monotonic() - started),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0-2")
    parser.add_argument("--port", type=int, default=8791)
    parser.add_argument("--train", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "served.json")
    options = parser.parse_args()
    first, _, last = options.seeds.partition("-")
    if options.train:
        train(options.train, int(first), str(options.out))
        return
    rows: list[dict[str, Any]] = json.loads(options.out.read_text()) if options.out.exists() else []
    for seed in range(int(first), int(last or first) + 1):
        for arm in ("served", "evolving"):
            if any((row["arm"], row["seed"]) == (arm, seed) for row in rows):
                continue
            rows.append(run_served(seed, options.port) if arm == "served" else run_in_process(arm, seed))
            options.out.write_text(json.dumps(rows, indent=1) + "\n")
    print("| seed | in process: start, min, end | through the service | first alarm | versions |")
    print("|---|---|---|---|---|")
    by = {(row["arm"], row["seed"]): row for row in rows}
    for seed in sorted({row["seed"] for row in rows}):
        served, own = by.get(("served", seed)), by.get(("evolving", seed))
        if served and own:
            cells = [", ".join(f"{row['gold'][key]:.3f}" for key in ("start", "min", "end"))
                     for row in (own, served)]  # fmt: skip
            alarm = served["alarms"][0] if served["alarms"] else ["", "none"]
            print(
                f"| {seed} | {cells[0]} | {cells[1]} | {alarm[1]}, batch {alarm[0]} | {served['versions']} |"
            )
    for arm in ("evolving", "served"):
        ends = [row["gold"]["end"] for row in rows if row["arm"] == arm]
        print(f"{arm}: gold ends at {interval(ends)}" if ends else "")


if __name__ == "__main__":
    main()
