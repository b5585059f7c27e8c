"""``mpo-lite try`` with fresh answers of a real policy."""

import json
from pathlib import Path
from typing import Any

from mpo_lite.cli.main import main


def test_the_quickstarts_first_rubric_which_trains_is_not_said_to_be_unable_to(
    tmp_path: Path, capsys: Any
) -> None:
    settings = {"judge": "sandbox", "meta": "sandbox", "policy": "sandbox", "task": "sandbox"}
    flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
    assert not main(["try", *flags, "-n", "32", "--cache-dir", str(tmp_path)])
    said = capsys.readouterr().out
    assert "✗" not in said and "– known-bad answers score" in said
    assert "✓ this judge and rubric distinguish answers; the meta-judge" in said
    assert "Based on 32 answers to 8 prompts." in said


def test_fresh_answers_of_the_policy_are_judged(tmp_path: Path, capsys: Any) -> None:
    main(["try", "--judge", "sandbox", "--meta", "sandbox", "--policy", "sandbox", "--task", "sandbox",
          "--cache-dir", str(tmp_path), "--json"])  # fmt: skip
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    texts = [row["response"] for row in found["scores"]]
    assert len(texts) == 8 and len(set(texts)) > 4 and len({row["prompt"] for row in found["scores"]}) == 2
    assert found["simulated"] == ["judge", "meta-judge"]
    assert set(found["sentinel_margins"]) >= {
        "title",
        "injection",
    }
