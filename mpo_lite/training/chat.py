"""Conversations as one model's tokenizer takes them, and its completions as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from mpo_lite.sanitize import THINK_CLOSE, THINK_OPEN, strip_thinking
from mpo_lite.types import Completion

_PROBE = "9f3b7c"
"""Sent as a system message, to see whether a template shows it to the model."""


class Chat:
    """The one way from conversations to token ids and from token ids to answers.

    Args:
        model: Its generation config names tokens that end a sequence, in addition to the tokenizer's own.
        tokenizer: With a chat template.
        template_options: Arguments of the chat template, such as ``enable_thinking``; the trainer's
            ``chat_template_kwargs``.

    Attributes:
        tokenizer: As given.
        ends: Ids of all tokens that end a sequence. Without the padding token, unless it is one of them.
        pad: Id to pad with.
    """

    def __init__(self, model: Any, tokenizer: Any, template_options: dict[str, Any] | None = None) -> None:
        self.tokenizer = tokenizer
        self._options = template_options or {}
        self.ends = end_tokens(model, tokenizer)
        self.pad: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(self.ends)
        # Some templates end the prompt with an opened block, so that a completion only ever closes it.
        self._opens_thinking = self._render([{"role": "user", "content": "-"}]).rstrip().endswith(THINK_OPEN)
        self._takes_system = self._shows_system()

    def conversation(self, messages: Sequence[Any]) -> list[Any]:
        """The messages as the template takes them: where it refuses or drops a system message, that begins
        the first message of the user instead.
        """
        if self._takes_system or not messages or messages[0]["role"] != "system":
            return list(messages)
        system, *rest = messages
        if not rest or rest[0]["role"] != "user":
            return [{"role": "user", "content": system["content"]}, *rest]
        return [{"role": "user", "content": f"{system['content']}\n\n{rest[0]['content']}"}, *rest[1:]]

    def prompt_ids(self, messages: Sequence[Any]) -> list[int]:
        """The token ids of a conversation and the opening of the model's turn, as TRL makes them."""
        encoded = self.tokenizer.apply_chat_template(
            self.conversation(messages),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            **self._options,
        )
        return list(encoded["input_ids"])

    def completion(self, ids: Sequence[int]) -> Completion:
        """What the generated tokens say, up to the first that ends the sequence.

        Args:
            ids: Generated tokens; what follows an end-of-sequence token is padding.
        """
        length = next((place for place, token in enumerate(ids) if token in self.ends), None)
        ids, truncated = list(ids[:length]), length is None
        opened = self._opens_thinking
        # Where the marks of thinking are special tokens, decoding drops them: they are looked for as tokens.
        begin, close = self._token(THINK_OPEN), self._token(THINK_CLOSE)
        if close in ids:
            opened = False
            ids = ids[len(ids) - ids[::-1].index(close) :]
        if begin in ids:
            return Completion("", truncated)
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return Completion(strip_thinking(text, opened), truncated)

    def _token(self, text: str) -> int | None:
        """The id of a token of the vocabulary, or None."""
        token = self.tokenizer.convert_tokens_to_ids(text)
        return token if token is not None and self.tokenizer.convert_ids_to_tokens(token) == text else None

    def _render(self, messages: list[Any]) -> str:
        return self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, **self._options
        )

    def _shows_system(self) -> bool:
        try:
            return _PROBE in self._render(
                [{"role": "system", "content": _PROBE}, {"role": "user", "content": "-"}]
            )
        except TemplateError:
            return False


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids of all tokens that end a sequence, as TRL takes them."""
    eos: int | list[int] | None = model.generation_config.eos_token_id
    ends = eos if isinstance(eos, list) else [eos]
    own: int | None = tokenizer.eos_token_id
    return frozenset(token for token in (*ends, own) if token is not None)
