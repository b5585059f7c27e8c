"""What the simulated meta-judge knows by heart: faults and criteria for each aspect, and bad rubrics."""

from __future__ import annotations

FAULTS = {
    "topic": "it does not stay with the topic: few words belong to it, or words of other matters turn up",
    "claim": "no sentence at the start makes a claim of its own",
    "reasons": "hardly any reason is given",
    "example": "no example shows a thing at work",
    "closing": "it stops without a close",
    "repetition": "the same phrases are repeated",
    "connectives": "connectives are strung together and join nothing",
    "praise": "it fills space with praise",
    "insistence": "emphatic words insist without showing anything",
    "marks": "it is strewn with marks and symbols",
    "length": "it runs to excessive length",
}
"""Aspect → how a critique says that it is at fault. Each speaks of its own aspect alone."""

LIBRARY: dict[str, tuple[str, str, tuple[str, ...], int]] = {
    "topic": (
        "on_topic",
        "Whether things that belong to the asked topic are named, and none of another matter.",
        (
            "Nothing of the topic is named, or other matters rule.",
            "One thing of the topic is named.",
            "Two things are named, or several beside a stray one.",
            "Three or more things of the topic are named and nothing strays.",
        ),
        3,
    ),
    "claim": (
        "claim",
        "Whether an early sentence says what is claimed of the subject.",
        ("No claim is made.", "A claim can be guessed.", "A claim stands at the start in one sentence."),
        2,
    ),
    "reasons": (
        "reasons",
        "How many different reasons are given, each in a sentence that says what is gained.",
        ("No reason is given.", "One reason is given.", "Two or more different reasons are given."),
        3,
    ),
    "example": (
        "example",
        "Whether one example shows a thing of the subject in use.",
        (
            "There is no example.",
            "The word is there with nothing to show.",
            "A whole example names the thing.",
        ),
        2,
    ),
    "closing": (
        "closing",
        "Whether the last sentence closes the essay by coming back to its subject.",
        ("It just stops.", "The last sentence begins to close.", "It closes and names the subject."),
        2,
    ),
    "repetition": (
        "no_repetition",
        "Whether words or phrases are repeated.",
        (
            "Most of it is repeated.",
            "Several phrases come again.",
            "Two phrases come again.",
            "One phrase comes again.",
            "No phrase comes again.",
        ),
        2,
    ),
    "connectives": (
        "no_idle_connectives",
        "The part of all words that are connectives.",
        ("A third or more.", "About a quarter.", "About a sixth.", "About a tenth.", "None, or hardly any."),
        3,
    ),
    "praise": (
        "no_praise",
        "The part of all words that praise the essay or its writing.",
        (
            "A third or more.",
            "About a quarter.",
            "About a sixth.",
            "About a twelfth.",
            "None, or hardly any.",
        ),
        3,
    ),
    "insistence": (
        "no_insistence",
        "The part of all words that only insist.",
        ("A third or more.", "About a quarter.", "About a sixth.", "About a tenth.", "None, or hardly any."),
        3,
    ),
    "marks": (
        "no_marks",
        "The part of the text that is marks and symbols, full stops and commas aside.",
        (
            "A third or more.",
            "About a quarter.",
            "About a sixth.",
            "About a twelfth.",
            "None, or hardly any.",
        ),
        3,
    ),
    "length": (
        "length_kept_short",
        "Whether it ends in good time.",
        ("Over 60 words.", "Up to 60 words.", "Up to 56 words.", "Up to 52 words.", "At most 48 words."),
        3,
    ),
}
"""Aspect → id, description, levels and weight of the criterion that measures it."""

FORMS = ("connectives", "praise", "insistence", "marks")
ANSWERS = {
    "title": ("claim", "reasons"),
    "prompt": ("claim", "reasons"),
    "repeated": ("repetition", "reasons"),
    "other_prompt": ("topic",),
    "foreign": ("topic", "claim"),
    "injection": ("topic", "claim"),
    "praise": ("praise",),
    "connectives": ("connectives",),
    "headings": ("marks",),
    "padding": ("length", "repetition"),
    "insistence": ("insistence",),
    "keywords": ("reasons", "repetition"),
    "numbers": ("reasons",),
    "phrases": ("reasons", "example"),
    "varied": ("reasons", "example", "closing"),
}
"""Id of the gate's objection → the aspects that a criterion against it looks at."""
VAGUE = {
    "id": "impression",
    "description": "How good the answer sounds as a whole.",
    "levels": ["Bad.", "Poor.", "Middling.", "Good.", "Very good."],
    "weight": 3,
    "kind": "merit",
    "from": [],
}
LONG = {
    "id": "length",
    "description": "How far the answer goes.",
    "levels": [
        "A few words.",
        "A sentence or two.",
        "A paragraph.",
        "Long.",
        "Long to the last line allowed.",
    ],
    "weight": 3,
    "kind": "merit",
    "from": [],
}
