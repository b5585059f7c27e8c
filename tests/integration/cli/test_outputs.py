"""Nothing of the user's is lost: outputs replace nothing, and are checked before anything is paid."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.checkpoints import complete_checkpoint
from mpo_lite.cli.main import main
from mpo_lite.cli.outputs import UNFINISHED, new_file, new_folder
from mpo_lite.config import Config
from mpo_lite.errors import ConfigError
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.data import policy_dir
from tests.support.llm_server import LLMServer
from tests.support.made_run import ENVIRONMENT

WRITERS = ("score", "score --no-judge", "refine", "compare", "eval")


def answers(path: Path, count: int = 8) -> Path:
    rows = ({"prompt": f"question {n}", "response": f"answer {n} of {path.stem}"} for n in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def writing(name: str, folder: Path, server: LLMServer, out: Path) -> list[str]:
    """A command that reads ``in.jsonl`` and writes ``out``; of ``compare`` its folder's ``matches.jsonl``."""
    data = answers(folder / "in.jsonl") if not (folder / "in.jsonl").exists() else folder / "in.jsonl"
    models = ["--judge", "openai/m", "--judge-api-base", server.url, "--cache-dir", str(folder / "cache")]
    meta = ["--meta", "openai/m", "--meta-api-base", server.url]
    if name == "compare":
        return ["compare", str(data), str(answers(folder / "other.jsonl")), *models, "--out", str(out.parent)]
    if name == "eval":
        return ["eval", str(policy_dir()), "--task", "sandbox", "--n", "2", "--out", str(out)]
    if name == "score --no-judge":
        return ["score", "--no-judge", str(data), "--out", str(out)]
    return [name, str(data), "--out", str(out), *models, *(meta if name == "refine" else [])]


