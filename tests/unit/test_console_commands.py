"""Lazy command groups, their help pages, and how programs end."""

import errno
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from routoo.console.commands import CommandGroup, with_options
from routoo.console.run import INTERRUPTED, SYSTEM_ERROR, run_program
from routoo.errors import NotFoundError

COMMAND = '''
"""A command's module."""

def greet(name: str) -> None:
    """Greet somebody, however long the first line of the help text may be, it is shown whole.

    More of it.

    Examples:
        program greet Ada

        program greet Bob --twice
    """
    print(f"Hello {name}")
'''


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandGroup:
    (tmp_path / "lazy_greeting.py").write_text(COMMAND)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lazy_greeting", raising=False)
    group = CommandGroup("A program.", add_completion=False)
    group.add_lazy("greet", "lazy_greeting:greet", "Greet somebody.")
    group.add_lazy("gone", "no_such_module:gone", "Cannot be imported.")
    return group


def shown(program: CommandGroup, *arguments: str) -> str:
    result = CliRunner().invoke(program, arguments, catch_exceptions=False, terminal_width=120)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_list_of_commands_imports_none_of_them(program: CommandGroup) -> None:
    page = shown(program, "--help")
    assert "Greet somebody." in page
    assert "Cannot be imported." in page
    assert "lazy_greeting" not in sys.modules


def test_a_lazy_command_runs_with_its_arguments(program: CommandGroup) -> None:
    assert shown(program, "greet", "Ada") == "Hello Ada\n"


def test_examples_are_the_end_of_a_help_page_line_by_line(program: CommandGroup) -> None:
    page = shown(program, "greet", "--help")
    assert page.index("More of it.") < page.index("Arguments:") < page.index("Examples:")
    assert page.endswith("  Examples:\n    program greet Ada\n    program greet Bob --twice\n")


def test_a_mistyped_command_gets_a_suggestion_and_status_2(program: CommandGroup) -> None:
    result = CliRunner().invoke(program, ["gret"])
    assert result.exit_code == 2
    assert "greet" in result.output


def test_every_group_tells_the_version(program: CommandGroup) -> None:
    assert shown(program, "--version") == f"root {version('routoo')}\n"


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Options that two commands have."""

    size: Annotated[int, typer.Option(help="How many.", rich_help_panel="How it is done")] = 3


def test_a_record_of_options_becomes_a_section_of_the_help_page() -> None:
    group = CommandGroup("A program.", add_completion=False)

    @group.command()
    @with_options(Shared)
    def work(name: str, *, options: Shared) -> None:
        typer.echo(f"{name} {options.size}")

    page = shown(group, "work", "--help")
    assert page.index("Arguments:") < page.index("Options:") < page.index("How it is done:")
    assert shown(group, "work", "ada", "--size", "4") == "ada 4\n"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (NotFoundError("no such batch", value="b"), 3, "error: no such batch (got 'b').\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out.parquet"),
            SYSTEM_ERROR,
            "error: out.parquet: No space left on device\n",
        ),
        (OSError("no errno"), SYSTEM_ERROR, "error: no errno\n"),
        (KeyboardInterrupt(), INTERRUPTED, ""),
    ],
)
def test_an_expected_error_is_a_message_and_a_status(
    error: BaseException, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_program(fail)
    assert ended.value.code == status
    assert capsys.readouterr().err == message


def test_values_ranges_and_defaults_read_alike() -> None:
    group = CommandGroup("A program.", add_completion=False)

    @group.command()
    def work(
        name: Annotated[str, typer.Argument(metavar="NAME", help="Who.")],
        other: Annotated[str | None, typer.Argument(metavar="OTHER")] = None,
        *,
        out: Annotated[Path, typer.Option(help="Where to.")],
        many: Annotated[list[str] | None, typer.Option(help="Words; can be repeated.")] = None,
        size: Annotated[int, typer.Option(min=1, help="How many.")] = 3,
        port: Annotated[int, typer.Option(min=0, max=9, help="Port.")] = 0,
    ) -> None:
        """Work."""

    page = shown(group, "work", "--help")
    assert "Usage: root work [OPTIONS] NAME [OTHER]" in page
    lines = [" ".join(line.split()) for line in page.splitlines()]
    assert "NAME Who. (required)" in lines
    assert "--out PATH Where to. (required)" in lines
    assert "--many TEXT Words; can be repeated." in lines
    assert "--size N How many. (default: 3, at least 1)" in lines
    assert "--port N Port. (default: 0, 0 to 9)" in lines
