"""The versions of a run's rubric: one immutable YAML file each, with a header that says where it is from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from mpo_lite.errors import RunError, TaskError
from mpo_lite.jsonl import write_atomically
from mpo_lite.rubric import Rubric, dump_rubric, parse_rubric
from mpo_lite.strict_yaml import parse_yaml


@dataclass(frozen=True)
class RubricVersion:
    """One immutable version of the rubric.

    Attributes:
        number: From 0; only grows.
        parent: The version it was made from; None for the first.
        batch: Generation batches done when it was published; the next batch is the first that it judges.
        author: Model that wrote it, or where the first came from.
        rubric: Its content.
        scale: Factor on its rewards for algorithms that do not divide by their spread; see ``version_scale``.
        offset: How much more the initial policy's answers earn than under the first version; see
            ``version_offset``.
    """

    number: int
    parent: int | None
    batch: int
    author: str
    rubric: Rubric
    scale: float = 1.0
    offset: float = 0.0


def write_version(path: Path, version: RubricVersion) -> None:
    """Writes a version; one that is there already is the same, from before a kill."""
    header = {
        "version": version.number,
        "parent": version.parent,
        "batch": version.batch,
        "author": version.author,
        "scale": version.scale,
        "offset": version.offset,
        "set_hash": version.rubric.set_hash,
    }
    lines = "".join(f"# {key}: {json.dumps(value)}\n" for key, value in header.items())
    write_atomically(path, lines + dump_rubric(version.rubric))


def read_version(path: Path, number: int) -> RubricVersion:
    """Reads a version back.

    Raises:
        RunError: It is missing, damaged, or not as it was published.
    """
    try:
        text = path.read_text(encoding="utf-8")
        lines = takewhile(lambda line: line.startswith("# "), text.splitlines())
        header = parse_yaml("\n".join(line[2:] for line in lines), str(path), RunError).data
        rubric = parse_rubric(text, str(path))
        parent, batch, author = header["parent"], header["batch"], header["author"]
        scale, offset = float(header.get("scale", 1.0)), float(header.get("offset", 0.0))
        version = RubricVersion(number, parent, batch, author, rubric, scale, offset)
        changed = header["set_hash"] != rubric.set_hash
    except FileNotFoundError as error:
        raise RunError(f"{path}: missing") from error
    except TaskError as error:
        raise RunError(str(error)) from error
    except (OSError, UnicodeDecodeError, TypeError, ValueError, KeyError) as error:
        raise RunError(f"{path}: damaged") from error
    if changed:
        raise RunError(
            f"{path}: changed since it was published",
            "restore it (to train on a rubric of your own: mpo-lite train --rubric FILE)",
        )
    return version
