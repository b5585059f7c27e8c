"""Judge, meta-judge, checks and a short training against a real vLLM: ``make test-vllm``."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from vllm_server import NO_BLANKS, make_model, serving

from mpo_lite.cli.main import main
from mpo_lite.errors import CallFailed, EndpointError
from mpo_lite.jsonl import read_rows
from mpo_lite.judge.base import Sample
from mpo_lite.judge.groupwise import GroupwiseJudge
from mpo_lite.judge.pointwise import PointwiseJudge
from mpo_lite.llm import event_loop
from mpo_lite.llm.client import Client
from mpo_lite.llm.models import Backend
from mpo_lite.meta.cases import Background
from mpo_lite.meta.cases.samples import samples
from mpo_lite.meta.meta_judge import MetaJudge
from mpo_lite.meta.meta_model import Question
from mpo_lite.rubric import Rubric
from mpo_lite.types import Brief, Rollout

MakeClient = Callable[..., Client]
SAMPLES = [Sample("Write about dogs.", f"Dogs are good, for reason {n}.") for n in range(16)]


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def vllm(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """API base of a server as the README starts it."""
    with serving(model_dir, tmp_path_factory.mktemp("log"), NO_BLANKS) as url:
        yield url


def backend(url: str, model: str = "hosted_vllm/tiny", **options: Any) -> Backend:
    # A random model writes long reasons, and at temperature 0 some without an end.
    return Backend(model, model, url, "none", **({"max_tokens": 4096, "temperature": 1.0} | options))


def test_every_verdict_is_whole_and_by_schema(make_client: MakeClient, vllm: str, rubric: Rubric) -> None:
    client = make_client(timeout_s=120, verdict_s=300)
    judge = PointwiseJudge(client, backend(vllm), Brief("You are a strict reader."))
    verdicts = event_loop.wait(judge.verdicts(SAMPLES, rubric))
    ids = [criterion.id for criterion in rubric.criteria]
    assert [list(verdict.assessments) for verdict in verdicts] == [ids] * 16
    assert all(verdict.reward is not None and 0 <= verdict.reward <= 1 for verdict in verdicts)
    assert client.ledger.calls["judge"] >= 16 and client.ledger.unmetered == 0
    assert not client._sender.capabilities(backend(vllm)).unsupported


def test_a_group_is_judged_in_one_call(make_client: MakeClient, vllm: str, rubric: Rubric) -> None:
    client = make_client(timeout_s=120, verdict_s=300)
    judge = GroupwiseJudge(
        PointwiseJudge(client, backend(vllm, max_tokens=12000), Brief("You are a strict reader.")), 4
    )
    verdicts = event_loop.wait(judge.verdicts(SAMPLES[:4], rubric))
    assert all(verdict.reward is not None for verdict in verdicts)
    assert client.ledger.calls["judge"] == 1


def test_without_a_tool_parser_tools_are_refused_and_that_is_remembered(
    make_client: MakeClient, vllm: str, rubric: Rubric
) -> None:
    client = make_client(timeout_s=120, verdict_s=300)
    capabilities = client._sender.capabilities(backend(vllm))
    capabilities.unsupported.add("json_schema")
    judge = PointwiseJudge(client, backend(vllm, max_tokens=256), Brief("You are a strict reader."))
    verdicts = event_loop.wait(judge.verdicts(SAMPLES[:2], rubric))
    assert capabilities.unsupported == {"json_schema", "tool"}
    # A random model's free JSON is no verdict.
    assert [(verdict.reward, verdict.failure) for verdict in verdicts] == [(None, "parse")] * 2


def test_a_meta_step_ends_in_a_rubric_or_a_reason(make_client: MakeClient, vllm: str, rubric: Rubric) -> None:
    client = make_client(timeout_s=120, verdict_s=300)
    judge = PointwiseJudge(client, backend(vllm), Brief("You are a strict reader."))
    verdicts = event_loop.wait(judge.verdicts(SAMPLES[:2], rubric))
    rollouts = [
        Rollout(0, row, sample.prompt, sample.completion, verdict, 0, verdict.reward)
        for row, (sample, verdict) in enumerate(zip(SAMPLES, verdicts, strict=False))
    ]
    meta = MetaJudge(client, backend(vllm, max_tokens=1024), Brief(purpose="Good essays."))
    proposal = event_loop.wait(meta.propose(Question(rubric, "batch-1"), samples(rollouts, Background())))
    assert proposal.rubric or proposal.reason
    assert client.ledger.calls["meta"] >= 2


def test_the_check_tells_a_good_address_from_a_bad_one(make_client: MakeClient, vllm: str) -> None:
    client = make_client()
    event_loop.wait(client.check(backend(vllm)))
    with pytest.raises(EndpointError, match="404"):
        event_loop.wait(client.check(backend(vllm, "hosted_vllm/other")))
    with pytest.raises(CallFailed):
        event_loop.wait(client.check(backend("http://127.0.0.1:9/v1")))


def test_a_sample_too_long_for_the_context_is_shortened(
    make_client: MakeClient, vllm: str, rubric: Rubric
) -> None:
    client = make_client(timeout_s=120, verdict_s=300)
    judge = PointwiseJudge(client, backend(vllm), Brief("You are a strict reader."))
    (verdict,) = event_loop.wait(judge.verdicts([Sample("Write.", "Dogs bark at night. " * 4000)], rubric))
    assert verdict.reward is not None
    assert client.ledger.calls["judge"] > 1


def test_a_short_training(vllm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    models = (
        f"--judge hosted_vllm/tiny --judge-api-base {vllm} --meta hosted_vllm/tiny --meta-api-base {vllm}"
    )
    settings = "-o batch_prompts=2 -o micro_batch=4 --group-size 4 --meta-samples 2"
    settings += " -o gate.prompts=4 -o gate.share=20"
    tokens = "-o meta_max_tokens=1024 -o judge_max_tokens=4096 -o judge_temperature=1"
    places = f"--policy sandbox --task sandbox --steps 2 --interval 1 --run-dir {run} --cache-dir cache"
    main(["train", *f"{models} {settings} {tokens} {places}".split()])
    rows = read_rows(run / "rollouts.jsonl")
    assert len(rows) == 16 and all(row["verdict"]["failure"] is None for row in rows)
    assert len(read_rows(run / "metrics.jsonl")) == 2
    assert len(read_rows(run / "lineage.jsonl")) == 1
    assert len(read_rows(run / "anchor.jsonl")) == 4 and read_rows(run / "trials.jsonl")


def test_white_space_without_end_is_never_a_score(
    make_client: MakeClient, model_dir: Path, tmp_path: Path, rubric: Rubric, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(model_dir, tmp_path) as url:  # without the option that the README names
        client = make_client(timeout_s=120, verdict_s=300)
        judge = PointwiseJudge(
            client, backend(url, max_tokens=256, temperature=0.0), Brief("You are a strict reader.")
        )
        with caplog.at_level(logging.WARNING):
            verdicts = event_loop.wait(judge.verdicts(SAMPLES, rubric))
    assert "disable_any_whitespace" in caplog.text
    # By the prompt alone a random model writes no JSON.
    assert [(verdict.reward, verdict.failure) for verdict in verdicts] == [(None, "parse")] * len(SAMPLES)
