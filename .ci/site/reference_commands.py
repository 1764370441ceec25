"""Writes the reference of a program's commands, from the commands themselves."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from typer.main import get_group

from producer.cli import build_app
from routoo.cli.main import app as routoo
from routoo.console.commands import CommandGroup
from worker.cli import app as worker

PROGRAMS: dict[str, CommandGroup] = {
    "routoo": routoo,
    "routoo-producer": build_app(),
    "routoo-worker": worker,
}


def pages() -> dict[str, str]:
    """Return the page of each program, by its path in the site."""
    return {f"reference/{name}.md": _page(name, program) for name, program in PROGRAMS.items()}


def commands(name: str) -> Iterator[tuple[str, typer.Context]]:
    """Yield the words and the context of a program and of all its commands, in their order."""
    root = get_group(PROGRAMS[name])
    yield from _below(name, root.make_context(name, [], resilient_parsing=True))


def _below(path: str, context: typer.Context) -> Iterator[tuple[str, typer.Context]]:
    yield path, context
    group = context.command
    for name in group.list_commands(context) if hasattr(group, "list_commands") else ():
        listed = group.get_command(context, name)
        if listed is not None and not listed.hidden:
            # A command that is not loaded yet gives its own context.
            found = listed.make_context(name, [], parent=context, resilient_parsing=True)
            yield from _below(f"{path} {name}", found)


def _page(name: str, program: CommandGroup) -> str:
    _, *below = commands(name)
    parts = [
        f"# Commands of `{name}`\n",
        f"Made from the program itself, as `{name} COMMAND --help` prints it.\n",
        _text(str(program.info.help)),
    ]
    for path, context in below:
        parts += [f"## `{path}`\n", *_command(path, context)]
    return "\n".join(parts)


def _command(path: str, context: typer.Context) -> Iterator[str]:
    command = context.command
    yield _text(command.help or "")
    if hasattr(command, "list_commands"):
        return
    pieces = " ".join(command.collect_usage_pieces(context))
    yield f"```text\n{path} {pieces}\n```\n"
    table = _Tables()
    command.format_options(context, table)  # type: ignore[arg-type]  # what it calls of a formatter
    yield from table.lines
    if command.epilog:
        _, _, *examples = command.epilog.splitlines()
        lines = "\n".join(line.removeprefix("  ") for line in examples)
        yield f"\nExamples:\n\n```sh\n{lines}\n```\n"


class _Tables:
    """Stands for click's formatter: writes sections of options as tables."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextmanager
    def section(self, title: str) -> Iterator[None]:
        """Begin a section with its title."""
        self.lines.append(f"\n| {title} | meaning |\n| --- | --- |")
        yield

    def write_dl(self, records: list[tuple[str, str]]) -> None:
        """Write names with their help."""
        for name, text in records:
            self.lines.append(f"| `{_cell(name)}` | {_cell(_plain(text))} |")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _plain(text: str) -> str:
    """Return text in which nothing reads as HTML or emphasis."""
    return re.sub(r"([<>*_])", r"\\\1", text)


def _text(text: str) -> str:
    return _plain(text.strip().replace("\b\n", "")) + "\n"
