"""The base install judges and refines: an environment that holds its dependencies and no torch."""

import os
import re
import subprocess
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pyarrow
import pytest
from packaging.requirements import Requirement
from pyarrow import parquet

from mpo_lite.loop.environment import EXTRAS
from tests.support.documents import code_blocks

ROOT = Path(__file__).parents[2]


def closure(name: str, extras: frozenset[str] = frozenset()) -> Iterator[metadata.Distribution]:
    """The distribution and all that it requires, each once."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(name, extras)]
    while waiting:
        name, extras = waiting.pop()
        if (name.lower(), extras) in seen:
            continue
        seen.add((name.lower(), extras))
        found = metadata.distribution(name)
        yield found
        for line in found.requires or []:
            needed = Requirement(line)
            wanted = [{"extra": extra} for extra in extras] or [{"extra": ""}]
            if needed.marker is None or any(needed.marker.evaluate(each) for each in wanted):
                waiting.append((needed.name, frozenset(needed.extras)))


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment made of the installed packages that the base install needs."""
    folder = tmp_path_factory.mktemp("base")
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for found in closure("mpo-lite"):
        tops = {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            source, target = Path(str(found.locate_file(top))), site / top
            if source.exists() and not target.exists() and not top.endswith(".pth"):
                target.symlink_to(source)
    (site / "project.pth").write_text(f"{ROOT}\n")  # an editable install has no files of its own
    return folder / "bin" / "python"


def run(python: Path, code: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}
    return subprocess.run(
        [str(python), "-c", code],
        capture_output=True,
        text=True,
        env=kept | environ,
        check=False,
        timeout=120,
    )


def test_the_environment_has_nothing_that_trains(python: Path) -> None:
    code = (
        "import importlib.util as u, mpo_lite; "
        f"print([name for name in {EXTRAS['train']!r} if u.find_spec(name)])"
    )
    done = run(python, code)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_library_page_judges_and_refines(python: Path, tmp_path: Path) -> None:
    judge, refine, *_ = code_blocks(ROOT / "docs" / "reference" / "library.md")
    for code, lines in ((judge, [" judge {", "0.0 rule {}"]), (refine, ["accepted|unchanged|refused"])):
        done = run(python, code, XDG_CACHE_HOME=str(tmp_path), HOME=str(tmp_path))
        assert done.returncode == 0, done.stderr[-2000:]
        assert all(re.search(line, done.stdout) for line in lines), done.stdout


def test_commands_that_judge_work_and_the_others_say_what_to_install(python: Path, tmp_path: Path) -> None:
    data = tmp_path / "answers.jsonl"
    data.write_text('{"prompt": "write a short essay about dogs .", "response": "dogs are useful ."}\n' * 2)
    table = tmp_path / "answers.parquet"
    parquet.write_table(pyarrow.table({"prompt": ["a"], "response": ["b"]}), table)
    sandbox = ("--judge", "sandbox", "--task", "sandbox", "--cache-dir", str(tmp_path / "cache"))
    for words, status, said in (
        (["score", str(data), *sandbox, "--out", str(tmp_path / "o.jsonl")], 0, "2 with a reward"),
        (["train", *sandbox, "--meta", "sandbox", "--policy", "sandbox"], 2, "pip install 'mpo-lite[train]'"),
        (["score", str(table), *sandbox, "--out", str(tmp_path / "p.jsonl")], 2, "this needs pyarrow"),
    ):
        code = f"from mpo_lite.cli.main import main; main({words!r})"
        done = run(python, code, HOME=str(tmp_path))
        assert done.returncode == status, done.stderr[-2000:]
        assert said in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_training_from_python_says_what_to_install(python: Path) -> None:
    done = run(python, "import mpo_lite; mpo_lite.MPO")
    assert done.stderr.splitlines()[-1] == (
        "ImportError: mpo_lite.MPO trains, and torch is not installed: pip install 'mpo-lite[train]'"
    )
