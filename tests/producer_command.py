"""Runs the real `routoo-producer` against a database that no worker looks at."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.warm_commands import warm_producer

NO_BROKER = "redis://127.0.0.1:1/0"
_MODEL = {
    "name": "small",
    "endpoint": {"base_url": "http://localhost:1/v1"},
    "price_usd_per_mtok": {"prompt": "1", "completion": "2"},
    "context_window_tokens": 4096,
}


def write_pool(path: Path) -> Path:
    """Write a pool file of one model that nobody serves."""
    path.write_text(json.dumps({"models": [_MODEL]}))
    return path


class ProducerCommand:
    """The command in a folder of its own, with a pool file and no broker.

    Attributes:
        environment: Its environment variables.
    """

    def __init__(self, database_url: str, folder: Path) -> None:
        self._folder = folder
        self.environment = os.environ | {
            "ROUTOO_DATABASE_URL": database_url,
            "ROUTOO_BROKER_URL": NO_BROKER,
            "ROUTOO_HOME": str(folder),
            "ROUTOO_CHECKPOINT": str(folder / "no-checkpoint"),
            "ROUTOO_PING_TIMEOUT_S": "0",
            "ROUTOO_POOL": str(write_pool(folder / "pool.yaml")),
        }

    def run(self, *arguments: object, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        """Run a command to its end, whatever its exit status."""
        return warm_producer.run(
            list(map(str, arguments)), environ=self.environment, cwd=self._folder, stdin=stdin
        )

    def facts(self, *arguments: str) -> dict[str, Any]:
        """Return what a command that ends well prints with --json."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def refusal(self, *arguments: str) -> str:
        """Return what a command that refuses its input says."""
        done = self.run(*arguments)
        assert done.returncode == 2, done.stdout
        assert "Traceback" not in done.stderr
        return done.stderr
