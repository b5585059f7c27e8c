"""The reference set R0 of a run whose policy is out of reach: the first answers that come in."""

from __future__ import annotations

from mpo_lite.jsonl import write_journal
from mpo_lite.loop.session import Session, answer_row
from mpo_lite.types import Completion, Rollout

FEWEST = 4
"""Prompts below which a reference set says too little; ``gate.prompts`` takes no fewer."""


def record_anchor(session: Session) -> None:
    """Takes the first answers to the first prompts as the initial policy's, once there are enough of them.

    That is with ``gate.prompts`` different prompts or, where the client trains on fewer, after the first
    interval. The policy has hardly moved by then.
    """
    config, batch = session.config, session.state.batch
    if session.state.anchor or session.meta is None:
        return
    first: dict[str, Rollout] = {}
    for rollout in session.run.read_rollouts():
        if rollout.batch <= batch and rollout.completion:
            first.setdefault(rollout.prompt, rollout)
    if len(first) < config.gate.prompts and (batch < config.interval or len(first) < FEWEST):
        return
    rollouts = list(first.values())[: config.gate.prompts]
    rows = (answer_row(one.prompt, Completion(one.completion, one.truncated)) for one in rollouts)
    write_journal(session.run.anchor, rows)
    session.load_anchor()
