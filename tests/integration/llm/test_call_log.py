"""``--log-calls`` keeps whole requests and replies without keys, and debug output never shows one."""

import stat
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.cli.main import main
from mpo_lite.errors import ConfigError
from mpo_lite.jsonl import read_rows
from mpo_lite.llm import event_loop
from mpo_lite.llm.budget import Budget
from mpo_lite.llm.cache import AnswerCache
from mpo_lite.llm.call_log import CallLog
from mpo_lite.llm.client import Client
from mpo_lite.llm.ledger import Ledger
from tests.support.llm_calls import call, error, faults
from tests.support.llm_server import LLMServer
from tests.support.logged import SECRET, scored


def test_each_attempt_is_kept_whole_and_without_its_key(tmp_path: Path, quick_retries: None) -> None:
    log, ledger, path = CallLog(), Ledger(), tmp_path / "log.jsonl"

    async def made() -> Client:
        return Client(AnswerCache(tmp_path / "cache"), ledger, Budget(ledger), log=log)

    client = event_loop.wait(made())
    with LLMServer(faults(error(500, f"the key {SECRET} is at fault"))) as server:
        event_loop.wait(client.ask(call(server, text="a whole prompt", api_key=SECRET)))
        log.open(path)  # what came before is kept too
        event_loop.wait(client.ask(call(server, text="another", api_key=SECRET)))
    event_loop.wait(client.close())
    client.cache.close()
    failed, first, second = read_rows(path)
    assert (failed["outcome"], failed["status"], first["status"]) == ("failed", 500, 200)
    assert "the key … is at fault" in failed["reply"] and '"choices"' in first["reply"]
    assert first["request"]["messages"] == [{"role": "user", "content": "a whole prompt"}]
    assert first["request"]["max_tokens"] and "json_schema" in str(first["request"]["response_format"])
    assert (second["model"], second["address"], second["purpose"]) == ("openai/m", server.url, "judge")
    assert SECRET not in path.read_text() and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_log_is_gone_on_with_and_nothing_else_is_written_to(tmp_path: Path) -> None:
    path, other = tmp_path / "log.jsonl", tmp_path / "prompts.jsonl"
    other.write_text('{"prompt": "mine"}\n')
    for number in range(2):
        log = CallLog()
        log.open(path)
        log.record({"request": {}, "number": number})
    assert [row["number"] for row in read_rows(path)] == [0, 1]
    with pytest.raises(ConfigError, match=r"prompts\.jsonl: exists and is not a call log; choose a new file"):
        CallLog().open(other)
    assert other.read_text() == '{"prompt": "mine"}\n'


@pytest.mark.parametrize("flags", [[], ["--log-calls", "nowhere/log.jsonl"]])
def test_it_is_off_by_default_and_checked_before_a_call(
    tmp_path: Path, flags: list[str], capsys: Any
) -> None:
    with LLMServer() as server:
        if flags:
            with pytest.raises(SystemExit) as stopped:
                main(scored(server, tmp_path, *flags))
            assert stopped.value.code == 2 and not server.requests
            assert "nowhere/log.jsonl: cannot be written (No such file" in capsys.readouterr().err
        else:
            main(scored(server, tmp_path))
            assert sorted(path.name for path in tmp_path.iterdir()) == [
                "answers.jsonl",
                "cache",
                "scored.jsonl",
            ]


def test_score_keeps_its_calls(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "log.jsonl"
    with LLMServer() as server:
        main(scored(server, tmp_path, "--log-calls", str(path)))
        assert len(read_rows(path)) == len(server.requests) == 4
