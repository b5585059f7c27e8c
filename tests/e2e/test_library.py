"""``MPO`` in a script or notebook of one's own: as safe as the command, and of use without a trainer."""

import asyncio
import gc
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mpo_lite
from mpo_lite import MPO, errors
from mpo_lite.errors import BudgetReached, ConfigError, MPOError, UsageError
from mpo_lite.jsonl import read_rows
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.data import policy_dir
from tests.support.llm_server import LLMServer, completion_of

pytestmark = pytest.mark.usefixtures("quick_retries")

MakeMPO = Callable[..., MPO]


@pytest.fixture
def server() -> Iterator[LLMServer]:
    def fault(kind: str, body: Any) -> str | None:
        return "no JSON" if kind == "repair" or "FAILS" in completion_of(body) else None

    with LLMServer(fault) as running:
        yield running


@pytest.fixture
def make_mpo(server: LLMServer, tmp_path: Path) -> Iterator[MakeMPO]:
    """Makes an MPO whose judge is the server, in a run directory of the test's own."""
    made: list[MPO] = []

    def make(extra: Any = (), **options: Any) -> MPO:
        given = {
            "judge": "openai/j", "judge_api_base": server.url, "baseline": "iter0", "task": "sandbox",
            "policy": str(policy_dir()), "run_dir": tmp_path / "run", "cache_dir": tmp_path / "cache",
            "steps": 2, "batch_prompts": 2, "group_size": 4, "max_new_tokens": 8,
        }  # fmt: skip
        made.append(MPO(extra, **given | options))
        return made[-1]

    yield make
    for mpo in made:
        mpo.close()


def grpo(mpo: MPO, folder: Path, rewards: Any = None, callbacks: Any = None, **arguments: Any) -> Any:
    """TRL's own trainer, set up as the documentation says but for what is given."""
    from trl import GRPOConfig, GRPOTrainer

    given = {
        "num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 8, "max_steps": 2,
        "shuffle_dataset": False, "bf16": False, "use_cpu": True, "report_to": [],
    }  # fmt: skip
    return GRPOTrainer(
        str(policy_dir()),
        rewards or mpo.reward,
        GRPOConfig(str(folder), **given | arguments),
        train_dataset=mpo.dataset("train"),
        callbacks=[mpo.callback] if callbacks is None else callbacks,
    )


