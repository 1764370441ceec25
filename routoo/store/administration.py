"""Does what an operator does with the database: migrates, dumps and restores it, makes its roles.

Alembic and SQLAlchemy take a second of CPU time to import: they are loaded where there is a
migration to run, and not by a command that only finds its database up to date.

Roles have no more rights than a kind of process needs. They are groups without a login: an operator
makes users of his own members of them. None of them may change the schema, empty a table, or change
a fact that was written; those belong to the owner of the schema, who migrates it.
"""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from routoo.errors import InputError, StoreError
from routoo.settings import REPOSITORY
from routoo.store.database import first_line, libpq_url, redacted, unavailable, with_password_apart

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

_MIGRATIONS = REPOSITORY / "migrations"
_LOCK_KEY = 0x726F_7574_6F6F
"""Advisory lock of the migrations: the letters of the project's name."""

_CONNECT_TIMEOUT_S = 10
_NEWEST = "Use the programs of the server's version or a newer one"


def upgrade(url: str) -> str:
    """Bring a database to the newest schema; any number of programs may do so at once.

    The roles get their rights to it, where the user of the URL may create roles.

    Args:
        url: The database.

    Returns:
        The revision it now has.

    Raises:
        DatabaseUnavailableError: It can't be reached.
        StoreError: A migration failed; the ones before it stand.
    """
    newest = newest_revision()
    if current_revision(url) != newest:
        _run_migrations(url)
        _update_roles(url)
    return newest


def current_revision(url: str) -> str | None:
    """Return the revision of a database's schema, None where it has none yet.

    Raises:
        DatabaseUnavailableError: It can't be reached.
    """
    try:
        with _connect(url) as conn:
            found = conn.execute("SELECT to_regclass('alembic_version') IS NOT NULL").fetchone()
            if found != (True,):
                return None
            row = conn.execute("SELECT version_num FROM alembic_version").fetchone()
            return None if row is None else str(row[0])
    except psycopg.OperationalError as error:
        raise unavailable(url, error) from error


def newest_revision() -> str:
    """Return the newest revision that this code knows.

    Migrations form one line, and each file's name begins with its revision.
    """
    names = [path.name for path in (_MIGRATIONS / "versions").glob("[0-9]*.py")]
    if not names:
        raise StoreError("no migrations are installed", where=str(_MIGRATIONS))
    return max(names).partition("_")[0]


def _run_migrations(url: str) -> None:
    from alembic import command
    from sqlalchemy import text

    with _connected(url) as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK_KEY})
        connection.commit()  # the lock is the session's and outlives each migration's transaction
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()


def _config() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config


@contextmanager
def _connected(url: str) -> Iterator["Connection"]:
    from sqlalchemy import NullPool, create_engine
    from sqlalchemy.exc import SQLAlchemyError

    # libpq reads the URL itself, so every form of it means the same here and on hot paths.
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: _connect(url), poolclass=NullPool
    )
    try:
        with engine.connect() as connection:
            yield connection
    except psycopg.OperationalError as error:
        raise unavailable(url, error) from error
    except SQLAlchemyError as error:
        if isinstance(error.__cause__, psycopg.OperationalError):
            raise unavailable(url, error.__cause__) from error
        raise StoreError("a migration failed", where=redacted(url), value=str(error)) from error
    finally:
        engine.dispose()


def _connect(url: str) -> psycopg.Connection:
    return psycopg.connect(libpq_url(url), connect_timeout=_CONNECT_TIMEOUT_S)


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
    if _has_tables(url):
        raise InputError(
            "the database isn't empty, and what it holds would be mixed with the file's",
            where=redacted(url),
            remedy="Create a new database and name it in ROUTOO_DATABASE_URL",
        )
    _run(program, url, "--single-transaction", "--no-owner", "--no-privileges", file, of="-d")


def _has_tables(url: str) -> bool:
    try:
        with psycopg.connect(libpq_url(url), connect_timeout=10) as conn:
            found = conn.execute("SELECT FROM pg_tables WHERE schemaname = 'public' LIMIT 1")
            return found.rowcount > 0
    except psycopg.OperationalError as error:
        raise unavailable(url, error) from error


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


