"""A whole training, from a configuration to its result: what ``mpo-lite train`` and ``mpo_lite.train`` do.

What can be checked is checked first, the cheapest before all else, and everything before a judge is paid.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mpo_lite.activity import activity, find_activity
from mpo_lite.checkpoints import discard_after, read_state
from mpo_lite.config import Config
from mpo_lite.errors import BudgetReached, ConfigError, StopRun
from mpo_lite.jsonl import JsonRow
from mpo_lite.loop.begin import open_run
from mpo_lite.loop.distributed import is_main, run_on_main
from mpo_lite.loop.environment import check_packages
from mpo_lite.loop.estimate import estimate, least_call, paid_for
from mpo_lite.loop.session import Observer, Session
from mpo_lite.rubric import Rubric
from mpo_lite.run_dir import RunDir, check_vacant
from mpo_lite.sandbox.stand_in import sandboxed
from mpo_lite.sanitize import pluralize
from mpo_lite.wording import simulated_note

if TYPE_CHECKING:
    from mpo_lite.training.train import TrainingOutcome

TRAINING = "training"
"""Name of the activity that counts the batches."""


@dataclass(frozen=True)
class Result:
    """What came of a training.

    Attributes:
        run: The run directory, with rollouts, metrics, rubric versions and checkpoints.
        rubric: In force at the end.
        version: Its number.
        stop: Why the training stopped before its last batch, with everything saved; None: it did not.
        seconds: Wall time, model loading included.
        spend: Calls, tokens and USD, those before a resume included.
    """

    run: RunDir
    rubric: Rubric
    version: int
    stop: StopRun | None
    seconds: float
    spend: JsonRow


def train(
    config: Config,
    observe: Observer = lambda kind, row: None,
    run: RunDir | None = None,
    checkpoint: Path | None = None,
) -> Result:
    """Trains a policy while its rubric evolves, or goes on with a run.

    Args:
        config: What to train, from ``load_config``.
        observe: Told of ``note``, ``gold``, ``step``, ``alarm`` and ``meta`` events as they happen, each with
            its row; in the first process alone.
        run: A run to go on with, opened and locked; None begins a new one.
        checkpoint: Where that run goes on; None from its first batch.

    Returns:
        The result; a cap, a judge that broke down or Ctrl-C is its ``stop``.

    Raises:
        UsageError: A setting, file or endpoint cannot work; nothing was trained.
        StorageError: The disk is full or read-only; the checkpoints before that are whole.
    """
    folder = config.run_dir
    if run is None and folder:
        run_on_main(lambda: check_vacant(folder))

    def tell(kind: str, row: JsonRow) -> None:
        if kind == "step" and (batches := find_activity(TRAINING)):
            batches.advance(row["batch"] - batches.done)
        if is_main():
            observe(kind, row)

    with sandboxed(config) as served:
        session = Session(served, tell)
        try:
            run, outcome = _train(session, config, run, checkpoint)
            version, spend = session.version, session.spend()
            return Result(run, version.rubric, version.number, outcome.stop, outcome.seconds, spend)
        finally:
            session.close()


def resume_command(run: RunDir, stop: StopRun) -> str:
    """The command that goes on with a stopped run, with a higher cap where one stopped it."""
    flag = stop.suggested_flag if isinstance(stop, BudgetReached) else ""
    return f"mpo-lite resume {run.path} {flag}".rstrip()


def _train(
    session: Session, config: Config, resumed: RunDir | None, checkpoint: Path | None
) -> tuple[RunDir, TrainingOutcome]:
    """Checks everything, then trains; ``config`` is as it was given, the session's with the sandbox in it."""
    estimated = estimate(session)
    if resumed:
        session.attach(resumed)
        run_on_main(lambda: _require_room(session, resumed, least_call(estimated)))
    else:
        _tell_plan(session, estimated)
    for role, which in session.models.all:
        session.note(f"{role}: {which.model}{f' at {which.api_base}' if which.api_base else ''}")
    check_packages(session.config)
    if session.config.log_calls and session.config.log_calls.is_absolute():
        session.models.log_calls(Path())  # at once: a place that cannot be written is told before all else
    with activity("checking the settings"):
        # Loads torch: only now that nothing that is quicker to see can be wrong.
        from mpo_lite.training import policy, train, trl_args

        train.check_settings(session)
        policy.check_policy(session.config)
        folder = resumed.path if resumed else config.run_dir or Path("runs")
        train.check_room(session, folder, 1 if checkpoint else trl_args.KEPT_CHECKPOINTS)
        session.try_metrics()
    session.check_models()
    if config.simulated:
        session.note(simulated_note(config.simulated))
    run = resumed or RunDir(run_on_main(lambda: open_run(config, "train").path))
    if not resumed:
        session.attach(run)
    run_on_main(lambda: discard_after(run, checkpoint))
    session.note(f"run directory: {run.path}" + (f", from {checkpoint.name}" if checkpoint else ""))
    session.note(f"loading the policy {config.policy}")
    try:
        with activity(TRAINING, config.steps, "batches") as batches:
            batches.done = read_state(checkpoint)["batch"] if checkpoint else 0
            return run, train.train(session, checkpoint)
    except ConfigError:
        if not resumed and is_main():
            run.withdraw()
        raise


def _require_room(session: Session, run: RunDir, least: tuple[float, int]) -> None:
    """Stops a run at once whose caps leave nothing for another call of the judge, in USD and tokens."""
    try:
        session.client.budget.require(*least)
    except BudgetReached as stop:
        raise BudgetReached(f"{stop}: {resume_command(run, stop)}", stop.suggested_flag) from None


def _tell_plan(session: Session, estimated: JsonRow) -> None:
    """What the run will take, and what becomes of its prompts."""
    total = estimated["total"]
    middle, usd = total["middle"], total["usd"]
    tokens = [sum(pair) for pair in zip(total["input_tokens"], total["output_tokens"], strict=True)]
    about = (middle["input_tokens"] + middle["output_tokens"]) / 1e6
    cost = "unpriced" if usd is None else f"about ${middle['usd']:.2f} (${usd[0]:.2f} to ${usd[1]:.2f})"
    low, high = total["calls"]
    session.note(
        f"estimated: about {middle['calls']:,} calls ({low:,} to {high:,}), {about:.2g} million tokens "
        f"({tokens[0] / 1e6:.2g} to {tokens[1] / 1e6:.2g}), {cost}; mpo-lite estimate says how"
    )
    for line in paid_for(session, estimated):
        session.note(line)
    if summary := estimated["meta_steps"]["summary"]:
        session.note(summary)
    train, held_out = len(session.prompts.train), len(session.prompts.held_out)
    if held_out and not session.task.data.held_out_source:
        use = "for the gold metric" if session.gold else "for mpo-lite compare"
        session.note(f"{held_out} of {pluralize(train + held_out, 'prompt')} are held out of training, {use}")
