"""The library's front: one object that gives a TRL trainer its reward, its callback and its data."""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mpo_lite.config import Config, Model
from mpo_lite.evaluation.chat import Completion
from mpo_lite.llm.models import SANDBOX, full_name
from mpo_lite.resolve import load_config
from mpo_lite.runs import Run, new_folder
from mpo_lite.tasks.data import training_order
from mpo_lite.text import without_thinking
from mpo_lite.training.callback import MPOCallback
from mpo_lite.training.early import Early
from mpo_lite.training.environment import environment
from mpo_lite.training.ranks import exchange, leads, led, rank
from mpo_lite.training.reward import Reward, has_spread, judge_samples, score_batch
from mpo_lite.training.session import Session

if TYPE_CHECKING:
    from datasets import Dataset

_TRACKED = (
    "rubric_version", "reward", "gold", "spread", "disagreement", "alarms", "judge_failures", "refusals",
    "judge_seconds", "judge_calls", "usd",
)  # fmt: skip
"""Figures that trackers are given with a batch, beside TRL's own: gold as it was last measured, calls and USD
so far."""
ExtraReward = Callable[..., Sequence[Reward]]


class MPO:
    """Meta Policy Optimization for a TRL trainer.

    ```python
    mpo = MPO(judge="gpt-4o", meta="claude", task="essay")
    trainer = GRPOTrainer(model, reward_funcs=mpo.reward, callbacks=[mpo.callback],
                          train_dataset=mpo.dataset("train"), args=GRPOConfig(..., shuffle_dataset=False))
    ```

    Args:
        extra: Further reward functions in TRL's form, added to the judge's reward. Given here and not to the
            trainer, because beside a second function a judge's None would count as 0.
        session: A prepared session instead of ``options``; it has its run directory already.
        options: Any field of ``mpo_lite.config.Config``; what is left out comes from ``MPO_*`` variables,
            ``.env`` and defaults. A ``run_dir`` that holds such a run is gone on in, by
            ``trainer.train(resume_from_checkpoint=True)``.

    Attributes:
        callback: For the trainer's ``callbacks``.
        baseline: What rewards are compared within; a batch without spread there makes no step.
        early: Told of completions as they end, by a trainer that can (``mpo_lite.GRPO`` and its like).
        run: The run directory everything is written to.

    Raises:
        UsageError: Configuration, task, data, rubric or an endpoint cannot work; nothing was trained.
    """

    def __init__(
        self, extra: Sequence[ExtraReward] = (), session: Session | None = None, **options: Any
    ) -> None:
        resumes = False
        if session is None:
            session = Session(load_config(given=options))
            atexit.register(session.close)
            session.task.prepare_metrics()
            session.check_models()
            path, resumes = led(lambda: _begun(session))
            session.attach(Run(path))
        self.session = session
        self.callback = MPOCallback(session, must_resume=resumes)
        self.early = Early(session)
        self.baseline: Literal["group", "batch"] = "group"
        self._extra = tuple(extra)
        # TRL warns about rows without a reward by printing them whole: prompts do not belong in logs.
        for name in ("grpo", "rloo"):
            logging.getLogger(f"trl.trainer.{name}_trainer").addFilter(_no_prompts)

    @property
    def run(self) -> Run:
        """The run directory."""
        return self.session.run

    def reward(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[Reward]:
        """TRL's reward function.

        Args:
            prompts: B prompts as TRL gives them, texts or conversations.
            completions: B completions, likewise.
            columns: The data set's columns and what else TRL passes; ``task_prompt`` is what the judge is
                shown as the task, ``split`` other than ``train`` marks rows that must not train.

        Returns:
            B rewards; None where there is none.

        Raises:
            StopRun: The run has to stop; see ``mpo_lite.training.reward.score_batch``.
        """
        session, group_size = self.session, self.callback.group_size
        tasks = columns.get("task_prompt") or [text_of(prompt) for prompt in prompts]
        answers = self.answers(completions, columns.get("completion_ids"))
        samples = [session.sample(task, one.text) for task, one in zip(tasks, answers, strict=True)]
        train = columns.get("split", ["train"])[0] == "train"
        if train:
            truncated = [one.truncated for one in answers]
            rollouts = score_batch(session, samples, group_size, self.early.claim(), truncated)
            if leads():
                session.batch_row["alarms"] = self.callback.evolution.saw(rollouts)
            first = rank() * len(samples)
            rewards: list[Reward] = [rollout.reward for rollout in rollouts[first : first + len(samples)]]
            rewards = self._less_for_the_cut(rewards, truncated)
        else:
            rewards = [verdict.reward for verdict in judge_samples(session, samples)]
        for function in self._extra:
            more = function(prompts=prompts, completions=completions, **columns)
            pairs = zip(rewards, more, strict=True)
            rewards = [
                None if None in pair else sum(part for part in pair if part is not None) for pair in pairs
            ]
        if train:
            self._track(columns.get("log_metric"))
            whole = [reward for share in exchange(rewards) for reward in share]
            session.no_step = not has_spread(whole, len(whole) if self.baseline == "batch" else group_size)
        return rewards

    def _track(self, log_metric: Callable[[str, float], None] | None) -> None:
        """Gives the batch's figures to the trainer's log, and by it to TensorBoard and its like."""
        if log_metric is None:
            return
        row = self.session.batch_row
        told = {
            **row,
            **self.session.spend(),
            "rubric_version": row["version"],
            "alarms": len(row.get("alarms", ())),
            "gold": self.callback.gold,
        }
        for name in _TRACKED:
            if (value := told.get(name)) is not None:
                log_metric(f"mpo/{name}", float(value))

    def answers(self, completions: list[Any], ids: Sequence[Sequence[int]] | None) -> list[Completion]:
        """Completions as they are judged.

        Args:
            completions: B texts or conversations, as TRL gives them.
            ids: Their tokens, B lists, which alone tell whether a completion was truncated; None where they
                are not known.
        """
        chat = self.callback.chat
        if chat is None or ids is None:
            return [Completion(without_thinking(text_of(one)), truncated=False) for one in completions]
        return [
            # Of several turns with tools, only the last is the answer; the tokens are those of all of them.
            Completion(without_thinking(text_of(one)), chat.completion(each).truncated)
            if not isinstance(one, str) and len(one) > 1
            else chat.completion(each)
            for one, each in zip(completions, ids, strict=True)
        ]

    def _less_for_the_cut(self, rewards: list[Reward], truncated: Sequence[bool]) -> list[Reward]:
        """Takes the penalty off the rewards of completions that do not end with an end-of-sequence token."""
        penalty = self.session.config.missing_eos_penalty
        return [
            reward if reward is None or not cut else reward - penalty
            for reward, cut in zip(rewards, truncated, strict=True)
        ]

    def dataset(self, split: str = "train") -> Dataset:
        """The task's prompts for the trainer.

        Args:
            split: ``train``: steps x batch_prompts rows in training order, so use ``shuffle_dataset=False``;
                ``held_out``: each held-out prompt once.

        Returns:
            Columns ``prompt`` (conversation), ``task_prompt`` (what the judge is shown) and ``split``.
        """
        from datasets import Dataset

        session, config = self.session, self.session.config
        prompts = session.prompts.held_out
        if split == "train":
            prompts = training_order(session.prompts.train, config.steps * config.batch_prompts, config.seed)
        return Dataset.from_list(
            [
                {"prompt": session.task.policy_messages(prompt), "task_prompt": prompt, "split": split}
                for prompt in prompts
            ]
        )


def open_run(config: Config, begun_by: Literal["train", "library"]) -> Run:
    """Makes the run directory of a new run. Raises ``ConfigError`` where there is one already."""
    path = config.run_dir or new_folder("goal" if config.goal else Path(config.task).name)
    return Run.create(path, _pinned(config), {"begun_by": begun_by, **environment()})


def _begun(session: Session) -> tuple[Path, bool]:
    """The run of a user's own trainer: a new one, or the one in ``run_dir``; and whether it has batches."""
    config = session.config
    if config.run_dir and (run := Run(config.run_dir)).exists() and run.begun_by == "library":
        return run.path, bool(run.rows(run.rollouts))
    return open_run(config, "library").path, False


def _pinned(config: Config) -> Config:
    """The configuration as it is saved: with full model names, and with paths that hold from any folder."""

    def pin(model: Model) -> Model:
        return model.model_copy(update={"model": full_name(model.model)})

    names = {
        "judge": tuple(pin(model) for model in config.judge),
        "judge_fallback": config.judge_fallback and pin(config.judge_fallback),
        "meta": config.meta and full_name(config.meta),
    }
    given = {
        name: path for name in ("policy", "data", "rubric") if (path := getattr(config, name)) != SANDBOX
    }
    paths = {
        name: type(path)(Path(path).absolute())
        for name, path in given.items()
        if path and Path(path).exists()
    }
    if (Path(config.task) / "task.yaml").exists():
        paths["task"] = str(Path(config.task).absolute())
    return config.model_copy(update={**names, **paths, "cache_dir": config.cache_dir.absolute()})


def text_of(message: Any) -> str:
    """The text of a prompt or completion: as it is, or of the last message of a conversation."""
    return message if isinstance(message, str) else str(message[-1]["content"])


def _no_prompts(record: logging.LogRecord) -> bool:
    # accelerate puts the process's number before the text.
    return "All reward functions returned None" not in str(record.msg)
