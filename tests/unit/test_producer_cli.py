"""What the producer and its help pages load, and what its list of commands names."""

import importlib
import subprocess
import sys

import pytest

import producer
from producer.cli import COMMANDS


@pytest.mark.parametrize("name", producer.__all__)
def test_what_programs_import_from_the_package_is_there(name: str) -> None:
    assert getattr(producer, name).__name__ == name


def test_the_producer_loads_no_machine_learning() -> None:
    program = """
import importlib, pkgutil, sys, producer
for module in pkgutil.walk_packages(producer.__path__, "producer."):
    importlib.import_module(module.name)
heavy = {"torch", "transformers", "sklearn", "scipy", "matplotlib", "xllamacpp"}
print(sorted(heavy & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


HELP_PAGES = """
import contextlib, io, sys
from typer.main import get_command
from producer.cli import COMMANDS, build_app
app = get_command(build_app())
for arguments in ([], *([name] for name in COMMANDS), ["eval", "run"], ["schedule", "add"]):
    with contextlib.redirect_stdout(io.StringIO()) as page:
        app.main([*arguments, "--help"], standalone_mode=False)
    assert "Usage" in page.getvalue(), arguments
"""


def test_help_pages_load_no_library_that_only_work_needs() -> None:
    program = (
        HELP_PAGES
        + """
heavy = {"psycopg", "sqlmodel", "numpy", "rich", "pydantic_settings", "pyarrow", "kombu", "celery"}
print(sorted(heavy & sys.modules.keys()))
"""
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_plain_command_loads_neither_arrow_nor_alembic_nor_kombu() -> None:
    program = """
import sys
import producer.commands.results, producer.commands.status, producer.control, producer.progress
import producer.queue, producer.results.export, producer.screen.progress, producer.submit
print(sorted({"pyarrow", "alembic", "kombu", "celery"} & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_list_of_commands_names_each_with_its_summary() -> None:
    for target, _ in COMMANDS.values():
        module, _, name = target.partition(":")
        assert hasattr(importlib.import_module(f"producer.commands.{module}"), name)
