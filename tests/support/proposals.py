"""A criterion as a meta-judge proposes it."""

from typing import Any

CRITERION: dict[str, Any] = {
    "id": "example",
    "description": "An example.",
    "levels": ["none", "one"],
    "weight": 2,
    "kind": "merit",
}
