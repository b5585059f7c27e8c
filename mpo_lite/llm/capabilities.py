"""What a model has shown to take and to need; learned once, kept for the process, and said once."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from mpo_lite.llm.structured_output import LADDER, OutputMode, Schema, mode_params, without_bounds

THINKING_ROOM = 8192
"""Tokens added to the limit of a model that thinks: providers count its thoughts against the limit."""
_LOOPS = 3
_SAID = {
    "json_schema": "a JSON schema",
    "tool": "a tool call",
    "json_object": "JSON mode",
    "bounds": "limits in a JSON schema",
}
"""What else than a parameter a model may refuse, for people."""

_log = logging.getLogger(__name__)


@dataclass
class ModelCapabilities:
    """What one model accepts, learned from its refusals.

    Attributes:
        model: Its name.
        refused: Rungs of the ladder and parameters it does not take; ``bounds`` are those of schemas.
        room: Tokens to add to the answer's limit.
    """

    model: str
    refused: set[str] = field(default_factory=set[str])
    room: int = 0
    _most_room: int = THINKING_ROOM
    _loops: int = 0

    def output_modes(self) -> list[OutputMode]:
        """The ways to ask it for an object, strictest first; at least one."""
        return [output_mode for output_mode in LADDER if output_mode not in self.refused]

    def parameters(
        self, output_mode: OutputMode, schema: Schema, max_tokens: int, temperature: float, seed: int | None
    ) -> dict[str, Any]:
        """A request's parameters, without those it refuses."""
        schema = without_bounds(schema) if "bounds" in self.refused else schema
        limit = "max_completion_tokens" if "max_tokens" in self.refused else "max_tokens"
        wanted = {"temperature": temperature, "seed": seed, **mode_params(output_mode, schema)}
        kept = {
            name: value for name, value in wanted.items() if value is not None and name not in self.refused
        }
        return {limit: max_tokens, **kept}

    def refuses(self, parameter: str, output_mode: OutputMode, bounded: bool) -> OutputMode:
        """Remembers that the model refused ``parameter``; gives the output mode to continue with.

        Args:
            parameter: What the model does not take.
            output_mode: How it was asked.
            bounded: Whether the request's schema had bounds. Messages seldom say that it is those a provider
                refuses, so a refused schema is tried once more without them.
        """
        what: str = parameter
        if parameter in mode_params(output_mode, {}):
            what = "bounds" if bounded and output_mode == "json_schema" else output_mode
        if what not in self.refused:
            self.refused.add(what)
            _log.warning(
                "%s does not take %s; asked without it from now on", self.model, _SAID.get(what, what)
            )
        return self.allowed(output_mode)

    def allowed(self, output_mode: OutputMode) -> OutputMode:
        """The output mode, or the next one below it that the model takes."""
        return next(each for each in LADDER[LADDER.index(output_mode) :] if each not in self.refused)

    def thinks(self) -> None:
        """Remembers that it thinks before it answers."""
        self.room = self._most_room

    def fits(self, room: int) -> None:
        """Remembers how much added room was taken; less than asked for is all that the context has."""
        if room < self.room:
            self.room = self._most_room = room

    def loops(self) -> None:
        """Remembers an answer that ended in endless white space: by and by, guided decoding is given up."""
        self._loops += 1
        if self._loops == _LOOPS:
            self.refused |= set(LADDER) - {"text"}
            _log.warning(
                "%s fills its answers with white space under guided decoding; asked by the prompt alone from "
                "now on. On vLLM, start the server with --structured-outputs-config "
                '\'{"backend":"xgrammar","disable_any_whitespace":true}\'',
                self.model,
            )
