"""``mpo-lite cache``."""

import json
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.cli.main import main


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A cache with two old answers and a new one."""
    import time

    from mpo_lite.llm.cache import AnswerCache

    store = AnswerCache(tmp_path / "cache")
    for number, (model, days) in enumerate([("a/old", 100), ("a/old", 50), ("b/new", 0)]):
        store.put(f"k{number}", {"text": "{}", "model": model, "time": time.time() - days * 86_400})
    store.close()
    return tmp_path / "cache"


def cache(capsys: pytest.CaptureFixture[str], kept: Path, *arguments: str) -> dict[str, Any]:
    main(["cache", *arguments, "--cache-dir", str(kept), "--json"])
    return json.loads(capsys.readouterr().out)


def test_cache_stats_prune_and_clear(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stats = cache(capsys, kept, "stats")
    assert (stats["answers"], stats["models"]) == (3, {"a/old": 2, "b/new": 1})
    assert stats["oldest_days"] == pytest.approx(100, abs=0.1) and stats["bytes"] > 0
    assert cache(capsys, kept, "prune", "--older-than", "60") == {"removed": 1}
    assert cache(capsys, kept, "prune", "--model", "a/old", "--older-than", "60") == {"removed": 0}
    assert cache(capsys, kept, "prune", "--model", "a/old") == {"removed": 1}
    key = (kept / "nonce.key").read_bytes()
    assert cache(capsys, kept, "clear", "--yes") == {"removed": 1}
    assert cache(capsys, kept, "stats")["answers"] == 0
    assert (kept / "nonce.key").read_bytes() == key


def test_a_cache_in_use_is_one_line(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    from mpo_lite.errors import ConfigError
    from mpo_lite.llm import cache as module

    monkeypatch.setattr(module, "LOCK_S", 0.1)
    other = sqlite3.connect(kept / "answers" / "cache.db", isolation_level=None)
    store = module.AnswerCache(kept)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(ConfigError, match="is a run using it"):
        store.clear()
    other.close()
    store.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cache", "prune"], "--older-than"),
        (["cache", "stats", "--cache-dir", "nowhere"], "no cache here"),
    ],
)
def test_cache_says_what_is_wrong(
    arguments: list[str],
    message: str,
    kept: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(kept)
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err
    assert not (kept / "nowhere").exists()
