"""How a run begins."""

from pathlib import Path

import pytest

from mpo_lite.config_sources import load_config
from mpo_lite.loop.begin import open_run


def test_the_files_that_a_run_names_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"data": "prompts.jsonl", "rubric": "rubric.yaml", "examples": "examples.jsonl"}
    for name in names.values():
        Path(name).touch()
    given = {**names, "judge": "sandbox", "meta": "sandbox", "run_dir": "run"}
    run = open_run(load_config(given=given, environ={}), "train")
    saved = load_config(run.config_file, environ={})
    assert {name: str(getattr(saved, name)) for name in names} == {
        name: str(tmp_path / file) for name, file in names.items()
    }
