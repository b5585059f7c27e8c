"""A whole training, from a configuration to its result: what ``mpo-lite train`` and ``mpo_lite.train`` do.

What can be checked is checked first, the cheapest before all else, and everything before a judge is paid.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from mpo_lite.activity import activity, find_activity
from mpo_lite.checkpoints import discard_after, read_state
from mpo_lite.config import Config
from mpo_lite.errors import BudgetReached, ConfigError, StopRun
from mpo_lite.jsonl import JsonRow
from mpo_lite.loop.begin import open_run
from mpo_lite.loop.context import Observer, RunContext, prepare_run
from mpo_lite.loop.distributed import is_main, run_on_main
from mpo_lite.loop.environment import check_packages, check_trainer, require_extra
from mpo_lite.loop.estimate import estimate, least_call, paid_for
from mpo_lite.loop.session import Session
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
        rubric: The current rubric at the end.
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
    """Trains a policy while its rubric evolves, or continues a run.

    Args:
        config: What to train, from ``load_config``.
        observe: Told of ``note``, ``gold``, ``step``, ``alarm`` and ``meta`` events as they happen, each with
            its row; in the first process alone.
        run: A run to continue, opened and locked; None begins a new one.
        checkpoint: Where that run continues; None from its first batch.

    Returns:
        The result; a cap, a judge that broke down or Ctrl-C is its ``stop``.

    Raises:
        UsageError: A setting, file or endpoint cannot work; nothing was trained.
        StorageError: The disk is full or read-only; the checkpoints before that are whole.
    """
    require_extra("train")
    folder = config.run_dir
    if run is None and folder:
        run_on_main(lambda: check_vacant(folder))

    def tell(kind: str, row: JsonRow) -> None:
        if kind == "step" and (batches := find_activity(TRAINING)):
            batches.advance(row["batch"] - batches.done)
        if is_main():
            observe(kind, row)

    with sandboxed(config) as served:
        context = prepare_run(served, tell)
        try:
            session = _prepare_session(context, config, run, checkpoint)
        except BaseException:
            context.close()
            raise
        try:
            outcome = _train(session, config, checkpoint, withdraw=run is None)
            version, spend = session.state.version, session.spend()
            return Result(session.run, version.rubric, version.number, outcome.stop, outcome.seconds, spend)
        finally:
            session.close()


def resume_command(run: RunDir, stop: StopRun) -> str:
    """The command that continues a stopped run, with a higher cap where one stopped it."""
    flag = stop.suggested_flag if isinstance(stop, BudgetReached) else ""
    return f"mpo-lite resume {run.path} {flag}".rstrip()


def _prepare_session(
    context: RunContext, config: Config, resumed: RunDir | None, checkpoint: Path | None
) -> Session:
    """Checks everything, the cheapest first, and opens the run directory.

    Args:
        context: The run.
        config: As it was given and is saved; the context's has the addresses of the sandbox in it.
        resumed: An existing run; None makes a new one.
        checkpoint: Where that continues.
    """
    estimated = estimate(context)
    session: Session | None = None
    if resumed:
        session = Session(context, resumed)
        run_on_main(lambda: _require_room(context, resumed, least_call(estimated)))
    else:
        _note_plan(context, estimated)
    for role, which in context.models.all:
        context.note(f"{role}: {which.model}{f' at {which.api_base}' if which.api_base else ''}")
    check_packages(context.config)
    check_trainer(context.config)
    if context.config.log_calls and context.config.log_calls.is_absolute():
        context.models.log_calls(Path())  # a place that cannot be written is better reported now than later
    with activity("checking the settings"):
        # Loads torch, which takes seconds: every quicker check came first.
        from mpo_lite.training import policy, train, trl_args

        _trainer_module(config).check_settings(context)
        policy.check_policy(context.config)
        folder = resumed.path if resumed else config.run_dir or Path("runs")
        train.check_room(context.config, folder, 1 if checkpoint else trl_args.KEPT_CHECKPOINTS)
        context.try_metrics()
    context.check_models()
    if config.simulated:
        context.note(simulated_note(config.simulated))
    return session or Session(context, RunDir(run_on_main(lambda: open_run(config, "train").path)))


def _train(session: Session, config: Config, checkpoint: Path | None, withdraw: bool) -> TrainingOutcome:
    """Trains; where the policy cannot be used, a new run is taken back (``withdraw``)."""
    run, note = session.run, session.context.note
    run_on_main(lambda: discard_after(run, checkpoint))
    note(f"run directory: {run.path}" + (f", from {checkpoint.name}" if checkpoint else ""))
    note(f"loading the policy {config.policy}")
    try:
        with activity(TRAINING, config.steps, "batches") as batches:
            batches.done = read_state(checkpoint)["batch"] if checkpoint else 0
            return _trainer_module(config).train(session, checkpoint)
    except ConfigError:
        if withdraw and is_main():
            run.withdraw()
        raise


def _trainer_module(config: Config) -> ModuleType:
    """What trains, imported as late as possible; TRL's experimental trainer only where it is asked for."""
    return import_module(f"mpo_lite.training.{'asynchronous' if config.trainer == 'async' else 'train'}")


def _require_room(context: RunContext, run: RunDir, least: tuple[float, int]) -> None:
    """Stops a run at once whose caps leave nothing for another call of the judge, in USD and tokens."""
    try:
        context.models.client.budget.require(*least)
    except BudgetReached as stop:
        raise BudgetReached(f"{stop}: {resume_command(run, stop)}", stop.suggested_flag) from None


def _note_plan(context: RunContext, estimated: JsonRow) -> None:
    """What the run will take, and what becomes of its prompts."""
    total = estimated["total"]
    middle, usd = total["middle"], total["usd"]
    tokens = [sum(pair) for pair in zip(total["input_tokens"], total["output_tokens"], strict=True)]
    about = (middle["input_tokens"] + middle["output_tokens"]) / 1e6
    cost = "unpriced" if usd is None else f"about ${middle['usd']:.2f} (${usd[0]:.2f} to ${usd[1]:.2f})"
    low, high = total["calls"]
    context.note(
        f"estimated: about {middle['calls']:,} calls ({low:,} to {high:,}), {about:.2g} million tokens "
        f"({tokens[0] / 1e6:.2g} to {tokens[1] / 1e6:.2g}), {cost}; mpo-lite estimate says how"
    )
    for line in paid_for(context, estimated):
        context.note(line)
    if summary := estimated["meta_steps"]["summary"]:
        context.note(summary)
    train, held_out = len(context.prompts.train), len(context.prompts.held_out)
    if held_out and not context.task.data.held_out_source:
        use = "for the gold metric" if context.gold else "for mpo-lite compare"
        context.note(f"{held_out} of {pluralize(train + held_out, 'prompt')} are held out of training, {use}")
