"""A real vLLM on the CPU: with a tiny random model, whose verdicts are noise, or with a real one."""

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from mpo_lite.prompts import prompts_dir

READY_S = 300
NO_BLANKS = {"backend": "xgrammar", "disable_any_whitespace": True}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_model(folder: Path) -> Path:
    """Two random layers in Llama's shape, with a tokenizer trained on our own prompts."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    texts = [path.read_text(encoding="utf-8") for path in prompts_dir().rglob("*.md")]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    bpe.train_from_iterator(texts, vocab_size=512, special_tokens=special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATE,
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, head_dim=32, max_position_embeddings=16384,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


# Of what docs/training.md says of the asynchronous trainer, for a small policy on a CPU.
FOR_TRAINING = (
    *("--enable-lora", "--max-lora-rank", "32", "--max-loras", "3", "--max-num-batched-tokens", "16384"),
    *("--max-model-len", "2048", "--dtype", "float32"),
)


@contextmanager
def serving(
    model: Path | str,
    logs: Path,
    structured: dict[str, object] | None = None,
    name: str = "tiny",
    flags: Sequence[str] = ("--max-model-len", "16384", "--dtype", "bfloat16"),
) -> Iterator[str]:
    """Serves ``model`` under ``name``; gives the API base."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if structured:
        flags = [*flags, "--structured-outputs-config", json.dumps(structured)]
    command = [os.environ["TEST_VLLM"], "serve", str(model), "--served-model-name", name]
    command += ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager", *flags]
    environ = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1" if name == "tiny" else "3",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "600",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1" if name == "tiny" else str(os.cpu_count()),
    }
    log = logs / "server.log"
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environ)
    try:
        deadline = time.monotonic() + READY_S
        while not _healthy(port):
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"vLLM did not start:\n{log.read_text()[-4000:]}")
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False
