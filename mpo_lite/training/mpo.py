"""The library's front: one object that gives a TRL trainer its reward, its callback and its data."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

from mpo_lite.errors import ConfigError
from mpo_lite.judge.base import Sample
from mpo_lite.loop.begin import open_session
from mpo_lite.loop.distributed import all_gather, is_main, rank, world_size
from mpo_lite.loop.judging import judge_samples
from mpo_lite.loop.prefetch import Prefetcher
from mpo_lite.loop.reward import Reward, drop_thin_groups, groups, has_spread, score_batch
from mpo_lite.loop.session import Session
from mpo_lite.loop.training_reward import training_rewards
from mpo_lite.options import Options
from mpo_lite.run_dir import RunDir
from mpo_lite.sanitize import pluralize, strip_thinking
from mpo_lite.tasks.data import training_order
from mpo_lite.training.callback import MPOCallback
from mpo_lite.types import Completion, Verdict

if TYPE_CHECKING:
    from datasets import Dataset

_TRACKED = (
    "rubric_version", "reward", "gold", "spread", "disagreement", "alarms", "judge_failures", "refusals",
    "judge_seconds", "judge_calls", "usd",
)  # fmt: skip
"""Figures that trackers are given with a batch, in addition to TRL's own: gold as last measured, calls and
USD so far."""
ExtraReward = Callable[..., Sequence[Reward]]


class MPO:
    """Meta Policy Optimization for a TRL trainer.

    ```python
    with MPO(judge="gpt-4o", meta="claude", task="essay", steps=200) as mpo:
        args = GRPOConfig("out", num_generations=8, gradient_accumulation_steps=8, max_steps=200,
                          shuffle_dataset=False)
        trainer = GRPOTrainer(model, mpo.reward, args, train_dataset=mpo.dataset("train"),
                              callbacks=[mpo.callback])
        trainer.train()
    ```

    A trainer without ``mpo.callback``, with a second reward function, with other batches than the run plans
    or with shuffled prompts is refused before a judgement is paid.

    Args:
        extra: Further reward functions in TRL's form, added to the judge's reward. Given here and not to the
            trainer, because next to a second function a judge's None would count as 0. Their None takes the
            row's reward away, and a group with fewer than max(2, ⌈G/2⌉) rewards left has none.
        session: A prepared session instead of ``options``; it has its run directory already.
        options: Any field of ``mpo_lite.config.Config``; what is left out comes from ``MPO_*`` variables,
            ``.env`` and defaults. A ``run_dir`` that holds such a run is continued, by
            ``trainer.train(resume_from_checkpoint=True)``; where this process has it open, as when a cell of
            a notebook is run again, the ``MPO`` before is closed.

    Attributes:
        callback: For the trainer's ``callbacks``.
        baseline: What rewards are compared within; a batch without spread there makes no step.
        early: Told of completions as they end, by a trainer that can (``mpo_lite.GRPO`` and its like).
        run: The run directory everything is written to.

    Raises:
        UsageError: Configuration, task, data, rubric or an endpoint cannot work; nothing was trained.
    """

    def __init__(
        self, extra: Sequence[ExtraReward] = (), session: Session | None = None, **options: Unpack[Options]
    ) -> None:
        resumes = False
        if session is None:
            session, resumes = open_session({**options})
            weakref.finalize(self, session.close, wait=False).atexit = False  # open_session sees to that
        self.session = session
        self.callback = MPOCallback(session, must_resume=resumes)
        self.prefetcher = Prefetcher(session)
        self.baseline: Literal["group", "batch"] = "group"
        self._extra = tuple(extra)
        # TRL warns about rows without a reward by printing them whole: prompts do not belong in logs.
        for name in ("grpo", "rloo"):
            logging.getLogger(f"trl.trainer.{name}_trainer").addFilter(_no_prompts)

    @property
    def run(self) -> RunDir:
        """The run directory."""
        return self.session.run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Keeps the answers still in flight, closes connections and cache, and frees the run directory."""
        self.session.close()

    def judge(self, prompts: Sequence[Any], answers: Sequence[Any]) -> list[Verdict]:
        """Judges answers by the current rubric, outside of training.

        No batch is counted, nothing is journalled and no group is needed; calls are counted and capped as in
        training.

        Args:
            prompts: N task prompts, texts or conversations.
            answers: N answers, one to each, in the same form.

        Returns:
            N verdicts: the reward with the level and reason of each criterion, or why there is none.

        Raises:
            ConfigError: There are not as many answers as prompts.
            StopRun: A cap is reached, or the judge rejects calls permanently.
        """
        self._require_open()
        if len(prompts) != len(answers):
            raise ConfigError(
                f"mpo.judge: {pluralize(len(prompts), 'prompt')} and {pluralize(len(answers), 'answer')}; "
                "give two lists of the same length"
            )
        samples = [
            self.session.context.sample(text_of(prompt), strip_thinking(text_of(answer)))
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        return judge_samples(self.session, samples)

    def reward(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[Reward]:
        """TRL's reward function.

        Args:
            prompts: B prompts as TRL gives them, texts or conversations.
            completions: B completions, in the same form.
            columns: The data set's columns and what else TRL passes; ``task_prompt`` is what the judge is
                shown as the task, ``split`` other than ``train`` marks rows that must not train.

        Returns:
            B rewards; None where there is none.

        Raises:
            ConfigError: The trainer was not set up for it, or the completions are no groups.
            StopRun: The run has to stop; see ``mpo_lite.loop.reward.score_batch``.
        """
        self._require_open()
        if "trainer_state" in columns:
            self._check_trainer(columns.get("log_metric"))
        session, group_size = self.session, self.session.config.group_size
        tasks = columns.get("task_prompt") or [text_of(prompt) for prompt in prompts]
        answers = self.answers(completions, columns.get("completion_ids"))
        samples = [session.context.sample(task, *one) for task, one in zip(tasks, answers, strict=True)]
        train, first = columns.get("split", ["train"])[0] == "train", rank() * len(samples)
        if train:
            _check_groups(tasks, group_size)
            rollouts = score_batch(session, samples, group_size, self.prefetcher.take_pending())
            if is_main():
                session.add_metrics(alarms=self.callback.scheduler.add_batch(rollouts))
            whole = training_rewards(session, rollouts, self._scale)
            rewards = whole[first : first + len(samples)]
            rewards = self._less_for_the_cut(rewards, samples)
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
            whole = [reward for share in all_gather(rewards) for reward in share]
            # Again, since a further reward of None takes the judge's away.
            whole = drop_thin_groups(whole, group_size)
            rewards = whole[first : first + len(samples)]
            size = len(whole) if self.baseline == "batch" else group_size
            session.skip_update(not has_spread(whole, size))
        return rewards

    @property
    def _scale(self) -> float:
        """Factor on rewards: that of the rubric version, unless the trainer divides by their spread."""
        divides = self.baseline == "group" and self.callback.divides_by_spread
        return 1.0 if divides else self.session.state.version.scale

    def _require_open(self) -> None:
        if self.session.state.closed:
            raise ConfigError(
                f"{self.run.path}: this MPO is closed; to continue its run, make a new one with that run_dir"
            )

    def _check_trainer(self, log_metric: Any) -> None:
        """Refuses a trainer that lacks our callback, or that has further reward functions."""
        if not self.callback.has_trainer:
            raise ConfigError(
                "the trainer has no mpo.callback, without which the rubric never evolves and nothing is "
                "recorded; make it with callbacks=[mpo.callback]"
            )
        # What TRL gives a reward function to log by is a method of the trainer.
        trainer = getattr(log_metric, "__self__", None)
        if any(function != self.reward for function in getattr(trainer, "reward_funcs", ())):
            raise ConfigError(
                "the trainer has another reward function in addition to mpo.reward, so that a failed "
                "judgement would count as 0; give it to MPO(extra=[...]) instead"
            )

    def _track(self, log_metric: Callable[[str, float], None] | None) -> None:
        """Gives the batch's figures to the trainer's log, and by it to TensorBoard and its like."""
        if log_metric is None:
            return
        row = self.session.state.metrics
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
            return [Completion(strip_thinking(text_of(one)), truncated=False) for one in completions]
        return [
            # Of several turns with tools, only the last is the answer; the tokens are those of all of them.
            Completion(strip_thinking(text_of(one)), chat.completion(each).truncated)
            if not isinstance(one, str) and len(one) > 1
            else chat.completion(each)
            for one, each in zip(completions, ids, strict=True)
        ]

    def _less_for_the_cut(self, rewards: list[Reward], samples: Sequence[Sample]) -> list[Reward]:
        """Takes the penalty off the rewards of completions that do not end with an end-of-sequence token."""
        penalty = self.session.config.missing_eos_penalty
        return [
            reward if reward is None or not sample.truncated else reward - penalty
            for reward, sample in zip(rewards, samples, strict=True)
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
        prompts = session.state.prompts.held_out
        if split == "train":
            prompts = training_order(
                session.state.prompts.train, config.steps * config.batch_prompts, config.seed
            )
        return Dataset.from_list(
            [
                {"prompt": session.task.policy_messages(prompt), "task_prompt": prompt, "split": split}
                for prompt in prompts
            ]
        )


def _check_groups(tasks: Sequence[str], group_size: int) -> None:
    """Refuses completions that are no groups; those of one prompt may be parted between processes."""
    parted = len(tasks) % group_size
    mixed = not parted and any(len(set(group)) > 1 for group in groups(tasks, group_size))
    if mixed or len(tasks) * world_size() % group_size:
        raise ConfigError(
            f"mpo.reward: {pluralize(len(tasks), 'completion')} that are not in groups of {group_size} "
            "(group_size) to one prompt each; mpo.judge(prompts, answers) judges any answers"
        )


def text_of(message: Any) -> str:
    """The text of a prompt or completion: as it is, or of the last message of a conversation."""
    return message if isinstance(message, str) else str(message[-1]["content"])


def _no_prompts(record: logging.LogRecord) -> bool:
    # accelerate puts the process's number before the text.
    return "All reward functions returned None" not in str(record.msg)