_SHARD = (
    "state, owner, epoch, attempts, progress, error, lease_expires_at, not_before, waits_for,"
    " waits_usd, next_deadline"
)
_MONEY = "reserved_usd, spent_usd, overrun_usd"
_ENDED = "status, error, completed_at"


@dataclass(frozen=True, slots=True)
class DatabaseRole:
    """What one kind of process may do."""

    purpose: str
    grants: Mapping[str, str]
    """Privileges by table, as GRANT reads them."""
    reads_all: bool = False
    """Whether it may read every table."""


_READ, _ADD = "SELECT", "SELECT, INSERT"
_KEEP = "SELECT, INSERT, UPDATE, DELETE"
_WORKER = {"alembic_version": _READ, "workers": _KEEP}
ROLES: Mapping[str, DatabaseRole] = {
    "routoo_scorer": DatabaseRole(
        "scores prompts: sees no answers and no keys, spends no money",
        {
            **_WORKER,
            "batches": f"SELECT, UPDATE ({_ENDED})",
            "jobs": _READ,
            "shards": f"SELECT, UPDATE ({_SHARD})",
            **dict.fromkeys(("predictions", "request_facts", "floors", "prompt_factors"), _ADD),
            **dict.fromkeys(("judges", "batch_judges", "checkpoints"), _ADD),
            "checkpoint_promotions": _READ,
            # How far a shard is, and whether a batch that is over still has work. Triggers (0042)
            # let who may not write results change score shards alone, and no batch but to fail it.
            **dict.fromkeys(("results", "kept_answers"), "SELECT (batch_id, job_no)"),
            "provider_batches": "SELECT (batch_id, shard_no, state)",
        },
    ),
    "routoo_dispatcher": DatabaseRole(
        "selects models and calls them: makes no jobs, raises no budget, sees no keys",
        {
            **_WORKER,
            "batches": f"SELECT, UPDATE ({_ENDED}, plan)",
            "jobs": _READ,
            "shards": f"SELECT, UPDATE ({_SHARD}, fallback_usd)",
            **dict.fromkeys(("predictions", "request_facts", "floors", "prompt_factors"), _READ),
            **dict.fromkeys(("judges", "batch_judges", "checkpoints"), _READ),
            "checkpoint_promotions": _READ,
            **dict.fromkeys(("assignments", "followers", "attempts", "results"), _ADD),
            **dict.fromkeys(("answer_judgements", "budget_warnings", "batch_counts"), _ADD),
            "kept_answers": _ADD,
            "reservations": _KEEP,
            "ledgers": f"SELECT, UPDATE ({_MONEY}, fallback_usd)",
            "key_ledgers": f"SELECT, UPDATE ({_MONEY}, day)",
            "replans": "SELECT, INSERT, UPDATE",
            **dict.fromkeys(("endpoints", "endpoint_behaviour"), "SELECT, INSERT, UPDATE"),
            **dict.fromkeys(("provider_batches", "provider_rows"), "SELECT, INSERT, UPDATE"),
            "response_cache": _KEEP,
        },
    ),
    "routoo_producer": DatabaseRole(
        "submits, follows, ends and deletes batches, and keeps the gateway's keys and files",
        {
            **dict.fromkeys(("batches", "shards", "ledgers", "grades", "replans"), _KEEP),
            **dict.fromkeys(("batch_counts", "provider_batches"), _KEEP),
            **dict.fromkeys(("api_keys", "key_ledgers", "files", "file_parts"), _KEEP),
            **dict.fromkeys(("api_batches", "single_calls", "streams", "stream_batches"), _KEEP),
            **dict.fromkeys(("schedules", "schedule_firings", "schedule_batches"), _KEEP),
            **dict.fromkeys(("eval_sets", "eval_items", "eval_runs", "eval_alerts"), _KEEP),
            **dict.fromkeys(("batch_webhooks", "endpoints"), _KEEP),
            # Facts: written and deleted with their batch, never changed.
            **dict.fromkeys(("jobs", "predictions", "floors"), "SELECT, INSERT, DELETE"),
            **dict.fromkeys(
                ("request_facts", "prompt_factors", "batch_judges"), "SELECT, INSERT, DELETE"
            ),
            **dict.fromkeys(
                ("attempts", "results", "superseded_results"), "SELECT, INSERT, DELETE"
            ),
            **dict.fromkeys(("assignments", "followers", "reservations"), "SELECT, DELETE"),
            **dict.fromkeys(("kept_answers", "answer_judgements"), "SELECT, DELETE"),
            **dict.fromkeys(("provider_rows", "budget_warnings"), "SELECT, DELETE"),
            **dict.fromkeys(("checkpoints", "checkpoint_promotions"), _ADD),
            "endpoint_behaviour": "SELECT, INSERT, UPDATE",
        },
        reads_all=True,
    ),
    "routoo_beat": DatabaseRole(
        "does periodic work: all that the other three may", {}, reads_all=True
    ),
}
"""By name."""
_MEMBERS = ("routoo_scorer", "routoo_dispatcher", "routoo_producer")


