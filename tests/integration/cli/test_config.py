"""Settings on show: their schema, their values with their sources, and help in groups."""

import json
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.cli._options import GROUPS
from mpo_lite.cli.main import main
from mpo_lite.config import Config


def test_the_schema_describes_every_setting(capsys: Any) -> None:
    main(["config", "schema"])
    schema = json.loads(capsys.readouterr().out)
    assert set(schema["properties"]) == set(Config.model_fields)
    assert all(schema["properties"][name].get("description") for name in Config.model_fields)
    assert schema["additionalProperties"] is False


def test_each_value_is_shown_with_its_source(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text("method: paper\nsteps: 7\ngate:\n  margin: 0.1\n")
    monkeypatch.setenv("MPO_JUDGE", "gpt-4o")
    main(["config", "show", str(path), "--seed", "3", "-o", "gate.share=0.2", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["steps"] == {"value": 7, "from": f"{path}:2"}
    assert told["seed"] == {"value": 3, "from": "--seed"}
    assert told["judge"] == {"value": "gpt-4o", "from": "MPO_JUDGE"}
    assert told["beta"] == {"value": 0.004, "from": "method paper"}
    assert told["gate"]["from"] == f"{path}:4, -o gate.share" and "meta" not in told
    main(["config", "show", str(path), "--all"])
    lines = capsys.readouterr().out.splitlines()
    assert f"steps: 7  # {path}:2" in lines and "interval: 10  # default" in lines


def test_help_groups_the_settings(capsys: Any) -> None:
    main(["train", "--help"])
    text = capsys.readouterr().out
    places = [text.index(f"\n{heading}:") for heading in (*GROUPS, "Options")]
    assert places == sorted(places)
    for heading, names in GROUPS.items():
        part = text[text.index(f"\n{heading}:") :].split("\n\n")[0]
        assert all(f"--{name.replace('_', '-')}" in part for name in names), heading
