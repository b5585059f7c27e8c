"""When two mathematical answers are the same."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo_lite.cli.main import main
from mpo_lite.errors import TaskError
from mpo_lite.tasks import symbolic, verify
from mpo_lite.tasks.metrics import exact_match, math_answer, rouge, token_f1, verdict_tag
from mpo_lite.tasks.spec import load_task
from mpo_lite.tasks.symbolic import NotCompared
from mpo_lite.tasks.verify import last_boxed, same_answer

SAME = [
    (r"\frac12", "0.5"),
    (r"\dfrac{3}{4}", ".75"),
    (r"\frac{1}{2}", "1/2"),
    (r"1\frac{1}{2}", "1.5"),
    ("6.0", "6"),
    (r"-\frac{1}{3}", r"\frac{-1}{3}"),
    (r"5\text{ cm}", "5"),
    (r"12\text{ cm}^2", "12"),
    (r"10\%", "10"),
    ("1,000", "1000"),
    (r"\$32{,}000", "32000"),
    (r"90^\circ", "90"),
    ("(0, 1]", "(0,1]"),
    (r"\left(\frac12, 3\right)", "(0.5,3)"),
    (r"(-\infty,0)\cup(1,2)", r"(1,2)\cup(-\infty,0)"),
    (r"\{1,2\}", r"\{2,1\}"),
    (r"\text{Evelyn}", "Evelyn"),
    (r"\text{(A)}", "A"),
    ("x=5", "5"),
    ("y = 2x + 3", "3+2x"),
    (r"2\sqrt3", r"2\sqrt{3}"),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt2}"),
    ("x^2+2x+1", "(x+1)^2"),
    (r"3\pi", r"\pi\cdot3"),
    ("11_2", "11_{2}"),
    (r"\begin{pmatrix}1/2&0\\0&1\end{pmatrix}", r"\begin{pmatrix} \frac{1}{2} & 0 \\ 0 & 1 \end{pmatrix}"),
]
DIFFERENT = [
    ("(3,4)", "(4,3)"),
    ("3,4", "4,3"),
    ("11_2", "11"),
    ("11_2", "11_3"),
    ("(0,1)", "[0,1]"),
    ("1", "2"),
    ("x", "y"),
    (r"\frac{1}{3}", "0.33"),
    ("Evelyn", "Eve"),
    ("2x=5", "x=5"),
    ("5", ""),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"),
    (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    ("(1,2)", "(1,2,3)"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_answers_in_another_form_are_the_same(one: str, other: str) -> None:
    assert same_answer(one, other) and same_answer(other, one)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_other_answers_are_not(one: str, other: str) -> None:
    assert not same_answer(one, other) and not same_answer(other, one)


def test_an_answer_that_cannot_be_computed_is_not_the_same_and_stops_nothing() -> None:
    assert not same_answer("9^{9^{9^{9}}}", "x")
    assert same_answer("(x+1)^2", "x^2+2x+1")  # the next one is compared as ever
    assert not same_answer("1" * 1000, "1" * 999)


@settings(deadline=None)
@given(st.text(alphabet=r"\{}()[],.0123xfrac_^&$ ", max_size=40), st.text(alphabet="0123x,", max_size=9))
def test_no_text_breaks_the_comparison(one: str, other: str) -> None:
    assert same_answer(one, one)
    assert same_answer(one, other) == same_answer(other, one)
    assert last_boxed(rf"\boxed{{{other}}}") == other
    found = last_boxed(rf"\boxed{one}")
    assert found is None or found in one


def test_the_last_box_is_read_with_its_braces() -> None:
    assert last_boxed(r"\boxed{1} then \boxed{\frac{1}{2}}.") == r"\frac{1}{2}"
    assert last_boxed(r"so \boxed{\left\{1, 2\right\}}") == r"\left\{1, 2\right\}"
    assert last_boxed(r"\boxed 5.") == "5" and last_boxed(r"\fbox{7}") == "7"
    assert last_boxed("none") is None and last_boxed(r"\boxed{open") is None


def perturbed(answer: str) -> str:
    numbers = list(re.finditer(r"\d+", answer))
    if not numbers:
        return answer + "+1"
    last = numbers[-1]
    return answer[: last.start()] + str(int(last[0]) + 1) + answer[last.end() :]


@pytest.mark.data
def test_real_solutions_have_gold_1_and_with_another_answer_0() -> None:
    folder = os.environ.get("MPO_TEST_DATA")
    if not folder:
        pytest.skip("MPO_TEST_DATA is unset")
    rows = [json.loads(line) for line in (Path(folder) / "math_test.jsonl").read_text().splitlines()]
    assert len(rows) == 280
    for row in rows:
        solution = {"reference": row["solution"]}
        answer = last_boxed(row["solution"])
        assert answer and math_answer(row["solution"], solution) == 1
        wrong = rf"The answer is \boxed{{{perturbed(answer)}}}."
        assert math_answer(wrong, solution) == 0, answer
        assert math_answer("no box", solution) == 0


def test_a_verdict_is_the_last_tag() -> None:
    row = {"reference": "RIGHT"}
    assert verdict_tag("<verdict>WRONG</verdict> no: <verdict> right </verdict>", row) == 1
    assert verdict_tag("<verdict>WRONG</verdict>", row) == verdict_tag("RIGHT", row) == 0


def test_question_answering_is_measured_as_squad_does() -> None:
    row = {"reference": ["the Eiffel Tower", "Eiffel"]}
    assert exact_match("Eiffel tower.", row) == 1 and exact_match("A tower", row) == 0
    assert token_f1("it is the Eiffel Tower", row) == pytest.approx(2 * 2 / (4 + 2))
    assert token_f1("", row) == 0


def test_summaries_are_measured_by_rouge() -> None:
    row = {"reference": "the bill funds schools in rural areas"}
    assert rouge("the bill funds schools in rural areas", row) == 1
    assert 0 < rouge("schools are funded by the bill", row) < 1 and rouge("", row) == 0


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[symbolic._Child]:
    """A process that compares, not started yet, and nothing known of earlier comparisons."""
    child = symbolic._Child()
    monkeypatch.setattr(symbolic, "_child", child)
    verify._is_equal.cache_clear()
    yield child
    child.end()


EQUAL = (r"\sqrt{8}", r"2\sqrt{2}")


def test_stray_modules_are_not_run(
    fresh: symbolic._Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the working directory, or where variables, which ``.env`` may set, lead Python to."""
    for name in ("queue", "json", "sympy", "math_verify", "sitecustomize"):
        code = f"open({str(tmp_path / 'run')!r}, 'w')\nraise SystemExit(1)\n"
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    for name in ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("SECRET_API_KEY", "sk-1")
    assert same_answer(*EQUAL)
    assert not (tmp_path / "run").exists()
    assert fresh._process is not None
    environ = Path(f"/proc/{fresh._process.pid}/environ")
    assert not environ.exists() or b"SECRET_API_KEY" not in environ.read_bytes()


