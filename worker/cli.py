"""The `routoo-worker` command: the whole embedded stack, or one role of a production deployment.

A command imports what it needs when it runs, so that help pages appear at once.
"""

import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from routoo.console.commands import CommandGroup
from routoo.console.run import run_program
from worker.roles import Role

app = CommandGroup("Run what serves batches: everything on this machine, or one role of many.")

JsonLogs = Annotated[bool, typer.Option("--json-logs", help="Log one JSON object a line.")]
Supervised = Annotated[bool, typer.Option("--supervised", hidden=True)]
Count = Annotated[int, typer.Option(min=0, help="Processes of this role.")]


@app.command()
def up(
    *,
    scorers: Count = 1,
    dispatchers: Count = 1,
    json_logs: JsonLogs = False,
    supervised: Supervised = False,
) -> None:
    """Run everything a batch needs on this machine, until Ctrl-C.

    Starts PostgreSQL and the broker where ROUTOO_DATABASE_URL and ROUTOO_BROKER_URL are unset,
    brings the schema up to date, then runs scorers, dispatchers and the beat, and restarts what
    dies. Prints "ready" once batches are served.

    Examples:
        routoo-worker up

        ROUTOO_HOME=/srv/routoo routoo-worker up --dispatchers 2 --json-logs
    """
    from routoo.console.logs import configure_logs
    from routoo.settings import load_settings
    from worker.supervisor import READY, STACK_DRAIN_S, run_stack, stop_with_supervisor

    if supervised:
        stop_with_supervisor(STACK_DRAIN_S)
    settings = load_settings()
    configure_logs(settings.log_level, as_json=json_logs, role="supervisor")
    text = f"{READY}: serving batches from {settings.home}, Ctrl-C to stop"
    counts = {Role.SCORER: scorers, Role.DISPATCHER: dispatchers, Role.BEAT: 1}
    run_stack(settings, counts, json_logs=json_logs, on_ready=lambda: typer.echo(text))


@app.command()
def scorer(*, json_logs: JsonLogs = False, supervised: Supervised = False) -> None:
    """Predict quality and tokens: one process a GPU, or a few a machine.

    Needs ROUTOO_DATABASE_URL, ROUTOO_BROKER_URL and ROUTOO_CHECKPOINT.

    Example:
        ROUTOO_DATABASE_URL=postgresql://... ROUTOO_BROKER_URL=amqp://... routoo-worker scorer
    """
    _work(Role.SCORER, json_logs=json_logs, supervised=supervised)


@app.command()
def dispatcher(*, json_logs: JsonLogs = False, supervised: Supervised = False) -> None:
    """Select models and call their endpoints.

    Needs ROUTOO_DATABASE_URL, ROUTOO_BROKER_URL and the API keys that the pools name.

    Example:
        ROUTOO_DISPATCH_THREADS=8 OPENAI_API_KEY=... routoo-worker dispatcher --json-logs
    """
    _work(Role.DISPATCHER, json_logs=json_logs, supervised=supervised)


@app.command()
def beat(*, json_logs: JsonLogs = False, supervised: Supervised = False) -> None:
    """Publish lost messages again, re-plan batches, fire schedules; run one, or several to be safe.

    Needs ROUTOO_DATABASE_URL and ROUTOO_BROKER_URL.

    Example:
        ROUTOO_RECOVERY_INTERVAL_S=5 routoo-worker beat
    """
    _work(Role.BEAT, json_logs=json_logs, supervised=supervised)


@app.command()
def doctor(
    *,
    pool: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Pool file. (default: ROUTOO_POOL, else the newest batch's pool)"
        ),
    ] = None,
    role: Annotated[
        list[Role] | None,
        typer.Option(help="Only what this role needs; can be repeated. (default: all)"),
    ] = None,
    call: Annotated[
        bool, typer.Option("--call", help="Call each model for one token, which costs money.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check that this machine can serve batches, and say what to mend; exit status 1 if anything.

    Looks at settings, database, schema, broker, workers, pool, checkpoint, endpoints, traces,
    clock, open files, connections, memory and disk. Embedded servers are started for as long as it
    takes. Nothing is spent without --call. A warning leaves the exit status 0.

    Examples:
        routoo-worker doctor

        routoo-worker doctor --role dispatcher --pool pool.yaml --call
    """
    from routoo.console.logs import configure_logs
    from routoo.console.output import json_line
    from worker.doctor.examine import examine_environment
    from worker.doctor.finding import Health

    configure_logs("CRITICAL", as_json=False, role="doctor")
    found = []
    for finding in examine_environment(pool, roles=frozenset(role or Role), calls=call):
        found.append(finding)
        if not as_json:
            typer.echo(finding.line())
    healthy = all(finding.health is not Health.BROKEN for finding in found)
    if as_json:
        typer.echo(json_line({"healthy": healthy, "checks": [asdict(one) for one in found]}))
    raise typer.Exit(0 if healthy else 1)


def _work(role: Role, *, json_logs: bool, supervised: bool) -> None:
    from worker.supervisor import say_ready, stop_with_supervisor

    if supervised:
        stop_with_supervisor()
    from routoo.console.logs import configure_logs
    from routoo.settings import load_settings
    from worker.runtime import run_role

    settings = load_settings()
    configure_logs(settings.log_level, as_json=json_logs, role=role.value)
    on_ready = say_ready if supervised else lambda: None
    _exit_now(run_role(role, settings, on_ready=on_ready))


def _exit_now(exit_code: int) -> None:
    """End the process at once: a prediction still computing in a thread would delay it.

    Nothing is lost: its shard was released, and every connection is closed.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def main() -> None:
    """Run the command line."""
    run_program(app)


if __name__ == "__main__":
    main()
