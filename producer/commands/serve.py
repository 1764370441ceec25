"""`routoo-producer serve`: an HTTP API as OpenAI's, and a page to look at."""

import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from routoo.console.commands import with_options
from routoo.console.output import note
from routoo.console.run import run_in_transaction, usable_database
from routoo.domain.networks import is_loopback
from routoo.errors import ConfigError, InputError

if TYPE_CHECKING:
    import uvicorn

    from producer.gateway.options import GatewayOptions
    from routoo.domain.pool import Pool
    from routoo.settings import Settings

_MIB = 2**20
_GRACE_S = 10
"""How long answers under way may take once the gateway is asked to stop, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Options as they were typed; their help is each field's documentation."""

    host: Annotated[
        str, typer.Option(metavar="HOST", help="Address to listen on; others need keys.")
    ] = "127.0.0.1"
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port; 0 takes a free one.")
    ] = 8400
    pool: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="Pool file that requests may name; the first is used where they name none; can "
            "be repeated. (default: ROUTOO_POOL, as default)",
        ),
    ] = None
    no_keys: Annotated[
        bool,
        typer.Option("--no-keys", help="Let in whoever can connect, without a key, for all."),
    ] = False
    max_file_mib: Annotated[
        int, typer.Option(min=1, metavar="MIB", help="Largest file that may be uploaded.")
    ] = 2048
    max_request_mib: Annotated[
        int, typer.Option(min=1, metavar="MIB", help="Largest body of any other request.")
    ] = 16

    def gateway_options(self, settings: "Settings") -> "GatewayOptions":
        """Return what the gateway is told.

        Raises:
            ConfigError: A pool file can't be used.
        """
        from producer.gateway.options import GatewayOptions

        return GatewayOptions(
            pools=_pools(settings, self.pool or []),
            without_keys=self.no_keys,
            max_file_bytes=self.max_file_mib * _MIB,
            max_request_bytes=self.max_request_mib * _MIB,
        )


@with_options(ServeOptions)
def serve_command(*, options: ServeOptions) -> None:
    """Serve an HTTP API as OpenAI's, and a page: scripts change base_url and key, no more.

    Models are called by the workers of `routoo-worker up`, single completions by the gateway
    itself. The printed URL opens the page in a browser, once; programs need a key.

    Examples:
        routoo-producer serve --pool cheap=pool.yaml --pool all=all.yaml
        routoo-producer key add notebook --usd-per-day 5
    """
    from routoo.console.logs import configure_logs
    from routoo.settings import load_settings

    settings = load_settings()
    configure_logs(settings.log_level, as_json=False, role="gateway")
    gateway_options = options.gateway_options(settings)
    if not is_loopback(options.host) and not options.no_keys:
        _check_keys(settings, options.host)
    with _listening(options.host, options.port) as listener, usable_database(settings) as url:
        server = _server(settings, url, gateway_options)
        # The server sends itself the signal again that it ended by: leave then as after Ctrl-C, so
        # that an embedded database is stopped. It may come as soon as the URL is known, and then
        # it must not interrupt an import.
        signal.signal(signal.SIGTERM, _leave)
        _print_urls(listener, options.host, gateway_options)
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


def _pools(settings: "Settings", named: list[str]) -> "dict[str, Pool]":
    from routoo.domain.pool_file import load_pool

    if not named:
        return {"default": load_pool(settings.pool)}
    pools: dict[str, Pool] = {}
    for text in named:
        name, equals, path = text.partition("=")
        if not equals or not name.strip() or name in pools:
            raise InputError(
                "this names no pool, or one twice",
                value=text,
                where="--pool",
                remedy="Write NAME=FILE, as cheap=pool.yaml",
            )
        pools[name] = load_pool(Path(path).absolute())
    return pools


def _check_keys(settings: "Settings", host: str) -> None:
    from routoo.store import keys

    if all(key.revoked_at is not None for key in run_in_transaction(settings, keys.list_all)):
        raise ConfigError(
            "other machines can connect to this address, and there is no key yet",
            value=host,
            where="--host",
            remedy="Make one with `routoo-producer key add NAME`, or pass --no-keys",
        )


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens: before anything starts, so that a port in use is told."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"the address can't be listened on: {error.strerror}",
            value=f"{host}:{port}",
            remedy="Choose another --port or --host",
        ) from error
    listener.listen(1024)
    return listener


def _print_urls(listener: socket.socket, host: str, options: "GatewayOptions") -> None:
    port = listener.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    base = f"http://{shown}:{port}"
    typer.echo(f"{base}/login?token={options.sessions.one_time_token}")
    note(f"The URL above opens the page, once. Programs: base_url {base}/v1 and a key of")
    note(f"`routoo-producer key add NAME`. Description of the API: {base}/docs. Ctrl-C ends it.")


def _server(settings: "Settings", url: str, options: "GatewayOptions") -> "uvicorn.Server":
    import uvicorn

    from producer.gateway.app import create_app

    app = create_app(settings, url, options)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = uvicorn.Server(config)
    app.state.is_stopping = lambda: server.should_exit
    return server


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)
