"""Rows as the data sets of the built-in tasks have them."""

from typing import Any

# As the hub's data sets have them.
ROWS: dict[str, Any] = {
    "essay": lambda n: {"prompt": f"Write about dogs, part {n}."},
    "summarization": lambda n: {
        "text": f"A bill to fund dogs of kind {n}.", "summary": "Funds dogs.", "title": "Dogs"
    },
    "ethics": lambda n: {
        "text": f"I took dog {n}. AITA?", "binarized_label": "WRONG", "label": "AUTHOR"
    },
    "math": lambda n: {
        "problem": f"What is {n}+1?", "level": "Level 1", "type": ("Algebra", "Geometry")[n % 2],
        "solution": rf"It is $\boxed{{{n + 1}}}$.",
    },
    "qa": lambda n: {
        "id": str(n), "title": "Dogs", "context": f"There are {n} dogs.", "question": "How many?",
        "answers": {"text": [str(n)], "answer_start": [10]},
    },
}  # fmt: skip
