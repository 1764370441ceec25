"""`routoo db`: migrate the database's schema, and start or stop the embedded server."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from routoo.console.commands import CommandGroup

if TYPE_CHECKING:
    from routoo.embedded.postgres import EmbeddedPostgres
    from routoo.settings import Settings

db = CommandGroup("The database's schema, and the embedded server.")


@db.command()
def upgrade() -> None:
    """Bring the database to the newest schema; safe to repeat, and while programs start."""
    from routoo.embedded.stack import embedded_stack
    from routoo.settings import load_settings
    from routoo.store import administration
    from routoo.store.database import redacted

    with embedded_stack(load_settings(), broker=False) as (url, _):
        typer.echo(f"{redacted(url)} is at revision {administration.upgrade(url)}")


@db.command()
def current() -> None:
    """Show the revision of the database's schema; exit status 1 where it is not the newest."""
    from routoo.embedded.stack import embedded_stack
    from routoo.settings import load_settings
    from routoo.store import administration

    with embedded_stack(load_settings(), broker=False) as (url, _):
        revision, newest = administration.current_revision(url), administration.newest_revision()
    if revision == newest:
        typer.echo(f"{revision} (the newest)")
        return
    typer.echo(f"{revision or 'none'} (the newest is {newest}: run `routoo db upgrade`)")
    raise typer.Exit(1)


@db.command()
def roles(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object a role.")] = False,
) -> None:
    """Make database roles with no more rights than each kind of process needs; safe to repeat.

    They have no login: make users of your own members of them, and give each process its user's
    URL. Run it as the owner of the tables, who may create roles. Nobody else may create tables.

    Examples:
        routoo db roles
        routoo db psql -c "CREATE ROLE scorer LOGIN PASSWORD '...' IN ROLE routoo_scorer"
    """
    from routoo.console.output import json_line
    from routoo.embedded.stack import embedded_stack
    from routoo.settings import load_settings
    from routoo.store.administration import ROLES, create_roles

    with embedded_stack(load_settings(), broker=False) as (found, _):
        create_roles(found)
    for name, role in ROLES.items():
        facts = {"role": name, "purpose": role.purpose}
        typer.echo(json_line(facts) if as_json else f"{name}: {role.purpose}")


@db.command()
def url() -> None:
    """Print the database's URL, without its password."""
    from routoo.embedded.stack import database_url
    from routoo.settings import load_settings
    from routoo.store.database import redacted

    settings = load_settings()
    # The embedded server has no password, and its socket stands in the URL's query.
    found = database_url(settings)
    typer.echo(found if settings.embedded_database else redacted(found))


@db.command()
def start() -> None:
    """Start the embedded server and leave it running until `routoo db stop`."""
    server = _embedded_server()
    server.start()
    server.keep()
    server.stop()  # our use of it ends; kept, it runs on
    typer.echo(f"PostgreSQL runs: {server.url}")


@db.command()
def stop() -> None:
    """Stop the embedded server, unless a program uses it."""
    from routoo.errors import EmbeddedStackError

    if not _embedded_server().shut_down():
        raise EmbeddedStackError(
            "PostgreSQL is in use and runs on",
            remedy="End the programs that use it; the last one stops it",
        )
    typer.echo("PostgreSQL is stopped")


@db.command()
def status() -> None:
    """Say whether the embedded server runs; exit status 1 where it doesn't."""
    running = _embedded_server().is_running()
    typer.echo("PostgreSQL runs" if running else "PostgreSQL is stopped")
    raise typer.Exit(0 if running else 1)


@db.command()
def psql(
    command: Annotated[
        str | None, typer.Option("--command", "-c", metavar="SQL", help="Run this, then end.")
    ] = None,
) -> None:
    """Open psql, PostgreSQL's prompt, on the database, or run one command with it.

    The embedded server brings its psql along; for another server the machine needs one, and
    `routoo db query` does without.

    Examples:
        routoo db psql
        routoo db psql -c "SELECT custom_id, model, answer FROM batch_results LIMIT 5"
    """
    import subprocess

    from routoo.embedded.stack import embedded_stack
    from routoo.settings import load_settings
    from routoo.store.database import with_password_apart

    settings = load_settings()
    arguments = ["-c", command] if command else []
    with embedded_stack(settings, broker=False) as (found, _):
        url, environment = with_password_apart(found)
        program = _client(settings, "psql")
        done = subprocess.run([program, url, *arguments], env=environment, check=False)  # noqa: S603 - the database's own program
    raise typer.Exit(done.returncode)


_FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", dir_okay=False, help="In pg_dump's custom format.")
]


@db.command()
def dump(file: _FileArgument) -> None:
    """Write a copy of the database to a file, as of this moment, while workers go on.

    It is made by pg_dump: the embedded server brings its own; another server needs one of its
    version on this machine. Checkpoints are folders and not in it.

    Example:
        routoo db dump routoo.dump
    """
    from routoo.embedded.stack import embedded_stack
    from routoo.settings import load_settings
    from routoo.store import administration

    settings = load_settings()
    with embedded_stack(settings, broker=False) as (found, _):
        administration.dump(_client(settings, "pg_dump"), found, file)
    typer.echo(f"{file}: {file.stat().st_size:,} bytes")


@db.command()
def restore(file: _FileArgument) -> None:
    """Fill an empty database with a file of `routoo db dump`, and bring it to the newest schema.

    No worker may use the database meanwhile. Batches go on from the moment of the dump: calls that
    were made later are not known to it and are made again.

    Example:
        ROUTOO_DATABASE_URL=postgresql://user@host/new routoo db restore routoo.dump
    """
    from routoo.embedded.stack import embedded_stack
    from routoo.settings import load_settings
    from routoo.store import administration
    from routoo.store.database import redacted

    settings = load_settings()
    with embedded_stack(settings, broker=False) as (found, _):
        administration.restore(_client(settings, "pg_restore"), found, file)
        typer.echo(f"{redacted(found)} is restored, at revision {administration.upgrade(found)}")


@db.command()
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One statement; it only reads.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object a row.")] = False,
) -> None:
    """Run one statement on the database, which it can't change, and print its rows.

    Example:
        routoo db query "SELECT status, count(*) FROM batch_results GROUP BY status"
    """
    from routoo.console.output import console, json_line, report_table
    from routoo.console.run import run_with_database
    from routoo.settings import load_settings
    from routoo.store.database import read_rows

    names, rows = run_with_database(load_settings(), lambda database: read_rows(database, sql))
    if as_json:
        for row in rows:
            typer.echo(json_line(dict(zip(names, row, strict=True))))
        return
    table = report_table(*names)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    console().print(table)


def _client(settings: "Settings", name: str) -> str:
    import shutil

    from routoo.embedded.postgres import EmbeddedPostgres
    from routoo.errors import NotFoundError

    if settings.embedded_database:
        return str(EmbeddedPostgres(settings.home).client(name))
    found = shutil.which(name)
    if found is None:
        remedy = "Install PostgreSQL's client programs of the server's version"
        if name == "psql":
            remedy = "Use `routoo db query SQL`"
        raise NotFoundError(f"there is no {name} on this machine", remedy=remedy)
    return found


def _embedded_server() -> "EmbeddedPostgres":
    from routoo.embedded.postgres import EmbeddedPostgres
    from routoo.errors import ConfigError
    from routoo.settings import load_settings

    settings = load_settings()
    if not settings.embedded_database:
        raise ConfigError(
            "the database is not the embedded one",
            where="ROUTOO_DATABASE_URL",
            remedy="Unset it to use the embedded server",
        )
    return EmbeddedPostgres(settings.home)
