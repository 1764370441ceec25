"""The fake endpoint in a process of its own, for tests of other processes."""

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

SERVER = Path(__file__).with_name("openai_server.py")


class FakeServerProcess:
    """The server in a process of its own; a context manager.

    Args:
        script: What the models do.
    """

    def __init__(self, script: Mapping[str, Any]) -> None:
        self._script = script
        self._port = 0

    @property
    def base_url(self) -> str:
        """What a pool's `base_url` names."""
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        port_file = Path(self._folder.name, "port")
        command = [sys.executable, str(SERVER), "--port-file", str(port_file), "--script", "-"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        self._process.stdin.write(json.dumps(self._script))
        self._process.stdin.close()
        while not port_file.exists():
            if self._process.poll() is not None:
                raise RuntimeError("the fake server did not start")
            time.sleep(0.02)
        self._port = int(port_file.read_text(encoding="utf-8"))
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
        self._folder.cleanup()

    def log(self) -> list[dict[str, Any]]:
        """Return the server's log, a row a request in order of arrival."""
        return list(self._call("GET", "log")["requests"])

    def batch_log(self) -> dict[str, Any]:
        """Return the log of the server's Batch API."""
        return dict(self._call("GET", "log/batches"))

    def clear_log(self) -> None:
        """Start a new log."""
        self._call("DELETE", "log")

    def set_script(self, script: Mapping[str, Any]) -> None:
        """Behave like this from now on."""
        self._call("POST", "script", json.dumps(script).encode())

    def _call(self, method: str, path: str, data: bytes | None = None) -> Any:
        url = f"http://127.0.0.1:{self._port}/{path}"
        request = urllib.request.Request(url, data=data, method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)