def judged(server: LLMServer) -> int:
    return len(server.prompts("judge"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_generations": 2}, r"8 completions in groups of 2, but .* 2 x 4; set batch_prompts to 4 and"),
        ({"gradient_accumulation_steps": 2}, r"16 completions in groups of 4.*generation batches of 8"),
        ({"shuffle_dataset": True}, "set shuffle_dataset=False"),
        ({"steps_per_generation": 1, "gradient_accumulation_steps": 2}, "must be a multiple of"),
    ],
)
def test_a_trainer_of_other_batches_is_refused_as_it_is_made(
    make_mpo: MakeMPO, server: LLMServer, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        grpo(make_mpo(), tmp_path / "out", **arguments)
    assert judged(server) == 0


def test_a_trainer_that_is_given_the_callback_later_is_refused_as_it_begins(
    make_mpo: MakeMPO, server: LLMServer, tmp_path: Path
) -> None:
    mpo = make_mpo()
    trainer = grpo(mpo, tmp_path / "out", callbacks=[], shuffle_dataset=True)
    trainer.add_callback(mpo.callback)
    with pytest.raises(ConfigError, match="set shuffle_dataset=False"):
        trainer.train()
    assert judged(server) == 0


def test_a_trainer_that_would_train_for_longer_than_planned_is_refused(
    make_mpo: MakeMPO, server: LLMServer, tmp_path: Path
) -> None:
    trainer = grpo(make_mpo(), tmp_path / "out", max_steps=-1)  # TRL's default of three epochs
    with pytest.raises(ConfigError, match=r"for 6 batches, but .* steps=2; set max_steps=2 .* or steps=6"):
        trainer.train()
    assert judged(server) == 0


def test_a_trainer_without_the_callback_is_refused_before_the_first_judgement(
    make_mpo: MakeMPO, server: LLMServer, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"has no mpo\.callback.*callbacks=\[mpo\.callback\]"):
        grpo(make_mpo(), tmp_path / "out", callbacks=[]).train()
    other = make_mpo(run_dir=tmp_path / "other")
    with pytest.raises(ConfigError, match=r"has no mpo\.callback"):
        grpo(make_mpo(), tmp_path / "out", callbacks=[other.callback]).train()
    assert judged(server) == 0


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_a_second_reward_function_is_refused_before_the_first_judgement(
    algorithm: str, make_mpo: MakeMPO, server: LLMServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trl

    if algorithm == "rloo":
        monkeypatch.setattr(trl, "GRPOTrainer", trl.RLOOTrainer)
        monkeypatch.setattr(trl, "GRPOConfig", trl.RLOOConfig)

    def reward(completions: list[Any], **columns: Any) -> list[float]:
        return [0.0] * len(completions)

    mpo = make_mpo()
    with pytest.raises(ConfigError, match=r"another reward function .*MPO\(extra=\[\.\.\.\]\)"):
        grpo(mpo, tmp_path / "out", rewards=[reward, mpo.reward]).train()
    assert judged(server) == 0


def test_a_trainer_that_is_set_up_right_trains_and_says_when_it_is_done(
    make_mpo: MakeMPO, server: LLMServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mpo = make_mpo()
    grpo(mpo, tmp_path / "out").train()
    assert len(read_rows(mpo.run.metrics)) == 2 and judged(server) > 0
    again = make_mpo()  # as the same cell of a notebook would
    with pytest.raises(ConfigError, match="this run is finished; to train it further, raise steps"):
        grpo(again, tmp_path / "out").train()
    grpo(again, tmp_path / "out").train(resume_from_checkpoint=True)
    assert "all 2 batches are done; nothing is left to train" in caplog.text
    longer = make_mpo(steps=3)
    with pytest.raises(ConfigError, match="has batches already; continue with"):
        grpo(longer, tmp_path / "out", max_steps=3).train()
    grpo(longer, tmp_path / "out", max_steps=3).train(resume_from_checkpoint=True)
    assert [row["batch"] for row in read_rows(longer.run.metrics)] == [1, 2, 3]


def test_any_answers_are_judged_outside_of_training(make_mpo: MakeMPO, server: LLMServer) -> None:
    mpo = make_mpo()
    verdicts = mpo.judge(["write about dogs"] * 4 + ["cats"], ["dogs are good", "", "FAILS", "so", "so"])
    assert [verdict.source for verdict in verdicts] == ["judge", "rule", "judge", "judge", "judge"]
    assert [verdict.reward is None for verdict in verdicts] == [False, False, True, False, False]
    assert verdicts[1].reward == 0.0
    assert verdicts[2].failure == "parse" and "no JSON" in verdicts[2].detail
    criteria = {one.id: len(one.levels) for one in mpo.session.state.version.rubric.criteria}
    assert set(verdicts[0].assessments) == set(criteria)
    assert all(0 <= one.level < criteria[name] for name, one in verdicts[0].assessments.items())
    chat = mpo.judge([[{"role": "user", "content": "write about dogs"}]], [[{"content": "dogs are good"}]])
    assert chat == verdicts[:1]
    # No batch: the journal is empty and the count stays; the calls are on the books.
    assert (read_rows(mpo.run.rollouts), read_rows(mpo.run.metrics), mpo.session.state.batch) == ([], [], 0)
    assert len(read_rows(mpo.run.ledger())) == len(server.requests)
    assert mpo.judge([], []) == []
    with pytest.raises(ConfigError, match=r"2 prompts and 1 answer; give two lists of the same length"):
        mpo.judge(["a", "b"], ["one"])


@pytest.mark.parametrize("mode", ["groupwise", "planned"])
def test_answers_are_judged_in_every_mode_of_judging(make_mpo: MakeMPO, mode: str) -> None:
    verdicts = make_mpo(judge_mode=mode).judge(["a"] * 5 + ["b"], [f"answer {n}" for n in range(6)])
    assert None not in [verdict.reward for verdict in verdicts]


def test_caps_hold_for_answers_outside_of_training(make_mpo: MakeMPO) -> None:
    mpo = make_mpo(max_calls=5)
    with pytest.raises(BudgetReached, match="--max-calls 5"):
        mpo.judge(["p"] * 9, [f"answer {n}" for n in range(9)])
    assert len(read_rows(mpo.run.ledger())) <= 5


def test_rewards_are_for_groups_and_judge_is_for_the_rest(make_mpo: MakeMPO, server: LLMServer) -> None:
    mpo = make_mpo()
    wrong = [(["p"] * 3, 3), (["p"] * 2 + ["q"] * 2, 4), (["p", "q"] * 4, 8), (["p"], 1)]
    for prompts, count in wrong:
        told = f"{count} completions? that .* in groups of 4 .*mpo.judge"
        with pytest.raises(ConfigError, match=told):
            mpo.reward(prompts, [f"answer {n}" for n in range(count)])
    assert judged(server) == 0 and mpo.session.state.batch == 0
    rewards = mpo.reward(["p"] * 4 + ["q"] * 4, [f"answer {n}" for n in range(8)])
    assert None not in rewards and mpo.session.state.batch == 1


def test_a_group_that_a_further_reward_leaves_too_few_rewards_has_none(make_mpo: MakeMPO) -> None:
    """Two of four must be left: a mean over one would be no baseline."""

    def bonus(completions: list[str], **columns: Any) -> list[float | None]:
        return [None if "skip" in text else 0.5 for text in completions]

    answers = ["skip 0", "skip 1", "skip 2", "one", "skip 4", "two", "three", "skip 7"]
    rewards = make_mpo([bonus]).reward(["p"] * 4 + ["q"] * 4, answers)
    assert [reward is None for reward in rewards] == [True] * 5 + [False, False, True]
    assert all(reward >= 0.5 for reward in rewards if reward is not None)


def test_all_of_it_works_within_a_running_loop(make_mpo: MakeMPO) -> None:
    async def cell() -> list[float | None]:
        with make_mpo() as mpo:
            assert None not in mpo.reward(["p"] * 4, [f"answer {n}" for n in range(4)])
            return [verdict.reward for verdict in mpo.judge(["p"], ["an answer"])]

    assert None not in asyncio.run(cell())


def test_a_cell_that_is_run_again_takes_the_run_over(make_mpo: MakeMPO, tmp_path: Path) -> None:
    first = make_mpo()
    first.judge(["p"], ["an answer"])
    again = make_mpo()
    assert again.judge(["p"], ["an answer"])[0].reward is not None
    for use in (lambda: first.judge(["p"], ["a"]), lambda: first.reward(["p"] * 4, ["a"] * 4)):
        with pytest.raises(ConfigError, match=r"this MPO is closed; .* make a new one"):
            use()
    first.close()  # once more is no harm, and takes nothing from who has the run now
    assert RunDir(tmp_path / "run").locked()


def test_a_closed_or_forgotten_run_is_free(make_mpo: MakeMPO, server: LLMServer, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    with make_mpo() as mpo:
        assert run.locked()
    assert not run.locked()
    options = {"judge": "openai/j", "judge_api_base": server.url, "baseline": "iter0", "task": "sandbox",
               "run_dir": run.path, "cache_dir": tmp_path / "cache"}  # fmt: skip
    mpo = MPO(**options)
    mpo.judge(["p"], ["an answer"])
    assert run.locked()
    del mpo
    gc.collect()
    assert not run.locked()
    with pytest.raises(ConfigError, match=r"MPO\(judge_mode=…\): must be"):
        MPO(**options, judge_mode="unknown")
    with pytest.raises(UsageError, match="cannot connect"):
        MPO(**options | {"judge_api_base": "http://127.0.0.1:9/v1"})
    assert not run.locked()


def test_another_process_that_trains_the_run_is_waited_for(make_mpo: MakeMPO, tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from mpo_lite.run_dir import RunDir\n"
    code += "run = RunDir(Path(sys.argv[1])); run.lock(); print('locked', flush=True); time.sleep(60)"
    make_mpo().close()
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE)
    try:
        assert other.stdout and other.stdout.readline() == b"locked\n"
        with pytest.raises(ConfigError, match="another process is training this run"):
            make_mpo()
    finally:
        other.kill()
        other.communicate()


def test_the_end_of_a_process_keeps_what_is_in_flight_and_frees_the_run(
    server: LLMServer, tmp_path: Path
) -> None:
    code = (
        "import sys; from mpo_lite import MPO; from mpo_lite.llm import event_loop\n"
        "mpo = MPO(judge='openai/j', judge_api_base=sys.argv[1], baseline='iter0', task='sandbox',\n"
        "          run_dir=sys.argv[2], cache_dir=sys.argv[3])\n"
        "session = mpo.session\n"
        "samples = [session.context.sample('p', f'answer {n}') for n in range(3)]\n"
        "event_loop.submit(session.judge.verdicts(samples, session.state.version.rubric))\n"
        "import time; time.sleep(1)\n"
    )
    server.delay = 2.0
    places = [server.url, str(tmp_path / "run"), str(tmp_path / "cache")]
    done = subprocess.run(
        [sys.executable, "-c", code, *places], capture_output=True, text=True, env=dict(os.environ)
    )
    assert (done.returncode, done.stderr) == (0, "")
    calls = read_rows(tmp_path / "run" / "calls.jsonl")
    assert sum(call["purpose"] == "judge" for call in calls) == 3
    assert not RunDir(tmp_path / "run").locked()


def test_notes_and_alarms_reach_the_log_without_answers(
    make_mpo: MakeMPO, caplog: pytest.LogCaptureFixture
) -> None:
    mpo = make_mpo()
    mpo.session.context.note("the fallback judges from now on")
    mpo.session.context.observe("alarm", {"batch": 3, "name": "phrase_drift", "detail": "closing 'secret'"})
    assert caplog.record_tuples == [
        ("mpo_lite.loop.begin", logging.WARNING, "the fallback judges from now on"),
        ("mpo_lite.loop.begin", logging.WARNING, "alarm after batch 3: phrase_drift; see alarms.jsonl"),
    ]


def test_what_the_page_documents_is_imported_from_the_top() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/library.md").read_text(encoding="utf-8")
    documented = {name for members in re.findall(r"members: \[(.*)\]", page) for name in members.split(", ")}
    raised = {
        name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, MPOError)
    }
    assert len(documented) > 10 and documented | raised <= set(mpo_lite.__all__)
    for name in mpo_lite.__all__:
        assert getattr(mpo_lite, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        mpo_lite.nothing  # noqa: B018


def test_training_is_a_function(tmp_path: Path) -> None:
    given = dict.fromkeys(("judge", "meta", "task", "policy"), "sandbox")
    small = {"steps": 2, "batch_prompts": 4, "group_size": 4, "micro_batch": 16, "baseline": "iter0"}
    places = {"run_dir": tmp_path / "run", "cache_dir": tmp_path / "cache"}
    seen: list[str] = []
    result = mpo_lite.train(
        mpo_lite.load_config(given=given | small | places, environ={}), lambda kind, row: seen.append(kind)
    )
    assert (result.stop, result.version, seen.count("step")) == (None, 0, 2)
    assert result.run.path == tmp_path / "run" and result.rubric == result.run.version(0).rubric
    assert result.spend["judge_calls"] > 0
