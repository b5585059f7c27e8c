"""The policy: loaded, given its adapter and, for PPO, its value head."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
)

from mpo_lite.config import Config
from mpo_lite.errors import ConfigError, refusals
from mpo_lite.loop.session import Session
from mpo_lite.tasks import hub
from mpo_lite.tasks.spec import Task
from mpo_lite.training.chat import Chat
from mpo_lite.training.ppo import VALUE_HEAD, add_value_head


def quiet_libraries() -> None:
    """Silences bars and deprecations inside the libraries: users can do nothing about them, and they tear
    the display.
    """
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def check_policy(config: Config) -> None:
    """Sees that the policy can be read and asked, by all of its files but its weights.

    Raises:
        ConfigError: It is no model folder, the hub has none of that name or cannot be reached, or its
            tokenizer has no chat template.
    """
    folder = Path(config.policy)
    if folder.exists():
        _check_folder(folder)
    try:
        AutoConfig.from_pretrained(config.policy, trust_remote_code=False, **_from(config.policy))
    except (OSError, ValueError) as error:
        if folder.exists():
            said = " ".join(str(error).split())[:200]
            raise ConfigError(f"policy {config.policy!r}: its config.json cannot be used: {said}") from error
        raise ConfigError(
            f"policy {config.policy!r}: is not a directory here and could not be downloaded from the Hub "
            f"({hub.explain_missing()}); give a local model by --policy DIR and local prompts by "
            "--data FILE.jsonl"
        ) from error
    load_tokenizer(config)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(f"policy {str(folder)!r}: is a file; name the folder of a model")
    if not (folder / "config.json").is_file():
        is_adapter = (folder / "adapter_config.json").is_file() or (folder / "checkpoints").is_dir()
        mend = (
            "it holds an adapter: mpo-lite export RUN --merge DIR makes a model of a run"
            if is_adapter
            else "name the folder of a model, or its id on the hub"
        )
        raise ConfigError(f"policy {str(folder)!r}: has no config.json; {mend}")
    if not any(path.suffix in (".safetensors", ".bin") for path in folder.iterdir()):
        raise ConfigError(f"policy {str(folder)!r}: holds no weights (*.safetensors)")


def _from(name: str) -> dict[str, bool]:
    """How transformers is told where to look."""
    return {"local_files_only": hub.is_local_only(name)}


def load_policy(config: Config, precise: bool = False) -> tuple[Any, Any]:
    """The policy without an adapter, and its tokenizer.

    Args:
        config: Names it; with PPO it has a value head.
        precise: Whether its weights are wanted as they are stored, on the CPU.

    Raises:
        ConfigError: It cannot be loaded, or its tokenizer has no chat template.
    """
    quiet_libraries()
    quantization = None
    if config.load_in_4bit and not precise:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    tokenizer = load_tokenizer(config)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    with refusals(f"policy {config.policy!r}"):
        model = AutoModelForCausalLM.from_pretrained(
            config.policy,
            dtype="auto" if precise else _dtype(config),
            quantization_config=quantization,
            trust_remote_code=False,
            **_from(config.policy),
        )
    if config.algorithm == "ppo":
        add_value_head(model)
    return model, tokenizer


def load_tokenizer(config: Config) -> Any:
    """The policy's tokenizer as it was published.

    Raises:
        ConfigError: It cannot be loaded, or has no chat template.
    """
    with refusals(f"policy {config.policy!r}"):
        tokenizer = AutoTokenizer.from_pretrained(
            config.policy, trust_remote_code=False, **_from(config.policy)
        )
    if not tokenizer.chat_template:
        raise ConfigError(
            f"policy {config.policy!r}: its tokenizer has no chat template; name a chat or instruct model"
        )
    return tokenizer


def policy_shell(config: Config) -> Any:
    """The policy without its weights, for what its configuration says."""
    with refusals(f"policy {config.policy!r}"), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(config.policy, trust_remote_code=False)
        )
    with suppress(OSError):  # it may have no generation_config.json
        model.generation_config = GenerationConfig.from_pretrained(config.policy, **_from(config.policy))
    return model


def trained_parameters(config: Config) -> int:
    """How many parameters are trained, those of the adapter and of PPO's value head; nothing is loaded.

    Raises:
        ConfigError: The policy cannot be made, or has no such modules to adapt.
    """
    model = policy_shell(config)
    with torch.device("meta"), refusals("the trainer refuses a setting (lora or trl)"):
        if config.algorithm == "ppo":
            add_value_head(model)
        model = get_peft_model(model, adapter(config))
    return sum(each.numel() for each in model.parameters() if each.requires_grad)


def chat_of(config: Config, model: Any, tokenizer: Any) -> Chat:
    """The policy's tokenizer with the chat template arguments that it is trained with."""
    return Chat(model, tokenizer, config.trl.get("chat_template_kwargs"))


def adapter(config: Config) -> LoraConfig:
    """The adapter that is trained; the value head of PPO is trained whole and saved with it."""
    targets = config.lora_target_modules
    with_head = {"modules_to_save": [VALUE_HEAD], "exclude_modules": [VALUE_HEAD]}
    return LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets[0] if len(targets) == 1 else list(targets),
        task_type="CAUSAL_LM",
        **(with_head if config.algorithm == "ppo" else {}),
    )


def load_trained_policy(config: Config, checkpoint: Path | None) -> tuple[Any, Any]:
    """A policy for sampling, with a checkpoint's adapter where there is one, and its tokenizer.

    Raises:
        ConfigError: It cannot be loaded.
    """
    model, tokenizer = load_policy(config)
    if checkpoint:
        with refusals(f"{checkpoint}: its adapter cannot be loaded"):
            model = PeftModel.from_pretrained(model, str(checkpoint))
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def fitting_prompts(
    prompts: Sequence[str], task: Task, model: Any, chat: Chat, answer: int
) -> tuple[str, ...]:
    """The prompts that leave room for an answer of ``answer`` tokens within the policy's context."""
    room = _context(model) - answer
    return tuple(prompt for prompt in prompts if len(chat.prompt_ids(task.policy_messages(prompt))) <= room)


def drop_long_prompts(session: Session, model: Any, tokenizer: Any) -> None:
    """Leaves out prompts that leave no room for the longest answer within the policy's context."""
    before, answer = session.context.prompts, session.context.max_new_tokens
    chat = chat_of(session.config, model, tokenizer)
    kept = {
        name: fitting_prompts(getattr(before, name), session.task, model, chat, answer)
        for name in ("train", "held_out")
    }
    session.limit_prompts(replace(before, **kept))
    if not kept["train"]:
        raise ConfigError(f"no prompt leaves room for {answer} tokens within the policy's {_context(model)}")
    if dropped := len(before.train) - len(kept["train"]):
        session.context.note(
            f"{dropped} of {len(before.train)} training prompts are too long for the policy and left out"
        )


def _context(model: Any) -> int:
    """Longest sequence of the policy in tokens."""
    return model.config.get_text_config().max_position_embeddings


def _dtype(config: Config) -> torch.dtype:
    bf16 = torch.cuda.is_available() if config.bf16 is None else config.bf16
    return torch.bfloat16 if bf16 else torch.float32
