"""What models, servers and files say is shown on the terminal, and cannot act on it."""

from pathlib import Path
from typing import Any

import pytest

from mpo_lite.cli.main import main
from tests.support.hostile import ACTS, HOSTILE, assert_harmless
from tests.support.made_run import made_run


def test_a_runs_rubrics_and_names_are_shown_as_text(tmp_path: Path, capsys: Any) -> None:
    run = made_run(tmp_path / "runs" / "[bold]fat [x", said=HOSTILE)
    main(["runs", str(tmp_path / "runs")])
    assert "[bold]fat[x" in "".join(capsys.readouterr().out.split())
    for command in (["list"], ["show", "0"], ["diff"]):
        main(["rubric", command[0], str(run.path), *command[1:]])
        assert not ACTS.search(capsys.readouterr().out)


def test_an_error_shows_names_as_text(tmp_path: Path, capsys: Any) -> None:
    out = ["--no-judge", "--out", str(tmp_path / "o.jsonl")]
    for arguments in (["score", f"{HOSTILE}.jsonl", *out], ["train", HOSTILE]):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert_harmless(capsys.readouterr().err)
    with pytest.raises(SystemExit, match="2"):
        main(["score", f"--{HOSTILE}"])
    assert not ACTS.search(capsys.readouterr().err)
