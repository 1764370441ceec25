"""`routoo db`: the database's schema, and the embedded server."""

import subprocess
from typing import Annotated

import typer

from routoo.console.commands import CommandGroup
from routoo.embedded.postgres import EmbeddedPostgres
from routoo.embedded.stack import database_url, embedded_stack
from routoo.errors import ConfigError, EmbeddedStackError
from routoo.settings import Settings, load_settings
from routoo.store.location import redacted

app = db = CommandGroup("The database's schema, and the embedded server.")


@app.command()
def upgrade() -> None:
    """Bring the database to the newest schema; safe to repeat, and while programs start."""
    from routoo.store import migrate

    with embedded_stack(load_settings(), broker=False) as (url, _):
        typer.echo(f"{redacted(url)} is at revision {migrate.upgrade(url)}")


@app.command()
def current() -> None:
    """Show the revision of the database's schema; exit status 1 where it is not the newest."""
    from routoo.store import migrate

    with embedded_stack(load_settings(), broker=False) as (url, _):
        revision, newest = migrate.current(url), migrate.head()
    if revision == newest:
        typer.echo(f"{revision} (the newest)")
        return
    typer.echo(f"{revision or 'none'} (the newest is {newest}: run `routoo db upgrade`)")
    raise typer.Exit(1)


@app.command()
def url() -> None:
    """Print the database's URL, without its password."""
    settings = load_settings()
    # The embedded server has no password, and its socket stands in the URL's query.
    found = database_url(settings)
    typer.echo(found if settings.embedded_database else redacted(found))


@app.command()
def start() -> None:
    """Start the embedded server and leave it running until `routoo db stop`."""
    server = _embedded(load_settings())
    server.start()
    server.keep()
    server.stop()  # our use of it ends; kept, it runs on
    typer.echo(f"PostgreSQL runs: {server.url}")


@app.command()
def stop() -> None:
    """Stop the embedded server, unless a program uses it."""
    if not _embedded(load_settings()).shut_down():
        raise EmbeddedStackError(
            "PostgreSQL is in use and runs on",
            remedy="End the programs that use it; the last one stops it",
        )
    typer.echo("PostgreSQL is stopped")


@app.command()
def status() -> None:
    """Say whether the embedded server runs; exit status 1 where it doesn't."""
    running = _embedded(load_settings()).is_running()
    typer.echo("PostgreSQL runs" if running else "PostgreSQL is stopped")
    raise typer.Exit(0 if running else 1)


@app.command()
def psql(
    command: Annotated[
        str | None, typer.Option("--command", "-c", help="SQL to run instead of a prompt.")
    ] = None,
) -> None:
    """Open a prompt on the embedded database, or run one command."""
    server = _embedded(load_settings())
    arguments = ["-c", command] if command else []
    server.start()
    try:
        done = subprocess.run([server.psql, server.url, *arguments], check=False)  # noqa: S603 - of the installed package
    finally:
        server.stop()
    raise typer.Exit(done.returncode)


def _embedded(settings: Settings) -> EmbeddedPostgres:
    if not settings.embedded_database:
        raise ConfigError(
            "the database is not the embedded one",
            where="ROUTOO_DATABASE_URL",
            remedy="Unset it to use the embedded server",
        )
    return EmbeddedPostgres(settings.home)
