"""The `routoo-worker` command: the whole embedded stack, or one role of a production deployment."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping
from typing import Annotated

import typer

from routoo.console.run import run_program
from routoo.settings import Settings, load_settings
from worker.lifeline import READY, hold_on_to_supervisor, say_ready
from worker.logs import configure_logs
from worker.roles import Role
from worker.stack import Stack, keep_up, open_stack
from worker.supervisor import Crew, Supervisor

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")

JsonLogs = Annotated[bool, typer.Option("--json-logs", help="Log one JSON object a line.")]
Supervised = Annotated[bool, typer.Option("--supervised", hidden=True)]
Count = Annotated[int, typer.Option(min=0, help="Processes of this role.")]


@app.command()
def up(scorers: Count = 1, dispatchers: Count = 1, json_logs: JsonLogs = False) -> None:  # noqa: FBT002 - a flag of the command line
    """Run everything a batch needs on this machine, until Ctrl-C.

    Starts PostgreSQL and the broker where ROUTOO_DATABASE_URL and ROUTOO_BROKER_URL are unset,
    brings the schema up to date, then runs scorers, dispatchers and the recovery tick, and
    restarts what dies. Prints "ready" once batches are served.

    Examples:
        routoo-worker up

        ROUTOO_HOME=/srv/routoo routoo-worker up --dispatchers 2 --json-logs
    """
    settings = load_settings()
    configure_logs(settings.log_level, as_json=json_logs, role="supervisor")
    _raise_on_sigterm()
    with open_stack(settings) as stack:
        sizes = {Role.SCORER: scorers, Role.DISPATCHER: dispatchers, Role.BEAT: 1}
        crew = Crew(_commands(sizes, json_logs=json_logs), _environ(stack))
        supervisor = Supervisor(settings.home, crew, on_ready=lambda: _say_up(settings))
        asyncio.run(_supervise(supervisor, stack))


@app.command()
def scorer(json_logs: JsonLogs = False, supervised: Supervised = False) -> None:  # noqa: FBT002 - flags of the command line
    """Predict quality and tokens: one process a GPU, or a few a machine.

    Needs ROUTOO_DATABASE_URL, ROUTOO_BROKER_URL and ROUTOO_CHECKPOINT.

    Example:
        ROUTOO_DATABASE_URL=postgresql://... ROUTOO_BROKER_URL=amqp://... routoo-worker scorer
    """
    _work(Role.SCORER, json_logs=json_logs, supervised=supervised)


@app.command()
def dispatcher(json_logs: JsonLogs = False, supervised: Supervised = False) -> None:  # noqa: FBT002 - flags of the command line
    """Select models and call their endpoints.

    Needs ROUTOO_DATABASE_URL, ROUTOO_BROKER_URL and the API keys that the pools name.

    Example:
        ROUTOO_DISPATCH_THREADS=8 OPENAI_API_KEY=... routoo-worker dispatcher --json-logs
    """
    _work(Role.DISPATCHER, json_logs=json_logs, supervised=supervised)


@app.command()
def beat(json_logs: JsonLogs = False, supervised: Supervised = False) -> None:  # noqa: FBT002 - flags of the command line
    """Announce again what was lost; run one, or several to be safe.

    Needs ROUTOO_DATABASE_URL and ROUTOO_BROKER_URL.

    Example:
        ROUTOO_RECOVERY_INTERVAL_S=5 routoo-worker beat
    """
    _work(Role.BEAT, json_logs=json_logs, supervised=supervised)


def _work(role: Role, *, json_logs: bool, supervised: bool) -> None:
    if supervised:
        hold_on_to_supervisor()
    # Here and not above: the supervisor needs neither Celery nor the pipeline.
    from worker.process import run_role

    settings = load_settings()
    configure_logs(settings.log_level, as_json=json_logs, role=role.value)
    on_ready = say_ready if supervised else lambda: None
    _leave(run_role(role, settings, on_ready=on_ready))


def _leave(exit_code: int) -> None:
    """End the process now: a prediction still computing in a thread would hold it up.

    Nothing is lost: its shard was handed back, and every connection is closed.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


async def _supervise(supervisor: Supervisor, stack: Stack) -> None:
    keeper = asyncio.create_task(keep_up(stack.embedded))
    try:
        await supervisor.run()
    finally:
        keeper.cancel()


def _commands(sizes: Mapping[Role, int], *, json_logs: bool) -> dict[str, list[str]]:
    options = ["--supervised", *(["--json-logs"] if json_logs else [])]
    # -P: a folder `worker` where the command was typed is not ours.
    return {
        f"{role.value}-{number}": [sys.executable, "-P", "-m", "worker.cli", role.value, *options]
        for role, size in sizes.items()
        for number in range(1, size + 1)
    }


def _environ(stack: Stack) -> dict[str, str]:
    return {
        **os.environ,
        "ROUTOO_DATABASE_URL": stack.database_url,
        "ROUTOO_BROKER_URL": stack.broker_url,
        "PYTHONUNBUFFERED": "1",
    }


def _say_up(settings: Settings) -> None:
    typer.echo(f"{READY}: serving batches from {settings.home}, Ctrl-C to stop")


def _raise_on_sigterm() -> None:
    """Until the supervisor listens, let SIGTERM unwind the stack as Ctrl-C does."""

    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def main() -> None:
    """Run the command line; an expected error is a message and an exit status, not a trace."""
    run_program(app)


if __name__ == "__main__":
    main()