@pytest.mark.parametrize(
    ("program", "said"),
    [("raise ImportError('no SymPy here')", "(ImportError: no SymPy here)"), ("", "(it exited immediately)")],
)
def test_a_verifier_that_cannot_start_is_an_error_and_stops_before_training(
    fresh: symbolic._Child,
    program: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "program.py").write_text(program)
    monkeypatch.setattr(symbolic, "_PROGRAM", tmp_path / "program.py")
    with pytest.raises(TaskError, match="cannot start") as refused:
        same_answer(*EQUAL)
    assert said in str(refused.value)
    data = tmp_path / "data.jsonl"
    rows = [{"problem": f"{n}+1", "solution": f"\\boxed{{{n + 1}}}", "type": "Algebra"} for n in range(12)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--judge", "openai/m", "--judge-api-base", "http://127.0.0.1:9/v1", "--baseline", "iter0"]
    places = ["--run-dir", str(tmp_path / "run"), "--cache-dir", str(tmp_path / "cache")]
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--task", "math", "--data", str(data), "--policy", "sandbox", *flags, *places])
    assert said in capsys.readouterr().err.splitlines()[-1] and not (tmp_path / "run").exists()


def test_a_verifier_that_dies_leaves_one_answer_unmeasured_and_is_started_again(
    fresh: symbolic._Child,
) -> None:
    measure = load_task("math").verify_metric()
    assert measure is not None
    row = {"reference": r"\boxed{2\sqrt{2}}"}
    assert measure(r"\boxed{\sqrt{8}}", row) == 1
    assert fresh._process is not None
    fresh._process.kill()
    fresh._process.wait()
    with pytest.raises(NotCompared):
        same_answer(r"\sqrt{18}", r"3\sqrt{2}")
    assert measure(r"\boxed{\sqrt{32}}", row) == 0
    fresh._process.kill()
    fresh._process.wait()
    assert measure(r"\boxed{\sqrt{50}}", row) is None
    assert measure(r"\boxed{\sqrt{50}}", row) == 0
