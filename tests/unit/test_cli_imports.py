"""What `routoo` loads to show its help."""

import subprocess
import sys


def test_the_commands_load_nothing_heavy_before_they_are_run() -> None:
    program = """
import sys
from routoo.cli.main import COMMANDS, build_app
app = build_app()
assert len(app.registered_commands) + len(app.registered_groups) == len(COMMANDS)
heavy = {"torch", "transformers", "sklearn", "scipy", "matplotlib", "pyarrow", "aiohttp", "alembic"}
print(sorted(heavy & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
