"""A zoo of tiny random chat models in the shapes of published families: their tokenizers, templates and ends.

Weights, vocabularies and templates are made here. What each has in common with its family is what has broken
generation: the padding side, the padding and end tokens, system messages, begin tokens and thinking.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaTokenizer,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Tokenizer,
    Qwen3Config,
)

SENTENCES = (
    "Write a short essay: is honesty always the best policy?",
    "A boat sails over the cold lake while dogs sleep in the sun.",
    "You are a careful writer who answers in plain words.",
)
Vocabulary = tuple[dict[str, int], list[tuple[str, str]]]


@dataclass(frozen=True)
class Kind:
    """One family.

    Attributes:
        tokenizer: Makes its tokenizer, without the template.
        template: Jinja source, in words of our own.
        config: Its configuration class; decides which tokenizer class its folder loads as.
        ends: The tokens that end a sequence by the generation config.
        often: Further tokens that the random model is to write often.
        begin: The begin token that template and tokenizer both know, or None.
        takes_system: Whether the template shows a system message to the model.
    """

    tokenizer: Callable[[], Any]
    template: str
    config: Any
    ends: tuple[str, ...]
    often: tuple[str, ...] = ()
    begin: str | None = None
    takes_system: bool = True
    settings: dict[str, Any] = field(default_factory=dict[str, Any])


def _learnt(tokenizer: Tokenizer, special: list[str], alphabet: list[str]) -> Vocabulary:
    trainer = BpeTrainer(
        vocab_size=380, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    told = json.loads(tokenizer.to_str())["model"]
    return told["vocab"], [tuple(pair) for pair in told["merges"]]


def _bytes() -> Vocabulary:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _learnt(tokenizer, [], sorted(pre_tokenizers.ByteLevel.alphabet()))


def _pieces(*special: str) -> Vocabulary:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    return _learnt(tokenizer, [*special, *(f"<0x{byte:02X}>" for byte in range(256))], [])


def _add(tokenizer: Any, *names: str, special: bool = True) -> Any:
    tokenizer.add_tokens([AddedToken(name, special=special) for name in names], special_tokens=special)
    return tokenizer


def _qwen(thinking: bool = False) -> Any:
    vocab, merges = _bytes()
    tokenizer = Qwen2Tokenizer(vocab, merges, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    _add(tokenizer, "<|im_start|>")
    return _add(tokenizer, "<think>", "</think>", special=False) if thinking else tokenizer


def _byte_level(begin: str | None, **names: str | None) -> Any:
    """A tokenizer without a class of its own, as Llama 3's and SmolLM2's are published."""
    vocab, merges = _bytes()
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if begin:
        tokenizer.add_special_tokens([begin])
        pair = (begin, tokenizer.token_to_id(begin))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[pair])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _llama() -> Any:
    begin = "<|begin_of_text|>"
    tokenizer = _byte_level(begin, bos_token=begin, eos_token="<|eot_id|>")
    return _add(tokenizer, "<|end_of_text|>", "<|eom_id|>", "<|start_header_id|>", "<|end_header_id|>")


def _gemma() -> Any:
    vocab, merges = _pieces("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
    return _add(GemmaTokenizer(vocab, merges, padding_side="right"), "<start_of_turn>", "<end_of_turn>")


def _mistral() -> Any:
    vocab, merges = _pieces("<unk>", "<s>", "</s>")
    return _add(LlamaTokenizer(vocab, merges, add_bos_token=True), "[INST]", "[/INST]")


def _smol() -> Any:
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    return _byte_level(None, **names)


_TURNS = "{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
_TURN = "{%- if add_generation_prompt %}<|im_start|>assistant\n"
_DEFAULT = "<|im_start|>system\nYou answer in plain words.<|im_end|>\n"
_STRICT = """{%- for m in messages %}{% if (m.role == 'user') != (loop.index0 is even) %}
{{- raise_exception('user and assistant take turns') }}{% endif %}{% endfor -%}
"""

ZOO = {
    "qwen2.5": Kind(
        _qwen,
        "{%- if messages[0].role != 'system' %}" + _DEFAULT + "{% endif %}" + _TURNS + _TURN + "{% endif %}",
        Qwen2Config,
        ("<|im_end|>", "<|endoftext|>"),
    ),
    "qwen3": Kind(
        lambda: _qwen(thinking=True),
        _TURNS
        + _TURN
        + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
        + "{% endif %}",
        Qwen3Config,
        ("<|im_end|>", "<|endoftext|>"),
        often=("<think>", "</think>"),
    ),
    "qwen3-opened": Kind(
        lambda: _qwen(thinking=True),
        _TURNS + _TURN + "<think>\n{% endif %}",
        Qwen3Config,
        ("<|im_end|>", "<|endoftext|>"),
        often=("</think>",),
    ),
    "llama3": Kind(
        _llama,
        "{{ bos_token }}{%- for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        LlamaConfig,
        ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        begin="<|begin_of_text|>",
    ),
    "gemma3": Kind(
        _gemma,
        "{{ bos_token }}{%- for m in messages %}{% if m.role == 'system' %}"
        "{{ raise_exception('no system role') }}{% endif %}<start_of_turn>"
        "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        Gemma3TextConfig,
        ("<eos>", "<end_of_turn>"),
        begin="<bos>",
        takes_system=False,
        settings={"head_dim": 8, "sliding_window": 64},
    ),
    "mistral": Kind(
        _mistral,
        _STRICT
        + "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        MistralConfig,
        ("</s>",),
        begin="<s>",
        takes_system=False,
        settings={"head_dim": 8},
    ),
    "smollm2": Kind(
        _smol,
        "{%- if messages[0].role != 'system' %}" + _DEFAULT + "{% endif %}" + _TURNS + _TURN + "{% endif %}",
        LlamaConfig,
        ("<|im_end|>",),
    ),
}


def publish(name: str, folder: Path) -> Path:
    """Writes a model of the zoo as a folder that AutoTokenizer and AutoModelForCausalLM load."""
    kind = ZOO[name]
    tokenizer = kind.tokenizer()
    tokenizer.padding_side = "right"
    tokenizer.chat_template = kind.template
    ends = tokenizer.convert_tokens_to_ids(list(kind.ends))
    config = kind.config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
        **kind.settings,
    )
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for token in tokenizer.convert_tokens_to_ids(list(kind.often)):
            model.lm_head.weight[token] *= 2.5
        model.lm_head.weight[ends] *= 3.5 if kind.often else 2.0
    # Published models sample by settings of their own, which nobody here asked for.
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.6, top_k=2, top_p=0.8, repetition_penalty=1.3, eos_token_id=ends,
        bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
