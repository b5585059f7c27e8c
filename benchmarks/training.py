"""Judging hidden behind generation: what training waits for, and what mpo-lite costs beside plain TRL.

    python benchmarks/training.py                    # CPU: the sandbox policy, slowed and not; 20 minutes
    python benchmarks/training.py --gpu              # one GPU: random weights of the shape of Qwen2.5-1.5B

The judge is a local server that answers after a set time and judges nothing; policy and training are real.
*Slowed* means that each token takes some milliseconds more in which the processor is free, as it is while a
GPU computes. Runs of the ways compared alternate, and medians over batches are shown. Prints tables, writes
JSON.
"""

import argparse
import asyncio
import dataclasses
import gc
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm
import torch
from harness import MODEL, Stub, stub
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Qwen2Config,
    Qwen2ForCausalLM,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from mpo_lite import GRPO, MPO, RLOO
from mpo_lite.jsonl import read_rows
from mpo_lite.judge.base import verdict_schema
from mpo_lite.llm import event_loop, transport
from mpo_lite.llm.structured_output import mode_params
from mpo_lite.sandbox.data import policy_dir
from mpo_lite.training.policy import quiet_libraries

VOCABULARY = 151_936
WARM_UP = 2
"""First batches of a run, which are not counted."""
Scene = tuple[float, float, int]
"""Seconds added per token, seconds the judge takes, calls it takes at once."""
CPU_SCENES: list[Scene] = [(0.0, 0.3, 64), (0.04, 0.25, 64), (0.04, 1.0, 64), (0.04, 0.5, 16)]
GPU_SCENES: list[Scene] = [(0.0, 0.0, 64), (0.0, 1.0, 64), (0.0, 5.0, 64), (0.0, 1.0, 16)]
PLAIN = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}
OURS = {"grpo": GRPO, "rloo": RLOO}


class Timer(TrainerCallback):
    """Wall seconds of each batch, from the end of the one before to its own."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *arguments: Any, **options: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def seconds(self) -> list[float]:
        return [
            end - start for start, end in zip(self.ends[WARM_UP - 1 :], self.ends[WARM_UP:], strict=False)
        ]


class Machine:
    """What is trained on, and how much of it.

    Args:
        gpu: Random weights of the shape of Qwen2.5-1.5B on a GPU; else the sandbox policy on the CPU.
        batches: Counted batches per run.
        token_seconds: What the policy is slowed by, per token.
        tokens: Longest completion; None: 64, and 256 on a GPU.
    """

    def __init__(
        self, gpu: bool, batches: int, token_seconds: float = 0.0, tokens: int | None = None
    ) -> None:
        self.gpu, self.batches, self.token_seconds = gpu, batches, token_seconds
        self.prompts, self.group = 8, 8
        self.tokens = tokens or (256 if gpu else 64)

    def policy(self) -> Any:
        if self.gpu:
            config = Qwen2Config(
                vocab_size=VOCABULARY, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28,
                num_attention_heads=12, num_key_value_heads=2, tie_word_embeddings=True,
            )  # fmt: skip
            torch.manual_seed(0)
            with torch.device("cuda"):
                model = Qwen2ForCausalLM(config).to(torch.bfloat16)
            # Random weights would end hardly any completion: let about one token in a hundred do so.
            model.generation_config.eos_token_id = list(range(VOCABULARY // 100))
            return model
        model = AutoModelForCausalLM.from_pretrained(policy_dir())
        if self.token_seconds:

            def slow(module: Any, arguments: Any, options: dict[str, Any]) -> None:
                if options["input_ids"].shape[1] == 1:  # a step of generation
                    time.sleep(self.token_seconds)

            model.register_forward_pre_hook(slow, with_kwargs=True)
        return model

    def tokenizer(self) -> Any:
        """The sandbox's; for the random weights, one word for each of their tokens."""
        tokenizer = AutoTokenizer.from_pretrained(policy_dir())
        if not self.gpu:
            return tokenizer
        words = Tokenizer(WordLevel({f"w{token}": token for token in range(VOCABULARY)}, unk_token="w9999"))
        words.pre_tokenizer = Whitespace()
        made = PreTrainedTokenizerFast(
            tokenizer_object=words, eos_token="w0", pad_token="w1", unk_token="w9999"
        )
        made.chat_template = tokenizer.chat_template
        return made

    def arguments(self, algorithm: str, folder: str) -> Any:
        rows = self.prompts * self.group
        return PLAIN[algorithm][1](
            folder,
            num_generations=self.group,
            per_device_train_batch_size=8 if self.gpu else rows,
            gradient_accumulation_steps=rows // 8 if self.gpu else 1,
            max_completion_length=self.tokens,
            max_steps=self.batches + WARM_UP,
            learning_rate=1e-6,
            beta=0.02,
            shuffle_dataset=False,
            bf16=self.gpu,
            use_cpu=not self.gpu,
            gradient_checkpointing=self.gpu,
            disable_tqdm=True,
            save_strategy="no",
            logging_steps=1,
            report_to=[],
        )


