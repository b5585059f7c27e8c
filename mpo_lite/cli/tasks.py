"""``mpo-lite tasks``: list the built-in tasks, or explain one."""

from __future__ import annotations

import click

from mpo_lite.cli.terminal import echo
from mpo_lite.errors import TaskError
from mpo_lite.sanitize import pluralize
from mpo_lite.tasks.spec import Task, load_builtin_tasks, load_task


@click.command("tasks", short_help="List the built-in tasks, or explain one.")
@click.argument("name", metavar="[NAME]", required=False)
def command(name: str | None) -> None:
    """List the built-in tasks, or explain one: a built-in task, or a directory of your own.

    \b
    mpo-lite tasks
    mpo-lite tasks math
    mpo-lite tasks path/to/directory
    """
    if name:
        echo("\n".join(_explain(load_task(name))))
        return
    builtin = load_builtin_tasks()
    width = max(map(len, builtin))
    for task_name, task in builtin.items():
        echo(f"{task_name:{width}}  {task.description}")
    echo("\nA task of your own is a directory: mpo-lite init DIR creates one from a template.")


def _explain(task: Task) -> list[str]:
    data, verifier = task.data, task.verifier
    rules = [f"at least {pluralize(task.rules.min_words, 'word')}"]
    if task.rules.must_match:
        rules.append(f"must match {task.rules.must_match}")
    longest = task.generation.max_new_tokens
    uses = {"prompt": data.prompt, "reference": data.reference, "cluster": data.cluster}
    columns = [f"{use}: {column or 'none'}" for use, column in uses.items()]
    works = [task.judge_mode, *(f"sees the {part}" for part in task.judge_sees)]
    lines = [
        f"{task.name}: {task.description}",
        f"  purpose        {' '.join(task.purpose.split())}",
        f"  judge          {' '.join(task.persona.split())} ({', '.join(works)})",
        f"  data           {data.source or 'none: use --data'} ({', '.join(columns)})",
        f"  answers        at most {pluralize(longest, 'token')}; {'; '.join(rules)}; otherwise 0",
    ]
    if verifier:
        lines.append(
            f"  verifier       {verifier.function}, replaces the judge in {verifier.rate:.0%} of the batches"
        )
    lines += [
        f"  gold           {task.gold or 'none'}",
        f"  sentinels      {', '.join(task.sentinels)}",
        "  first rubric",
        *(f"    {criterion.id}: {criterion.description}" for criterion in task.rubric.criteria),
    ]
    try:
        expert = ", ".join(criterion.id for criterion in task.expert_rubric.criteria)
    except TaskError:
        expert = "none"
    return [*lines, f"  expert rubric  {expert}"]