def create_roles(url: str) -> None:
    """Make the roles, or bring their rights up to date; what was granted beside is taken back.

    Args:
        url: The migrated database, as the owner of its tables, who may create roles.

    Raises:
        DatabaseUnavailableError: It can't be reached.
        StoreError: The database refuses it: the user may not create roles, or a table is missing.
    """
    try:
        with psycopg.connect(libpq_url(url), connect_timeout=10) as conn:
            # Before version 15 everybody may create tables there; from here on the owner alone.
            conn.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
            _create_roles(conn)
    except psycopg.OperationalError as error:
        raise unavailable(url, error) from error
    except psycopg.Error as error:
        raise StoreError(
            f"the database refused to make the roles: {first_line(error)}",
            where=redacted(url),
            remedy="Run `routoo db upgrade`; be the owner of the tables, with CREATEROLE",
        ) from error


_MAY_CREATE_ROLES = """
    SELECT FROM pg_roles WHERE rolname = current_user AND (rolsuper OR rolcreaterole)
"""


def _update_roles(url: str) -> None:
    """Make the roles, or give them their rights to a new schema, as far as the user may do so.

    Raises:
        DatabaseUnavailableError: It can't be reached.
    """
    try:
        with _connect(url) as conn:
            if conn.execute(_MAY_CREATE_ROLES).rowcount:
                _create_roles(conn)
    except psycopg.errors.InsufficientPrivilege:
        return  # somebody else made them: they are that user's to change, by `routoo db roles`
    except psycopg.OperationalError as error:
        raise unavailable(url, error) from error


_IS_ROLE = "SELECT FROM pg_roles WHERE rolname = %s"
_IS_MEMBER = "SELECT FROM pg_auth_members WHERE roleid = %s::regrole AND member = %s::regrole"


def _create_roles(conn: psycopg.Connection) -> None:
    # Roles are the server's: two databases may make them at once, and a lock is one database's.
    for name in ROLES:
        make = sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(name))
        _unless_there(conn, _IS_ROLE, [name], make)
    for name in _MEMBERS:
        make = sql.SQL("GRANT {} TO routoo_beat").format(sql.Identifier(name))
        _unless_there(conn, _IS_MEMBER, [name, "routoo_beat"], make)
    conn.execute("SELECT pg_advisory_xact_lock(hashtext('routoo roles'))")
    for name, role in ROLES.items():
        _grant(conn, name, role)


def _unless_there(
    conn: psycopg.Connection, look: str, values: list[str], statement: sql.Composed
) -> None:
    """Make something of the server's that is not there, and that another program may make too."""
    if conn.execute(look.encode(), values).rowcount:
        return
    try:
        with conn.transaction():
            conn.execute(statement)
    except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
        return


def _grant(conn: psycopg.Connection, name: str, role: DatabaseRole) -> None:
    who = sql.Identifier(name)
    conn.execute(sql.SQL("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {}").format(who))
    conn.execute(sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(who))
    if role.reads_all:
        conn.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}").format(who))
    for table, privileges in role.grants.items():
        granted = (sql.SQL(privileges), sql.Identifier(table), who)
        conn.execute(sql.SQL("GRANT {} ON {} TO {}").format(*granted))