def random_reward(completions: list[Any], **columns: Any) -> list[float]:
    """A trivial reward function, with spread."""
    return [zlib.crc32(one[-1]["content"].encode()) % 100 / 100 for one in completions]


def calls_cpu() -> float:
    """CPU seconds of the thread that talks to the judge, so far."""

    async def now() -> float:
        return time.thread_time()

    return event_loop.wait(now())


def run(
    machine: Machine, algorithm: str, way: str, latency: float, at_once: int, server: Stub
) -> dict[str, Any]:
    """Trains some batches; medians per batch.

    Args:
        machine: What is trained.
        algorithm: ``grpo`` or ``rloo``.
        way: ``plain`` TRL with a trivial reward, or ours: ``overlap`` or ``no overlap``.
        latency: Seconds the judge takes.
        at_once: Calls it takes at once.
        server: The judge.
    """
    server.set(latency=latency)
    timer = Timer()
    if machine.gpu:
        gc.collect()  # the policy of the run before
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        mpo = MPO(
            judge=MODEL, judge_api_base=server.url, baseline="iter0", task="sandbox",
            policy=str(policy_dir()),
            run_dir=f"{folder}/mpo", cache_dir=f"{folder}/cache", batch_prompts=machine.prompts,
            group_size=machine.group, steps=machine.batches + WARM_UP, eval_every=1000, concurrency=at_once,
            overlap=way == "overlap",
        )  # fmt: skip
        mpo.session.context = dataclasses.replace(mpo.session.context, gold=None)
        options: dict[str, Any] = {
            "args": machine.arguments(algorithm, folder),
            "processing_class": machine.tokenizer(),
            "peft_config": LoraConfig(r=32, lora_alpha=64, target_modules="all-linear"),
            "callbacks": [timer],
        }
        if way == "plain":
            data = mpo.dataset("train")
            trainer = PLAIN[algorithm][0](machine.policy(), random_reward, train_dataset=data, **options)
        else:
            trainer = OURS[algorithm](mpo, machine.policy(), **options)
        trainer.remove_callback(PrinterCallback)
        cpu = calls_cpu()
        trainer.train()
        cpu = (calls_cpu() - cpu) / (machine.batches + WARM_UP)
        rows = read_rows(mpo.run.metrics)[WARM_UP:]
        mpo.session.close()
    tokens = [row["tokens"] * row["rows"] for row in rows]
    median = statistics.median(timer.seconds())
    return {
        "algorithm": algorithm,
        "way": way,
        "latency": latency,
        "at_once": at_once,
        "token_seconds": machine.token_seconds,
        "longest": machine.tokens,
        "step": median,
        "wait": statistics.median([row["judge_seconds"] for row in rows] or [0.0]),
        "calls_cpu": cpu if way != "plain" else 0.0,
        "tokens_per_second": statistics.fmean(tokens) / median if tokens else None,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if machine.gpu else None,
    }


def litellm_cpu(server: Stub, calls: int) -> float:
    """CPU seconds of as many plain LiteLLM calls, at once, with messages like ours."""
    server.set(latency=0.0)
    with tempfile.TemporaryDirectory() as folder:
        mpo = MPO(judge=MODEL, judge_api_base=server.url, baseline="iter0", task="sandbox",
                  policy=str(policy_dir()), run_dir=f"{folder}/mpo", cache_dir=f"{folder}/cache")  # fmt: skip
        sample = mpo.session.context.sample(
            "write a short essay about dogs .", "dogs are useful for people . " * 4
        )
        single, rubric = mpo.session.judge, mpo.session.state.version.rubric
        messages, schema = (
            single.build_call(sample, rubric).messages,
            mode_params("json_schema", verdict_schema(rubric)),
        )
        mpo.session.close()

    async def all_of_them() -> float:
        session = await transport.open_session()
        start = time.thread_time()
        asked = [
            litellm.acompletion(
                model=MODEL, messages=list(messages), api_base=server.url, api_key="none",
                shared_session=session, timeout=60, num_retries=0, max_retries=0, max_tokens=1024,
                temperature=0.0, **schema,
            )
            for _ in range(calls)
        ]  # fmt: skip
        await asyncio.gather(*asked)
        told = time.thread_time() - start
        await session.close()
        return told

    event_loop.wait(all_of_them())  # warm
    return statistics.median(event_loop.wait(all_of_them()) for _ in range(3))


def middle(results: list[dict], **of: Any) -> dict[str, float]:
    """Medians over the repeats of one way."""
    found = [row for row in results if all(row[name] == value for name, value in of.items())]
    names = ("step", "wait", "calls_cpu", "tokens_per_second", "peak_gib")
    return {
        name: statistics.median(values)
        for name in names
        if (values := [row[name] for row in found if row[name] is not None])
    }


