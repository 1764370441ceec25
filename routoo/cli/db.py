"""`routoo db`: migrate the database's schema, and start or stop the embedded server."""

from typing import TYPE_CHECKING, Annotated

import typer

from routoo.console.commands import CommandGroup

if TYPE_CHECKING:
    from routoo.embedded.postgres import EmbeddedPostgres

db = CommandGroup("The database's schema, and the embedded server.")


@db.command()
def upgrade() -> None:
    """Bring the database to the newest schema; safe to repeat, and while programs start."""
    from routoo.embedded.stack import embedded_stack
    from routoo.settings import load_settings
    from routoo.store import migrate
    from routoo.store.database import redacted

    with embedded_stack(load_settings(), broker=False) as (url, _):
        typer.echo(f"{redacted(url)} is at revision {migrate.upgrade(url)}")


@db.command()
def current() -> None:
    """Show the revision of the database's schema; exit status 1 where it is not the newest."""
    from routoo.embedded.stack import embedded_stack
    from routoo.settings import load_settings
    from routoo.store import migrate

    with embedded_stack(load_settings(), broker=False) as (url, _):
        revision, newest = migrate.current(url), migrate.head()
    if revision == newest:
        typer.echo(f"{revision} (the newest)")
        return
    typer.echo(f"{revision or 'none'} (the newest is {newest}: run `routoo db upgrade`)")
    raise typer.Exit(1)


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
        str | None, typer.Option("--command", "-c", help="SQL to run instead of a prompt.")
    ] = None,
) -> None:
    """Open a prompt on the embedded database, or run one command."""
    import subprocess

    server = _embedded_server()
    arguments = ["-c", command] if command else []
    server.start()
    try:
        done = subprocess.run([server.psql, server.url, *arguments], check=False)  # noqa: S603 - of the installed package
    finally:
        server.stop()
    raise typer.Exit(done.returncode)


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