def stopped(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and the last line of a command that fails."""
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return int(str(left.value.code)), err.splitlines()[-1]


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is loaded fails the test."""

    def load(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was loaded")

    for module in ("eval", "compare"):
        monkeypatch.setattr(f"mpo_lite.cli.{module}.generate_answers", load)


def there_already(out: Path) -> Path:
    out.parent.mkdir(exist_ok=True)
    out.write_text("mine\n")
    return out


def a_folder(out: Path) -> Path:
    out.mkdir(parents=True)
    return out


def below_a_file(out: Path) -> Path:
    out.parent.write_text("mine\n")
    return out


def far_below_a_file(out: Path) -> Path:
    out.parent.write_text("mine\n")
    return out.parent / "a" / "b" / out.name


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (there_already, "already exists; choose another file, or use --overwrite"),
        (a_folder, "is a directory; give a file"),
        (below_a_file, "is a file; give a directory"),
        (far_below_a_file, "cannot be written (Not a directory); choose another f"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_paid(
    name: str, spoil: Callable[[Path], Path], said: str, tmp_path: Path, capsys: Any
) -> None:
    out = spoil(tmp_path / "results" / "matches.jsonl")
    if name == "compare" and out.parent.name == "b":
        out = out.parent / "matches.jsonl"
    with LLMServer() as server:
        code, line = stopped(capsys, *writing(name, tmp_path, server, out))
        assert (code, said in line) == (2, True), line
        assert server.requests == []
    mine = tmp_path / "results" if (tmp_path / "results").is_file() else out
    assert not mine.is_file() or mine.read_text() == "mine\n"
    assert not list(tmp_path.rglob(".new-*"))


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
@pytest.mark.parametrize("way", ["itself", "relative", "link", "hard link"])
@pytest.mark.parametrize("name", ["score", "refine"])
def test_what_is_read_is_never_written(
    name: str, way: str, overwrite: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    data = answers(tmp_path / "in.jsonl")
    before = data.read_bytes()
    out = {"itself": data, "relative": Path("cache/../in.jsonl")}.get(way, tmp_path / "out.jsonl")
    (tmp_path / "cache").mkdir()
    if way == "link":
        out.symlink_to(data)
    elif way == "hard link":
        out.hardlink_to(data)
    with LLMServer() as server:
        code, line = stopped(capsys, *writing(name, tmp_path, server, out), *overwrite)
        assert (code, server.requests) == (2, [])
    assert line.endswith("is an input of this command; choose another output file")
    assert data.read_bytes() == before


def test_a_rubric_that_is_refined_is_not_written_over(tmp_path: Path, capsys: Any) -> None:
    rubric = tmp_path / "rubric.yaml"
    main(["init", str(tmp_path / "task")])
    rubric.write_bytes((tmp_path / "task" / "rubric.yaml").read_bytes())
    before = rubric.read_bytes()
    with LLMServer() as server:
        flags = ["--rubric", str(rubric), "--overwrite"]
        code, line = stopped(capsys, *writing("refine", tmp_path, server, rubric), *flags)
    assert code == 2 and "is an input of this command" in line and rubric.read_bytes() == before


@pytest.mark.parametrize("name", ["score", "score --no-judge", "compare", "eval"])
def test_a_missing_folder_is_made_and_a_file_replaced_where_that_is_asked_for(
    name: str, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "new" / "below" / "matches.jsonl"
    tie = json.dumps({"reason": "r", "winner": "tie"})
    with LLMServer(lambda kind, body: tie if kind == "match" else None) as server:
        command = writing(name, tmp_path, server, out)
        main(command)
        first = out.read_text()
        assert stopped(capsys, *command)[0] == 2
        main([*command, "--overwrite"])
    assert first and out.read_text() == first
    assert [path.name for path in out.parent.glob(".*")] == []


@pytest.mark.parametrize("name", ["score", "eval"])
def test_a_file_of_another_kind_is_refused(name: str, tmp_path: Path, capsys: Any) -> None:
    with LLMServer() as server:
        code, line = stopped(capsys, *writing(name, tmp_path, server, tmp_path / "o.csv"))
        assert (code, server.requests) == (2, [])
    assert line.endswith("o.csv: must end in .jsonl")


def test_an_error_within_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(KeyboardInterrupt), new_file(path, overwrite=True) as fresh:
        fresh.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "mine" and list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link_to_what_is_written(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    link.symlink_to(real)
    with new_file(link, overwrite=True) as fresh:
        fresh.write_text("new")
    assert link.is_symlink() and real.read_text() == "new"


def test_devices_are_no_files_to_write(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="is not a regular file"),
        new_file(Path("/dev/null"), overwrite=True),
    ):
        pass
    assert not Path("/dev/null").is_file()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_may_not_be_written_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    path.chmod(0o400)
    with pytest.raises(ConfigError, match="is write-protected"), new_file(path, overwrite=True):
        pass
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ConfigError, match="Permission denied"), new_file(tmp_path / "other"):
            pass
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_is_whole_or_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "below" / "folder"
    with pytest.raises(KeyboardInterrupt), new_folder(folder) as fresh:
        (fresh / "half").write_text("half")
        raise KeyboardInterrupt
    assert not folder.exists()
    (folder / UNFINISHED).mkdir(parents=True)
    (folder / UNFINISHED / "half").write_text("half")  # what a kill leaves
    with new_folder(folder) as fresh:
        (fresh / "whole").write_text("whole")
        (fresh / "inner").mkdir()
    assert sorted(path.name for path in folder.iterdir()) == ["inner", "whole"]
    with pytest.raises(ConfigError, match="is not empty"), new_folder(folder):
        pass
    with pytest.raises(ConfigError, match="is a file"), new_folder(folder / "whole"):
        pass


def test_init_fills_the_folder_one_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["init", "."])
    assert {"task.yaml", "experiment.yaml"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("file/below", "file: cannot be written (Not a directory)"),
        ("file", "is a file"),
        ("full", "is not empty"),
    ],
)
def test_export_and_init_refuse_a_place_before_they_load_anything(
    place: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "own").write_text("mine")
    run = RunDir.create(tmp_path / "run", Config(policy="some/model"), ENVIRONMENT)
    (run.checkpoints / "checkpoint-1").mkdir()
    complete_checkpoint(run, run.checkpoints / "checkpoint-1", {"batch": 1, "version": 0})
    monkeypatch.setattr("mpo_lite.cli.export._write_model", lambda *_: pytest.fail("a model was loaded"))
    for command in (["export", str(run.path), "--merge"], ["init"]):
        code, line = stopped(capsys, *command, str(tmp_path / place))
        assert code == 2 and said.split(": ")[-1] in line and place in line
    assert (tmp_path / "file").read_text() == (tmp_path / "full" / "own").read_text() == "mine"


def test_a_port_in_use_is_told(capsys: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, line = stopped(capsys, "sandbox", "serve", "--port", port)
    assert code == 2 and f"cannot listen on 127.0.0.1:{port}" in line and "choose another --port" in line


def test_saying_no_changes_nothing_and_speaks_of_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with LLMServer() as server:
        main(writing("score", tmp_path, server, tmp_path / "out.jsonl"))
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda text: "n")
    code, line = stopped(capsys, "cache", "clear", "--cache-dir", str(tmp_path / "cache"))
    assert (code, line) == (1, "mpo-lite: cancelled, nothing was changed")
