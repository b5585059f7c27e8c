"""``mpo-lite tasks``: which tasks there are, and what one of them consists of."""

from __future__ import annotations

import click

from mpo_lite.cli.terminal import echo
from mpo_lite.errors import TaskError
from mpo_lite.sanitize import pluralize
from mpo_lite.tasks.spec import Task, load_builtin_tasks, load_task


@click.command("tasks", short_help="List the built-in tasks, or explain one.")
@click.argument("name", metavar="[NAME]", required=False)
def command(name: str | None) -> None:
    """List the built-in tasks, or explain one: built-in, or a folder of your own.

    \b
    mpo-lite tasks
    mpo-lite tasks math
    mpo-lite tasks path/to/folder
    """
    if name:
        echo("\n".join(_explained(load_task(name))))
        return
    known = load_builtin_tasks()
    width = max(map(len, known))
    for each, task in known.items():
        echo(f"{each:{width}}  {task.description}")
    echo("\nOne of your own is a folder: mpo-lite init DIR writes a first one.")


def _explained(task: Task) -> list[str]:
    data, verifier = task.data, task.verifier
    rules = [f"at least {pluralize(task.rules.min_words, 'word')}"]
    if task.rules.must_match:
        rules.append(f"must match {task.rules.must_match}")
    longest = task.generation.max_new_tokens
    named = {"prompt": data.prompt, "reference": data.reference, "cluster": data.cluster}
    columns = [f"{use}: {column or 'none'}" for use, column in named.items()]
    lines = [
        f"{task.name}: {task.description}",
        f"  readers want   {' '.join(task.purpose.split())}",
        f"  judge          {' '.join(task.persona.split())} ({task.judge_mode})",
        f"  data           {data.source or 'none: give --data'} ({', '.join(columns)})",
        f"  answers        at most {pluralize(longest, 'token')}; {'; '.join(rules)}, or 0",
    ]
    if verifier:
        lines.append(f"  verifier       {verifier.function}, alone in {verifier.rate:.0%} of the batches")
    lines += [
        f"  gold           {task.gold or 'none'}",
        f"  known bad      {', '.join(task.sentinels)}",
        "  first rubric",
        *(f"    {one.id}: {one.description}" for one in task.rubric.criteria),
    ]
    try:
        expert = ", ".join(one.id for one in task.expert_rubric.criteria)
    except TaskError:
        expert = "none"
    return [*lines, f"  expert rubric  {expert}"]
