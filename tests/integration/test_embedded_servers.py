"""The embedded servers: concurrent starts, crashes, shared use, awkward folders."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import psycopg
import pytest
from kombu import Connection

from routoo.embedded.folders import SHARED_BASE, create_folders, server_folders
from routoo.embedded.postgres import EmbeddedPostgres
from routoo.embedded.server import EmbeddedServer, is_serving
from routoo.embedded.stack import embedded_stack
from routoo.embedded.valkey import EmbeddedValkey
from routoo.errors import EmbeddedStackError
from routoo.settings import Settings
from tests.services import short_folder

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="root's servers run as nobody")
SERVERS = (EmbeddedPostgres, EmbeddedValkey)

_USER = """
import sys
from pathlib import Path
from routoo.embedded.{module} import {name}
server = {name}(Path(sys.argv[1]))
print(server.start(), flush=True)
sys.stdin.read()
print(server.stop(), flush=True)
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """Home folder of this module's servers; each test leaves them stopped."""
    with short_folder() as folder:
        yield folder


class _User:
    """Another process that uses a server."""

    def __init__(self, server: EmbeddedServer, home: Path) -> None:
        kind = type(server)
        code = _USER.format(module=kind.__module__.rpartition(".")[2], name=kind.__name__)
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def printed(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def leave(self) -> str:
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self.printed()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()


@contextmanager
def _used(server: EmbeddedServer) -> Iterator[str]:
    url = server.start()
    try:
        yield url
    finally:
        server.stop()


def _pid_file(server: EmbeddedServer) -> Path:
    name = "data/postmaster.pid" if isinstance(server, EmbeddedPostgres) else "pid"
    return server._folders.folder / name


def _kill(server: EmbeddedServer) -> None:
    os.kill(int(_pid_file(server).read_text().split()[0]), signal.SIGKILL)


@pytest.mark.parametrize("kind", SERVERS)
def test_programs_that_start_together_share_one_server(
    home: Path, kind: type[EmbeddedServer]
) -> None:
    server = kind(home)
    with ExitStack() as stack:
        users = [stack.enter_context(_User(server, home)) for _ in range(4)]

        assert [user.printed() for user in users] == [server.url] * 4
        assert [user.leave() for user in users] == ["False", "False", "False", "True"]

    assert not server.is_running()


def test_committed_rows_survive_the_death_of_postgresql(home: Path) -> None:
    server = EmbeddedPostgres(home)
    with _used(server) as url:
        with psycopg.connect(url) as conn:
            conn.execute("CREATE TABLE kept AS SELECT 42 AS n")
        _kill(server)
        with _used(EmbeddedPostgres(home)), psycopg.connect(url) as conn:
            assert conn.execute("SELECT n FROM kept").fetchone() == (42,)
            conn.execute("DROP TABLE kept")


def test_messages_survive_a_restart_of_the_broker(home: Path) -> None:
    server = EmbeddedValkey(home)
    with _used(server) as url, Connection(url) as connection:
        connection.SimpleQueue("kept").put({"n": 42})

    with _used(server) as url, Connection(url) as connection:
        message = connection.SimpleQueue("kept").get(timeout=5)
        message.ack()

    assert message.payload == {"n": 42}


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_that_was_killed_starts_again(home: Path, kind: type[EmbeddedServer]) -> None:
    server = kind(home)
    with _used(server):
        for _ in range(2):
            _kill(server)
            with _used(kind(home)):
                assert server.is_running()


@pytest.mark.parametrize("kind", SERVERS)
def test_a_user_that_was_killed_does_not_keep_the_server_up(
    home: Path, kind: type[EmbeddedServer]
) -> None:
    server = kind(home)
    with _User(server, home) as user:
        user.printed()
        server.start()
        user.kill()

        assert server.stop()


@pytest.mark.parametrize("kind", SERVERS)
def test_a_kept_server_outlives_its_users_until_it_is_shut_down(
    home: Path, kind: type[EmbeddedServer]
) -> None:
    server, user = kind(home), kind(home)
    server.start()
    server.keep()
    assert not server.stop()

    with _used(user):
        assert not server.shut_down()  # in use
    server.start()
    server.keep()
    server.stop()

    assert server.is_running()
    assert server.shut_down()
    assert not server.is_running()
    assert server.shut_down()  # again: nothing to do


def test_the_pid_of_another_program_is_not_trusted(home: Path) -> None:
    server = EmbeddedPostgres(home)
    with _used(server):
        pass
    _pid_file(server).write_text(f"{os.getpid()}\n")

    with _used(server):
        assert server.is_running()


def test_a_server_that_cannot_start_shows_the_end_of_its_log(home: Path) -> None:
    server = EmbeddedPostgres(home, {"shared_buffers": "'much'"})

    with pytest.raises(EmbeddedStackError, match="invalid value for parameter"):
        server.start()

    assert EmbeddedPostgres(home).shut_down()


def test_nothing_listens_on_a_network_and_other_users_cannot_enter(home: Path) -> None:
    server = EmbeddedPostgres(home)
    with _used(server) as url, psycopg.connect(url) as conn:
        assert conn.execute("SHOW listen_addresses").fetchone() == ("",)

    for server in (EmbeddedPostgres(home), EmbeddedValkey(home)):
        assert server._folders.folder.stat().st_mode & 0o777 == 0o700


def test_the_callers_postgres_variables_lead_nowhere(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGPORT": "1", "PGDATA": "/nowhere", "PGDATABASE": "other"}.items():
        monkeypatch.setenv(name, value)

    with _used(EmbeddedPostgres(home)) as url, psycopg.connect(url) as conn:
        assert conn.execute("SELECT current_database()").fetchone() == ("routoo",)


def test_the_stack_starts_what_has_no_url_and_stops_it(home: Path) -> None:
    settings = Settings(home=home)
    with embedded_stack(settings) as (database_url, broker_url):
        with psycopg.connect(database_url), Connection(broker_url) as connection:
            connection.ensure_connection(max_retries=1)
        given = Settings(home=home, database_url="postgresql://db", broker_url="amqp://mq")
        with embedded_stack(given) as urls:
            assert urls == ("postgresql://db", "amqp://mq")

    assert not EmbeddedPostgres(home).is_running()
    assert not EmbeddedValkey(home).is_running()


def test_a_long_path_moves_the_socket_to_a_short_one(home: Path) -> None:
    server = EmbeddedValkey(home / ("x" * 100))
    with _used(server):
        assert server.is_running()
        assert len(str(server._socket)) < 60

    server._folders.socket_folder.rmdir()


def test_a_socket_folder_of_someone_else_is_refused(home: Path) -> None:
    site = server_folders(home / ("y" * 100), "valkey")
    site.socket_folder.symlink_to("/etc")

    try:
        with pytest.raises(EmbeddedStackError, match="someone else"):
            create_folders(site)
    finally:
        site.socket_folder.unlink()


@only_root
def test_roots_servers_stand_where_nobody_can_reach_them(home: Path) -> None:
    closed = home / "closed"
    closed.mkdir(mode=0o700)

    assert server_folders(closed / "home", "postgres").folder.is_relative_to(SHARED_BASE)
    assert server_folders(home, "postgres").folder.is_relative_to(home)


@only_root
def test_programs_that_nobody_can_read_are_copied(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routoo.embedded.server.anyone_can_run", lambda _: False)

    server = EmbeddedValkey(home / "copied")
    for _ in range(2):
        with _used(server):
            executable = Path(f"/proc/{_pid_file(server).read_text().strip()}/exe").readlink()
            assert executable.is_relative_to(home)


def test_a_pid_file_of_nonsense_names_no_server(tmp_path: Path) -> None:
    for text in ("", "nonsense", "0"):
        (tmp_path / "pid").write_text(text)
        assert not is_serving(tmp_path / "pid", tmp_path)
