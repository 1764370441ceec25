"""Dumps the database to a file and restores it, by PostgreSQL's own programs."""

import subprocess
from pathlib import Path

import psycopg

from routoo.errors import InputError, StoreError
from routoo.store.database import libpq_url, redacted, unavailable, with_password_apart

_NEWEST = "Use the programs of the server's version or a newer one"


def dump(program: str | Path, url: str, file: Path) -> None:
    """Write a consistent copy of a database to a file, while programs use it.

    Args:
        program: Path of pg_dump, of the server's version or newer.
        url: The database.
        file: Appears once it is whole; replaced where it exists.

    Raises:
        StoreError: pg_dump can't do it.
    """
    unfinished = file.with_name(f"{file.name}.unfinished")
    try:
        _run(program, url, "--format=custom", "--no-owner", "--no-privileges", "-f", unfinished)
        unfinished.rename(file)
    finally:
        unfinished.unlink(missing_ok=True)


def restore(program: str | Path, url: str, file: Path) -> None:
    """Fill an empty database with what a file holds; all of it or nothing.

    Args:
        program: Path of pg_restore, of the version that wrote the file or newer.
        url: The database.
        file: From `dump`.

    Raises:
        InputError: The database has tables already.
        DatabaseUnavailableError: It can't be reached.
        StoreError: pg_restore can't do it.
    """
    try:
        with psycopg.connect(libpq_url(url), connect_timeout=10) as conn:
            found = conn.execute("SELECT FROM pg_tables WHERE schemaname = 'public' LIMIT 1")
            is_empty = found.rowcount == 0
    except psycopg.OperationalError as error:
        raise unavailable(url, error) from error
    if not is_empty:
        raise InputError(
            "the database isn't empty, and what it holds would be mixed with the file's",
            where=redacted(url),
            remedy="Create a new database and name it in ROUTOO_DATABASE_URL",
        )
    _run(program, url, "--single-transaction", "--no-owner", "--no-privileges", file, of="-d")


def _run(program: str | Path, url: str, *arguments: str | Path, of: str = "--dbname") -> None:
    name, environment = with_password_apart(url)
    done = subprocess.run(  # noqa: S603 - the database's own program
        [str(program), of, name, *map(str, arguments)],
        env=environment,
        umask=0o077,  # a copy holds every prompt and answer
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()
        raise StoreError(
            f"{Path(program).name} failed: {said[0]}",
            where=redacted(url),
            remedy=_NEWEST if "version" in done.stderr else None,
        )
