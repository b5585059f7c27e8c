"""Shared set-up. Training tests run the way the documentation says: one thread, no hub."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Callable

import pytest
from hypothesis import settings

from mpo_lite.cli.main import main
from mpo_lite.config import Config
from mpo_lite.config_sources import load_config
from mpo_lite.llm import event_loop
from mpo_lite.llm.budget import Budget
from mpo_lite.llm.cache import AnswerCache
from mpo_lite.llm.client import Client
from mpo_lite.llm.ledger import Ledger
from mpo_lite.loop.context import Observer, prepare_run
from mpo_lite.loop.session import Session
from mpo_lite.rubric import Criterion, Rubric
from mpo_lite.run_dir import RunDir
from tests.support.jobs import Train, arguments
from tests.support.llm_calls import MakeClient
from tests.support.llm_server import LLMServer

# How long one example takes says how loaded the machine is.
settings.register_profile("mpo-lite", deadline=None)
settings.load_profile("mpo-lite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks each test by the folder it is in: unit, integration or e2e."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in ("unit", "integration", "e2e"):
            item.add_marker(folder)
        else:  # published models and servers warn of what they like
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting or key of the person who runs the tests reaches them."""
    for name in list(os.environ):
        kept = name == "MPO_TEST_DATA" or name.startswith("MPO_REAL_")
        if (name.startswith("MPO_") and not kept) or name.endswith("_API_KEY"):
            monkeypatch.delenv(name)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between attempts are not what is tested."""
    monkeypatch.setattr("mpo_lite.llm.request._retry_delay", lambda state: 0.01)


@pytest.fixture
def make_client(tmp_path: Path) -> Iterator[MakeClient]:
    """Makes clients on a cache of the test's own."""
    made: list[Client] = []

    async def build(caps: dict[str, Any], limits: dict[str, Any]) -> Client:
        ledger = Ledger()
        return Client(AnswerCache(tmp_path / "cache"), ledger, Budget(ledger, **caps), **limits)

    def make(
        concurrency: int = 16,
        timeout_s: float = 10.0,
        verdict_s: float = 60.0,
        waits_out: bool = False,
        **caps: Any,
    ) -> Client:
        limits = {"concurrency": concurrency, "timeout_s": timeout_s, "verdict_s": verdict_s}
        limits["waits_out"] = waits_out
        made.append(event_loop.wait(build(caps, limits)))
        return made[-1]

    yield make
    for client in made:
        event_loop.wait(client.close())
        client.cache.close()


@pytest.fixture
def rubric() -> Rubric:
    """Two merits of different weight and a veto."""
    return Rubric(
        criteria=(
            Criterion(
                id="structure", description="Order of the parts.", levels=("none", "some", "clear"), weight=3
            ),
            Criterion(id="evidence", description="Examples given.", levels=("none", "one or more"), weight=1),
            Criterion(
                id="on_task", description="Answers the task.", levels=("failed", "passed"), kind="veto"
            ),
        )
    )


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """The real prompts where they are at hand, and some of our own where not; unknown words either way."""
    folder = os.environ.get("MPO_TEST_DATA")
    if folder:
        return Path(folder) / "essay_prompts.jsonl"
    path = tmp_path / "prompts.jsonl"
    rows = [
        {"prompt": f"Write an essay on question {n}: is honesty “always” the best policy?"}
        for n in range(200)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def train(tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]) -> Train:
    """Trains on real prompts in this process; gives the JSON that ``--json`` prints."""

    def run(*flags: str, **settings: Any) -> dict[str, Any]:
        main([*arguments(tmp_path, prompts, **settings), *flags])
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


@pytest.fixture
def open_session(tmp_path: Path) -> Iterator[Callable[..., Session]]:
    """Opens sessions on one run directory and one cache, as a resumed process would."""
    opened: list[Session] = []
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"prompt {n}"}) + "\n" for n in range(10)))

    def open_one(server: LLMServer, observe: Observer = lambda kind, row: None, **options: Any) -> Session:
        given = {"judge": "openai/m", "judge_api_base": server.url, "baseline": "iter0", "data": str(data),
                 "cache_dir": tmp_path / "cache", "breaker_pause": 0.0, "group_size": 4}  # fmt: skip
        context = prepare_run(load_config(given=given | options, environ={}), observe)
        for earlier in opened:  # their processes would be gone
            earlier.run.unlock()
        path = tmp_path / "run"
        run = RunDir(path) if path.exists() else RunDir.create(path, Config(), {})
        session = Session(context, run)
        opened.append(session)
        return session

    yield open_one
    for session in opened:
        session.close()
