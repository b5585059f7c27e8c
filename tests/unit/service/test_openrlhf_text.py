"""An answer is found in OpenRLHF's text, which is decoded from the tokens of prompt and answer."""

import pytest

from mpo_lite.service.dialects import OpenRLHFRequest

TURN = "Why are trees good?<|im_end|>\n<|im_start|>assistant\n"
PROMPT = f"<|im_start|>user\n{TURN}"
LONG = f"<|im_start|>user\n{'Read this. ' * 60}{TURN}"


@pytest.mark.parametrize(
    ("prompt", "decoded"),
    [
        (PROMPT, PROMPT),
        (PROMPT, f"<|begin_of_text|>{PROMPT}"),  # a token that the tokenizer adds
        (f" {PROMPT}", PROMPT),  # a blank that it drops
        (LONG, LONG[100:]),  # too long: cut off at its beginning
    ],
)
def test_only_the_answer_is_judged(prompt: str, decoded: str) -> None:
    query = f"{decoded}They give shade.<|im_end|>"
    (submission,) = OpenRLHFRequest(query=[query], prompts=[prompt], labels=["right"]).submissions()
    assert submission.completion == "They give shade."
    assert submission.prompt.endswith("Why are trees good?")
    assert submission.reference == "right"
