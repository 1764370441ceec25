"""The help pages of all three programs: one style, a version, and words to complete."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from producer.cli import build_app
from producer.commands.options import complete_batches
from routoo.cli.main import app as routoo
from routoo.console.commands import CommandGroup
from worker.cli import app as worker

PROGRAMS = {"routoo": routoo, "routoo-producer": build_app(), "routoo-worker": worker}


def pages(program: CommandGroup, *path: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the help page of a command, and those of all that it groups."""
    result = CliRunner().invoke(program, [*path, "--help"], terminal_width=200)
    assert result.exit_code == 0, (path, result.output)
    yield path, result.output
    _, _, listed = result.output.partition("Commands:\n")
    for name in (line.split()[0] for line in listed.splitlines() if line[2:3].strip()):
        yield from pages(program, *path, name)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_pages_of_a_program_have_one_style(name: str) -> None:
    for path, page in pages(PROGRAMS[name]):
        usage, options = page.partition("\n")[0], page.partition("Options:\n")[2]
        assert "{" not in usage, path
        assert "[[" not in usage, path
        for sign in (" <", "[default", "[required", "repeatable", "more than once"):
            assert sign not in options.partition("Examples:")[0], (path, sign)
        assert ("--version" in options) == ("Commands:\n" in page), path


def test_models_are_named_by_options_that_are_repeated() -> None:
    named = {
        ("routoo", "collect"): "--model",
        ("routoo", "train"): "--model",
        ("routoo", "predict"): "--model",
        ("routoo-producer", "submit"): "--allow-model",
        ("routoo-producer", "plan"): "--deny-model",
    }
    for (name, command), option in named.items():
        page = CliRunner().invoke(PROGRAMS[name], [command, "--help"], terminal_width=200).output
        line = next(line for line in page.splitlines() if f"{option} " in line)
        assert "can be repeated" in line
        assert f"{option}s" not in page


@pytest.mark.parametrize(
    ("name", "typed", "word"),
    [
        ("routoo", "", "checkpoint"),
        ("routoo", "checkpoint ", "promote"),
        ("routoo-producer", "eval ", "report"),
        ("routoo-worker", "", "dispatcher"),
        ("routoo-worker", "up --", "--dispatchers"),
    ],
)
def test_a_shell_completes_commands_and_options_of_every_program(
    name: str, typed: str, word: str
) -> None:
    variable = f"_{name.replace('-', '_').upper()}_COMPLETE"
    words = f"{name} {typed}"
    done = subprocess.run(
        [Path(sys.executable).with_name(name)],
        env=os.environ
        | {variable: "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert word in done.stdout.split()


def test_completion_is_silent_where_no_database_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROUTOO_HOME", str(tmp_path))
    assert complete_batches("mon") == []
    monkeypatch.setenv("ROUTOO_DATABASE_URL", "nonsense")
    assert complete_batches("mon") == []
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
