"""Essays of honest words, of which hardly any two are alike, as the alarms look at them."""

import random
from collections.abc import Callable
from typing import Any

from mpo_lite.alarms.features import ResponseFeatures

SUBJECTS = "dogs trains maps rivers clocks gardens letters bridges winters markets lanterns engines"
VERBS = "help carry show bring hold keep mend teach warm feed guide spare"


def essay(number: int, sentences: int = 8) -> str:
    """Some sentences, of which hardly any two are alike."""
    draw, subjects, verbs = random.Random(number), SUBJECTS.split(), VERBS.split()
    made = [
        f"{draw.choice(subjects).capitalize()} {draw.choice(verbs)} people {draw.choice(verbs)}ing "
        f"{draw.choice(subjects)} near {draw.randrange(10_000)} {draw.choice(subjects)}."
        for _ in range(sentences)
    ]
    return " ".join(made)


def ask(number: int) -> str:
    subject = SUBJECTS.split()[number % 12]
    return f"Write about {subject} {number} and say in words of your own what people would miss without it."


def rows(
    count: int = 32, change: Callable[[int, str], str] = lambda n, text: text, first: int = 0, **fields: Any
) -> list[ResponseFeatures]:
    return [
        ResponseFeatures(
            f"r{n}", ask(n), change(n, essay(n)), **{name: value(n) for name, value in fields.items()}
        )
        for n in range(first, first + count)
    ]
