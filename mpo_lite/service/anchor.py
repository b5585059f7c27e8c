"""The reference set R0 of a run whose policy is out of reach: the first answers that come in."""

from __future__ import annotations

from mpo_lite.jsonl import JsonRow, write_journal
from mpo_lite.loop.session import Session, answer_row
from mpo_lite.types import Completion

FEWEST = 4
"""Prompts below which a reference set says too little; ``gate.prompts`` takes no fewer."""


def record_anchor(session: Session) -> None:
    """Takes the first answers to the first prompts as the initial policy's, once there are enough of them.

    That is with ``gate.prompts`` different prompts or, where the client trains on fewer, after the first
    interval. The policy has hardly moved by then.
    """
    config, batch = session.config, session.state.batch
    is_interval_over = batch % config.interval == 0
    if session.state.anchor or session.meta is None or (batch > config.interval and not is_interval_over):
        return
    first: dict[str, JsonRow] = {}
    for row in session.run.iterate_rows(session.run.rollouts):
        if row["batch"] <= batch and row["completion"]:
            answer = Completion(row["completion"], row.get("truncated", False))
            first.setdefault(row["prompt"], answer_row(row["prompt"], answer))
        if len(first) == config.gate.prompts:
            break
    if len(first) == config.gate.prompts or (is_interval_over and len(first) >= FEWEST):
        write_journal(session.run.anchor, first.values())
        session.load_anchor()
    elif is_interval_over and config.use_gate:
        session.context.note(
            f"no meta step: the gate needs answers to {FEWEST} different prompts, and so far there are "
            f"{len(first)}; train on more prompts, or set --no-use-gate"
        )
