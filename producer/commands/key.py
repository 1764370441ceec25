"""`routoo-producer key`: the keys with which programs use the gateway."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from producer.aims import read_option
from producer.commands.options import JsonOption
from routoo.console.commands import CommandGroup
from routoo.console.output import console, json_line, note
from routoo.console.run import run_in_transaction
from routoo.domain.caller import Scope
from routoo.errors import InputError

if TYPE_CHECKING:
    from routoo.store.keys import KeyRecord

key = CommandGroup("Make, list and revoke the keys with which programs use the gateway.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the key.")]


@key.command("add")
def add_command(
    name: NameArgument,
    *,
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="What it allows; can be repeated. (default: read and submit)"),
    ] = None,
    usd_per_day: Annotated[
        str | None,
        typer.Option(
            metavar="X", help="Most that its batches and calls may cost a day (UTC), in USD."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it: it is shown this once, the database has its hash alone.

    Examples:
        routoo-producer key add notebook --usd-per-day 5
        routoo-producer key add dashboard --scope read
    """
    from producer.rows.limits import read_usd
    from routoo.settings import load_settings
    from routoo.store import keys

    if not name.strip() or not name.isprintable():
        raise InputError("this is no name", value=name, where="NAME", remedy="Give some text")
    limit_usd = read_option("--usd-per-day", partial(read_usd, "the daily limit"), usd_per_day)
    scopes = scope or [Scope.READ, Scope.SUBMIT]
    secret = keys.new_secret()

    key_id = run_in_transaction(
        load_settings(), lambda conn: keys.add(conn, name, secret, scopes, limit_usd)
    )
    if as_json:
        facts = {"id": key_id, "name": name, "scopes": scopes, "usd_per_day": limit_usd}
        typer.echo(json_line({**facts, "key": secret}))
        return
    note("Keep the key: it is not shown again.")
    typer.echo(secret)


@key.command("list")
def list_command(*, as_json: JsonOption = False) -> None:
    """List all keys with what they spent today (UTC); with --json one object a line."""
    from routoo.settings import load_settings
    from routoo.store import keys

    found = run_in_transaction(load_settings(), keys.list_all)
    if as_json:
        for record in found:
            typer.echo(json_line(_facts(record)))
        return
    _print_table(found)


@key.command("revoke")
def revoke_command(name: NameArgument) -> None:
    """Let a key open nothing any more; batches that it submitted go on."""
    from routoo.settings import load_settings
    from routoo.store import keys

    revoked = run_in_transaction(load_settings(), lambda conn: keys.revoke(conn, name))
    note("revoked" if revoked else "it was revoked before")


def _facts(record: "KeyRecord") -> dict[str, object]:
    return {
        "id": record.id,
        "name": record.name,
        "scopes": sorted(record.scopes),
        "usd_per_day": record.limit_usd,
        "spent_today_usd": record.spent_usd + record.overrun_usd,
        "reserved_usd": record.reserved_usd,
        "created_at": record.created_at,
        "revoked_at": record.revoked_at,
    }


def _print_table(found: "list[KeyRecord]") -> None:
    from rich.table import Table

    from routoo.console.formatting import usd

    titles = ("name", "scopes", "USD a day", "spent today", "made", "revoked")
    table = Table(*titles, box=None, header_style="dim")
    for record in found:
        limit = "no limit" if record.limit_usd is None else usd(record.limit_usd)
        table.add_row(
            record.name,
            ", ".join(sorted(record.scopes)),
            limit,
            usd(record.spent_usd + record.overrun_usd),
            f"{record.created_at:%Y-%m-%d}",
            "" if record.revoked_at is None else f"{record.revoked_at:%Y-%m-%d}",
        )
    console().print(table)
