"""PostgreSQL over TLS: certificates are checked where the URL says so."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from routoo.embedded.folders import server_user
from routoo.errors import DatabaseUnavailableError
from routoo.store import administration
from routoo.store.database import Database
from tests.dispatch_factory import rows
from tests.services import short_folder

_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        not _PROGRAMS or shutil.which("openssl") is None,
        reason="needs Debian's PostgreSQL, since the embedded one speaks no TLS, and openssl",
    ),
]
_PASSWORD = "se/cret"  # noqa: S105 - of a server that lives as long as these tests


@dataclass(frozen=True)
class Server:
    """A server that takes connections over TLS alone."""

    port: int
    authority: Path
    """The certificate of the authority that signed its own, which is for `localhost`."""
    other: Path
    """That of another authority."""

    def url(self, authority: Path, host: str = "localhost", mode: str = "verify-full") -> str:
        """Return a URL that has certificates checked by an authority."""
        options = f"sslmode={mode}&sslrootcert={quote(str(authority), safe='')}"
        return (
            f"postgresql://routoo:{quote(_PASSWORD, safe='')}@{host}:{self.port}/postgres?{options}"
        )


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def _authority(folder: Path, name: str) -> Path:
    path = folder / f"{name}.pem"
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    _openssl(
        "req", "-x509", *new_key, "-days", "2", "-subj", f"/CN={name}",
        "-keyout", folder / f"{name}.key", "-out", path,
    )  # fmt: skip
    return path


def _sign(folder: Path, authority: Path) -> tuple[Path, Path]:
    key, request, signed = (folder / f"server.{end}" for end in ("key", "csr", "pem"))
    names = folder / "names"
    names.write_text("subjectAltName=DNS:localhost")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    _openssl("req", *new_key, "-subj", "/CN=test", "-keyout", key, "-out", request)
    _openssl(
        "x509", "-req", "-in", request, "-CA", authority, "-CAkey", authority.with_suffix(".key"),
        "-CAcreateserial", "-days", "2", "-extfile", names, "-out", signed,
    )  # fmt: skip
    return signed, key


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of Debian's with a certificate of an authority of our own."""
    with short_folder() as folder, socket.socket() as free:
        user, data = server_user(), folder / "data"
        authority, other = _authority(folder, "authority"), _authority(folder, "other")
        certificate, key = _sign(folder, authority)
        shutil.chown(folder, user.uid, user.gid)
        shutil.chown(key, user.uid, user.gid)
        (folder / "password").write_text(_PASSWORD)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()

        def run(name: str, *arguments: str | Path) -> None:
            subprocess.run(
                [_PROGRAMS[-1].with_name(name), "-D", data, *arguments],
                check=True, cwd=folder, stdout=subprocess.DEVNULL, **user.subprocess_arguments,
            )  # fmt: skip

        run("initdb", "-U", "routoo", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}")
        (data / "pg_hba.conf").write_text("hostssl all all all scram-sha-256\n")
        options = {
            "ssl": "on", "ssl_cert_file": certificate, "ssl_key_file": key, "port": port,
            "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off",
        }  # fmt: skip
        with (data / "postgresql.conf").open("a") as stream:
            stream.writelines(f"{name} = '{value}'\n" for name, value in options.items())
        run("pg_ctl", "-w", "-s", "-l", folder / "log", "start")
        try:
            yield Server(port, authority, other)
        finally:
            run("pg_ctl", "-w", "-s", "-m", "immediate", "stop")


async def test_a_server_whose_certificate_is_right_is_used_over_tls(server: Server) -> None:
    url = server.url(server.authority)
    assert administration.upgrade(url) == administration.newest_revision()
    async with Database(url) as db:
        encrypted = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        ((is_encrypted, version),) = await rows(db, encrypted)
        assert is_encrypted
        assert version in {"TLSv1.2", "TLSv1.3"}


@pytest.mark.parametrize("wrong", ["authority", "name", "no TLS"])
async def test_a_server_that_can_not_prove_its_name_is_refused(server: Server, wrong: str) -> None:
    url = {
        "authority": server.url(server.other),
        "name": server.url(server.authority, "127.0.0.1"),
        "no TLS": server.url(server.authority, mode="disable"),
    }[wrong]
    said = {
        "authority": "certificate verify failed",
        "name": "does not match host name",
        "no TLS": "no encryption",
    }[wrong]
    for use in (administration.current_revision, administration.upgrade):
        with pytest.raises(DatabaseUnavailableError, match=said) as refused:
            use(url)
        assert "se/cret" not in str(refused.value)
        assert quote(_PASSWORD, safe="") not in str(refused.value)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
