"""The help pages of `routoo-worker`."""

import subprocess
import sys

HEAVY = {
    "aiohttp", "alembic", "asyncio", "celery", "kombu", "numpy", "prometheus_client", "psycopg",
    "pydantic_settings", "rich", "sqlalchemy", "structlog", "torch",
}  # fmt: skip


def test_help_pages_of_all_commands_load_nothing_heavy() -> None:
    program = """
import sys
from typer.testing import CliRunner
from worker.cli import app
for path in ([], ["up"], ["scorer"], ["dispatcher"], ["beat"], ["doctor"]):
    result = CliRunner().invoke(app, [*path, "--help"], catch_exceptions=False)
    assert result.exit_code == 0, (path, result.output)
    assert "Usage:" in result.output
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert HEAVY & set(done.stdout.split()) == set()