def overlap_table(results: list[dict], scenes: list[Scene]) -> str:
    lines = [
        "| algorithm | ms per token added | judge takes | calls at once | wait without overlap | with "
        "| ratio | step without | with | instant judge | with / instant |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for algorithm, (slow, latency, at_once) in itertools.product(
        dict.fromkeys(row["algorithm"] for row in results), scenes
    ):
        of = {"algorithm": algorithm, "token_seconds": slow}
        instant = middle(results, way="overlap", latency=0.0, **of)
        off, on = (
            middle(results, way=way, latency=latency, at_once=at_once, **of)
            for way in ("no overlap", "overlap")
        )
        cells = [
            algorithm,
            f"{1000 * slow:.0f}",
            f"{latency:g} s",
            at_once,
            *(f"{one['wait']:.2f} s" for one in (off, on)),
            f"{on['wait'] / off['wait']:.2f}",
            *(f"{one['step']:.2f} s" for one in (off, on, instant)),
            f"{on['step'] / instant['step']:.2f}",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def overhead_table(results: list[dict], litellm_seconds: float) -> str:
    lines = [
        "| algorithm | ms per token added | plain TRL | mpo-lite, instant judge | more | LiteLLM's CPU "
        "| own, of a step |",
        "|---|---|---|---|---|---|---|",
    ]
    for algorithm, slow in sorted({(row["algorithm"], row["token_seconds"]) for row in results}):
        of = {"algorithm": algorithm, "token_seconds": slow, "latency": 0.0}
        plain, ours = middle(results, way="plain", **of), middle(results, way="overlap", **of)
        more = ours["step"] - plain["step"]
        lines.append(
            f"| {algorithm} | {1000 * slow:.0f} | {plain['step']:.3f} s | {ours['step']:.3f} s "
            f"| {more:+.3f} s | {litellm_seconds:.3f} s | {(more - litellm_seconds) / plain['step']:+.1%} |"
        )
    return "\n".join(lines)


def gpu_table(results: list[dict], scenes: list[Scene]) -> str:
    lines = [
        "| judge takes | calls at once | overlap | step | judge wait | tokens/s | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for (_, latency, at_once), way in itertools.product(scenes, ("no overlap", "overlap")):
        told = middle(results, way=way, latency=latency, at_once=at_once)
        lines.append(
            f"| {latency:g} s | {at_once} | {'yes' if way == 'overlap' else 'no'} | {told['step']:.2f} s "
            f"| {told['wait']:.2f} s | {told['tokens_per_second']:.0f} | {told['peak_gib']:.1f} GiB |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--algorithms", default="grpo,rloo")
    parser.add_argument("--tokens", type=int, help="longest completion; default: 64, on a GPU 256")
    parser.add_argument("--latencies", help="only the scenes whose judge takes these seconds, as in 0,5")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    quiet_libraries()
    if options.gpu and not torch.cuda.is_available():
        raise SystemExit("--gpu: there is no GPU here, so nothing was measured")
    algorithms = ["grpo"] if options.gpu else options.algorithms.split(",")
    scenes = GPU_SCENES if options.gpu else CPU_SCENES
    if options.latencies:
        chosen = {float(seconds) for seconds in options.latencies.split(",")}
        scenes = [scene for scene in scenes if scene[1] in chosen]
    results: list[dict] = []
    per_batch: float | None = None
    name = torch.cuda.get_device_name() if options.gpu else "CPU, one thread"
    out = options.out or Path(f"benchmarks/results/training{'_gpu' if options.gpu else ''}.json")

    def write() -> None:  # after each run: hours of a machine should not hang on its last minute
        out.write_text(json.dumps({"machine": name, "litellm_cpu": per_batch, "runs": results}, indent=1))

    with stub() as server:
        for _, algorithm in itertools.product(range(options.repeats), algorithms):
            for slow in dict.fromkeys(scene[0] for scene in scenes):
                machine = Machine(options.gpu, options.batches, slow, options.tokens)
                ways = [(way, 0.0, 64) for way in (() if options.gpu else ("plain", "overlap"))]
                ways += [
                    (way, latency, at_once)
                    for speed, latency, at_once in scenes
                    if speed == slow
                    for way in ("no overlap", "overlap")
                ]
                for way in ways:
                    results.append(run(machine, algorithm, *way, server))
                    print(json.dumps(results[-1]), file=sys.stderr, flush=True)
                    write()
        per_batch = litellm_cpu(server, 64)
    print(f"{name}; 64 completions of at most {machine.tokens} tokens per batch; the judge judges nothing\n")
    if options.gpu:
        print(gpu_table(results, scenes))
    else:
        print(overlap_table(results, scenes), overhead_table(results, per_batch), sep="\n\n")
    write()


if __name__ == "__main__":
    main()
