"""The commands of `routoo`: what their help pages load and show, and options that they share."""

import inspect
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from routoo.cli.evaluate import evaluate
from routoo.cli.main import app
from routoo.cli.options import FittingOptions
from routoo.cli.train import train

HEAVY = {
    "torch", "transformers", "sklearn", "scipy", "numpy", "matplotlib", "pyarrow", "aiohttp",
    "alembic", "sqlalchemy", "psycopg", "pydantic_settings", "rich", "asyncio",
}  # fmt: skip
COMMANDS = {"checkpoint", "collect", "db", "evaluate", "outcomes", "pool", "predict", "replay"}


def test_help_pages_of_all_commands_load_nothing_heavy() -> None:
    program = """
import sys
from typer.testing import CliRunner
from routoo.cli.main import app

def walk(*path):
    result = CliRunner().invoke(app, [*path, "--help"], catch_exceptions=False)
    assert result.exit_code == 0, (path, result.output)
    _, _, listed = result.output.partition("Commands:\\n")
    names = [line.split()[0] for line in listed.splitlines() if line[2:3].strip()]
    return [path, *(one for name in names for one in walk(*path, name))]

pages = walk()
print(len(pages), " ".join(path[0] for path in pages if path))
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    pages, loaded = done.stdout.splitlines()
    assert set(pages.split()) >= COMMANDS
    assert int(pages.split()[0]) > 20  # the commands, and those of the groups
    assert HEAVY & set(loaded.split()) == set()


@pytest.mark.parametrize(("name", "own"), [("train", "--out"), ("evaluate", "--items")])
def test_help_shows_a_commands_own_options_before_those_of_every_fit(name: str, own: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"], terminal_width=200).output
    assert 0 < shown.index(own) < shown.index("how it is fitted") < shown.index("--model")


def test_train_and_evaluate_say_alike_how_a_predictor_is_fitted() -> None:
    shared = set(inspect.signature(FittingOptions).parameters)
    assert shared <= set(inspect.signature(train).parameters)
    assert shared <= set(inspect.signature(evaluate).parameters)


def test_only_what_departs_from_the_usual_fit_is_named() -> None:
    assert FittingOptions(model=["m"], seed=3, device="cpu").changed_fit_options() == []
    told = FittingOptions(layer=[2], suffix="?", compile=True, tune=True)
    assert told.changed_fit_options() == ["--layer", "--suffix", "--compile", "--tune"]


def test_a_suffix_may_name_a_line_break() -> None:
    assert FittingOptions(suffix=r"\nAnswer:").reading.suffix == "\nAnswer:"
