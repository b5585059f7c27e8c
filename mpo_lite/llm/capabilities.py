"""What a model has been seen to support and to need; learned once per process and reported once."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from mpo_lite.llm.structured_output import LADDER, OutputMode, Schema, mode_params, without_bounds

REASONING_HEADROOM = 8192
"""Tokens added to the limit of a reasoning model: providers count its reasoning against the limit."""
_MAX_WHITESPACE_LOOPS = 3
"""Whitespace loops after which structured output is turned off for a model."""
_FEATURE_NAMES = {
    "json_schema": "a JSON schema",
    "tool": "a tool call",
    "json_object": "JSON mode",
    "bounds": "length limits in a JSON schema",
}
"""Readable names of what a model may reject besides plain parameters."""

_log = logging.getLogger(__name__)


@dataclass
class ModelCapabilities:
    """What one model supports, learned from the errors of its server.

    Attributes:
        model: Its name.
        unsupported: Output modes and parameters it rejects; ``bounds`` stands for those of schemas.
        headroom: Tokens to add to the answer's limit, for reasoning.
    """

    model: str
    unsupported: set[str] = field(default_factory=set[str])
    headroom: int = 0
    _max_headroom: int = REASONING_HEADROOM
    _whitespace_loops: int = 0

    def output_modes(self) -> list[OutputMode]:
        """The supported ways to ask for an object, strictest first; at least one."""
        return [output_mode for output_mode in LADDER if output_mode not in self.unsupported]

    def parameters(
        self, output_mode: OutputMode, schema: Schema, max_tokens: int, temperature: float, seed: int | None
    ) -> dict[str, Any]:
        """A request's parameters, without unsupported ones."""
        schema = without_bounds(schema) if "bounds" in self.unsupported else schema
        # OpenAI's reasoning models reject max_tokens and want max_completion_tokens.
        limit = "max_completion_tokens" if "max_tokens" in self.unsupported else "max_tokens"
        wanted = {"temperature": temperature, "seed": seed, **mode_params(output_mode, schema)}
        kept = {
            name: value
            for name, value in wanted.items()
            if value is not None and name not in self.unsupported
        }
        return {limit: max_tokens, **kept}

    def mark_unsupported(self, parameter: str, output_mode: OutputMode, bounded: bool) -> OutputMode:
        """Remembers that the model rejects ``parameter``; returns the output mode to continue with.

        Args:
            parameter: What the model rejected.
            output_mode: How it was asked.
            bounded: Whether the request's schema had bounds. Error messages rarely say that the bounds are
                the problem, so a rejected schema is tried once more without them.
        """
        feature: str = parameter
        if parameter in mode_params(output_mode, {}):
            feature = "bounds" if bounded and output_mode == "json_schema" else output_mode
        if feature not in self.unsupported:
            self.unsupported.add(feature)
            _log.warning(
                "%s does not support %s; continuing without it",
                self.model,
                _FEATURE_NAMES.get(feature, feature),
            )
        return self.strictest_supported(output_mode)

    def strictest_supported(self, output_mode: OutputMode) -> OutputMode:
        """The output mode, or the next less strict one that the model supports."""
        return next(mode for mode in LADDER[LADDER.index(output_mode) :] if mode not in self.unsupported)

    def mark_reasoning(self) -> None:
        """Remembers that the model reasons before it answers, so that replies get headroom."""
        self.headroom = self._max_headroom

    def shrink_headroom(self, headroom: int) -> None:
        """Remembers the headroom that was accepted; less than requested is all that the context has."""
        if headroom < self.headroom:
            self.headroom = self._max_headroom = headroom

    def mark_whitespace_loop(self) -> None:
        """Counts an answer that ended in endless white space; after a few, turns structured output off."""
        self._whitespace_loops += 1
        if self._whitespace_loops == _MAX_WHITESPACE_LOOPS:
            self.unsupported |= set(LADDER) - {"text"}
            _log.warning(
                "%s pads its answers with white space under guided decoding; structured output is now "
                "off for it. On vLLM, start the server with --structured-outputs-config "
                '\'{"backend":"xgrammar","disable_any_whitespace":true}\'',
                self.model,
            )
