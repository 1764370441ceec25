"""What `routoo` loads to show its help."""

import subprocess
import sys

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
