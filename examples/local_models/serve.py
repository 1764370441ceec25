"""Starts and stops the models' servers, each a process of its own."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from examples.local_models.catalogue import LocalModel
from examples.local_models.fetch import models_folder
from routoo.errors import EmbeddedStackError
from routoo.settings import REPOSITORY

_POLL_S = 0.1
_STOP_S = 10.0
_HEALTH_TIMEOUT_S = 2.0


class LocalModels:
    """The servers of some models, as a context manager.

    A server that already answers for the same model on its port is used as it is and left
    running at the end. If this process dies, its servers end by themselves within a second.

    Args:
        models: Models to serve; their files must have been fetched.
        home: ROUTOO_HOME; logs go to its `logs` folder.
        start_timeout_s: Longest wait until all answer, in seconds.
    """

    def __init__(
        self, models: Sequence[LocalModel], home: Path, *, start_timeout_s: float = 120.0
    ) -> None:
        self._models, self._home = models, home
        self._start_timeout_s = start_timeout_s
        self._processes: dict[LocalModel, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start all servers and wait until each is healthy.

        Raises:
            EmbeddedStackError: A port is taken, a server ended, or one took too long.
        """
        try:
            for model in self._models:
                if not is_serving(model):
                    self._spawn(model)
            deadline = time.monotonic() + self._start_timeout_s
            for model in self._models:
                self._wait_until_healthy(model, deadline)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the servers that were started here; safe to call twice."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def check(self) -> None:
        """Raise if a server that was started here has ended.

        Raises:
            EmbeddedStackError: Says which one, its exit status and its log.
        """
        for model, process in self._processes.items():
            if process.poll() is not None:
                raise EmbeddedStackError(
                    f"the server of {model.name} ended with status {process.returncode}",
                    where=str(self._log_path(model)),
                    remedy="Read the end of that log; the machine may be short of memory",
                )

    def _spawn(self, model: LocalModel) -> None:
        if not is_port_free(model.port):
            raise EmbeddedStackError(
                f"port {model.port} of {model.name} is taken by something else",
                where=model.base_url,
                remedy=f"Stop what listens there (`lsof -i :{model.port}` names it) and try again",
            )
        log = self._log_path(model)
        log.parent.mkdir(parents=True, exist_ok=True)
        path = models_folder(self._home) / model.file_name
        command = [sys.executable, "-m", "examples.local_models", "serve-one"]
        with log.open("wb") as output:
            self._processes[model] = subprocess.Popen(
                [*command, model.name, str(path), str(model.port), str(os.getpid())],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches only the parent, which then stops its servers in order.
                start_new_session=True,
            )

    def _wait_until_healthy(self, model: LocalModel, deadline: float) -> None:
        while not is_serving(model):
            self.check()
            if time.monotonic() > deadline:
                raise EmbeddedStackError(
                    f"the server of {model.name} was not up in {self._start_timeout_s:.0f} s",
                    where=str(self._log_path(model)),
                    remedy="Read the end of that log and try again when the machine is less busy",
                )
            time.sleep(_POLL_S)

    def _log_path(self, model: LocalModel) -> Path:
        return self._home / "logs" / f"model-{model.name}.log"


def is_serving(model: LocalModel) -> bool:
    """Return whether the model's port answers, is healthy and serves this model."""
    if _get(model.port, "/health") is None:
        return False
    listed = _get(model.port, "/v1/models")
    entries = listed.get("data", []) if isinstance(listed, dict) else []
    return any(isinstance(entry, dict) and entry.get("id") == model.name for entry in entries)


def is_port_free(port: int) -> bool:
    """Return whether nothing listens on this port of 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port in TIME_WAIT after a restart counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _get(port: int, path: str) -> object:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        return json.loads(body) if response.status == http.HTTPStatus.OK else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
