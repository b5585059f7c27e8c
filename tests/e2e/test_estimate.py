"""What a run is said to cost, held against what it then takes."""

import json
from pathlib import Path

import pytest

from mpo_lite.cli.main import main


def test_the_estimate_holds_what_a_run_then_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = (
        "--judge sandbox --meta sandbox --policy sandbox --task sandbox --steps 7 --interval 3 --group-size 4"
    )
    flags += f" --meta-samples 4 --no-use-gate -o batch_prompts=4 --cache-dir {tmp_path / 'cache'} --json"
    main(["estimate", *flags.split()])
    told = json.loads(capsys.readouterr().out)
    main(["train", *flags.split(), "--run-dir", str(tmp_path / "run")])
    output = capsys.readouterr()
    took = json.loads(output.out.splitlines()[-1])
    for role in ("judge", "meta"):
        low, high = told[role]["calls"]
        assert low <= took[f"{role}_calls"] <= high
    tokens = [
        sum(pair) for pair in zip(told["total"]["input_tokens"], told["total"]["output_tokens"], strict=True)
    ]
    # The sandbox counts words and has no prices; a word has more than a token.
    assert took["tokens_spent"] <= tokens[1]
    assert output.err.splitlines()[0].startswith("estimated: ")
    assert told["total"]["usd"] == [0.0, 0.0]
