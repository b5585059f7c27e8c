"""When the rubric is rewritten, and how the outcome is put on record.

Every ``interval`` generation batches, before the next one is generated. Mode ``paper``: what the meta-judge
proposes is taken, if it is a valid rubric. Each outcome goes to ``lineage.jsonl``; a resumed run takes
outcomes from there, so that it follows the same rubrics even where a call that failed then would succeed now.
"""

from __future__ import annotations

from mpo_lite.errors import EndpointError, JudgeDown
from mpo_lite.llm import background
from mpo_lite.meta.select import select
from mpo_lite.meta.step import MetaJudge, Proposal, changes
from mpo_lite.rubric import Rubric
from mpo_lite.runs import JsonRow, append_rows
from mpo_lite.training.session import Session


def evolve(session: Session) -> None:
    """Runs the meta step if one is due now.

    Raises:
        StopRun: A cap is reached, the meta-judge refuses for good, or the user stops the run.
    """
    if session.meta is None or session.batch == 0 or session.batch % session.config.interval:
        return
    outcome = session.meta_outcomes.pop(session.batch, None) or _meta_step(session, session.meta)
    if outcome["accepted"]:
        session.publish(Rubric.model_validate(outcome["rubric"]), outcome["author"])
    append_rows(session.run.lineage, [outcome])
    session.recent.clear()
    session.observe("meta", outcome)


def _meta_step(session: Session, meta: MetaJudge) -> JsonRow:
    """Selects, proposes and describes the outcome; one row of the lineage."""
    old = session.version
    seed = f"select-{session.config.seed}-{session.batch}"
    samples = select(session.recent, session.config.meta_samples, seed)
    proposal = Proposal(None, "no judged rollouts to learn from", (), 0)
    if samples:
        try:
            work = meta.propose(old.rubric, samples, session.batch)
            proposal = background.wait(work, session.check_interrupt)
        except EndpointError as error:
            raise JudgeDown(str(error)) from None
        finally:
            session.warn()
    new = proposal.rubric
    unchanged = new is not None and new.reward_hash == old.rubric.reward_hash
    accepted = new is not None and not unchanged
    return {
        "batch": session.batch,
        "accepted": accepted,
        "reason": "the meta-judge keeps the rubric as it is" if unchanged else proposal.reason,
        "parent": old.number,
        "version": old.number + accepted,
        "author": meta.backend.model,
        "samples": list(proposal.samples),
        "failed_samples": proposal.failed,
        **(changes(old.rubric, new) if new else {"added": [], "changed": [], "dropped": []}),
        "rubric": new.model_dump(mode="json") if new else None,
    }
