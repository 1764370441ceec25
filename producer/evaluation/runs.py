"""Begins evaluation runs and waits for them; serves recorded answers as long as one needs it."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from routoo.console.output import note
from routoo.domain.batch_options import CallOptions, Objective
from routoo.domain.pool import Pool
from routoo.domain.tables import read_answers
from routoo.errors import InputError
from routoo.evaluation.evaluation_run import EvaluationRun
from routoo.evaluation_runs.begin import RunRequest, begin_run
from routoo.evaluation_runs.finish import finish_run
from routoo.evaluation_runs.load import load_run
from routoo.store import batches
from routoo.store.database import Database
from routoo.store.evaluation import alerts, eval_runs, eval_sets
from routoo.store.evaluation.alerts import AlertRecord
from routoo.store.evaluation.eval_runs import RunRecord

_CALLS_AT_ONCE = 128
_END_S = 10.0


@contextmanager
def replay_server(
    pool: Pool, outcomes: Sequence[Path], latency_scale: float, answers: Sequence[Path] = ()
) -> Iterator[Pool]:
    """Serve recorded outcomes, and yield the pool with its endpoints replaced by that server.

    The server ends with the block, and by itself when this process is gone.

    Args:
        pool: The candidate models.
        outcomes: Outcomes tables.
        latency_scale: Part of the recorded latency that a call takes.
        answers: Tables of recorded texts, which are served where there are some.

    Raises:
        InputError: The outcomes can't be read; the server has said why.
    """
    with _started(_replay_command(outcomes, latency_scale, answers)) as server:
        try:
            yield replayed_pool(pool, _base_url(server, outcomes))
        finally:
            server.terminate()
            server.wait(_END_S)


def _started(command: Sequence[str]) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    return subprocess.Popen(  # noqa: S603 - our own command
        command, stdin=pipe, stdout=pipe, text=True, start_new_session=True
    )


def _base_url(server: "subprocess.Popen[str]", outcomes: Sequence[Path]) -> str:
    """Wait until a replay server answers, and return where."""
    base_url = server.stdout.readline().strip() if server.stdout else ""
    if not base_url:
        raise InputError(
            "the recorded outcomes can't be replayed",
            where=", ".join(map(str, outcomes)),
            remedy="Mend what is said above",
        )
    return base_url


def _replay_command(
    outcomes: Sequence[Path], latency_scale: float, answers: Sequence[Path]
) -> list[str]:
    command = [sys.executable, "-P", "-m", "routoo.cli.main", "replay", "--until-stdin-ends"]
    for path in outcomes:
        command += ["--outcomes", str(path)]
    for path in answers:
        command += ["--answers", str(path)]
    return [*command, "--latency-scale", str(latency_scale)]


def recorded_probes(options: CallOptions, pool: Pool, answers: Sequence[Path]) -> CallOptions:
    """Return how calls of a recorded run are made: only recorded texts can be judged.

    Args:
        options: What is wished.
        pool: The candidate models.
        answers: Tables of recorded texts; without any no model is asked first.
    """
    said = {one.model for one in read_answers(*answers)}
    wished = pool.names if options.cascade_only is None else options.cascade_only
    only = tuple(name for name in wished if name in said)
    return replace(options, cascade=options.cascade and bool(only), cascade_only=only or None)


def replayed_pool(pool: Pool, base_url: str) -> Pool:
    """Return the pool with every endpoint replaced by a replay server."""
    return Pool.model_validate(
        {
            "models": [
                model.model_dump(mode="json")
                | {"endpoint": {"base_url": base_url, "max_concurrency": _CALLS_AT_ONCE}}
                for model in pool.models
            ]
        }
    )


_POLL_S = 0.5
_PAST_RUNS = 30
"""Earlier runs that a report draws over time."""
_GRACE_POLLS = 20
"""Polls after which the command grades a run itself that no worker took."""


@dataclass(frozen=True, slots=True)
class RunView:
    """A run with its names and alerts, as commands show it."""

    run: RunRecord
    name: str
    """Name of its batch."""
    eval_set: str
    """Name and start of the version's hash."""
    objective: Objective
    budget_usd: Decimal | None
    """Budget of the routed answers."""
    alerts: Sequence[AlertRecord] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the facts that `--json` prints."""
        run = self.run
        return {
            "run_id": str(run.id),
            "name": self.name,
            "eval_set": self.eval_set,
            "state": run.state,
            "mode": run.mode,
            "recorded": run.recorded,
            "budget_usd": self.budget_usd,
            "objective": self.objective,
            "batch_id": str(run.batch_id),
            "sample_batch_id": None if run.sample_batch_id is None else str(run.sample_batch_id),
            "judge_batch_id": None if run.judge_batch_id is None else str(run.judge_batch_id),
            "checkpoint": run.checkpoint_sha256,
            "created_at": run.created_at,
            "finished_at": run.finished_at,
            "error": run.error,
            "figures": run.figures,
            "alerts": [_alert_json(one) for one in self.alerts],
        }


async def begin(
    database: Database, eval_set: str, request: RunRequest, *, shard_size: int
) -> RunRecord:
    """Begin a run of a set's newest version.

    Raises:
        NotFoundError: There is no such set.
        InputError: The request makes no sense.
    """
    async with database.transaction() as conn:
        found = await eval_sets.find(conn, eval_set)
        run_id = await begin_run(conn, found, request, shard_size=shard_size)
        return await eval_runs.get(conn, run_id)


async def await_run(database: Database, run_id: UUID, *, shard_size: int) -> RunView:
    """Wait until a run is over; where no worker grades it, grade it here."""
    idle = 0
    while True:
        async with database.transaction() as conn:
            view = await view_run(conn, await eval_runs.get(conn, run_id))
            due = run_id in await eval_runs.due(conn)
        if view.run.is_over:
            return view
        idle = idle + 1 if due else 0
        if idle > _GRACE_POLLS:
            note("no worker grades the run: it is graded here")
            await finish_run(database, run_id, shard_size=shard_size)
            idle = 0
        await asyncio.sleep(_POLL_S)


async def view_run(conn: AsyncConnection, run: RunRecord) -> RunView:
    """Return a run with its names and alerts."""
    eval_set = await eval_sets.get(conn, run.eval_set_id)
    batch = await batches.get(conn, run.batch_id)
    found = await alerts.of_run(conn, run.id)
    version = f"{eval_set.name}@{eval_set.content_sha256[:12]}"
    return RunView(run, batch.name, version, batch.objective, batch.budget_usd, found)


async def batches_of(database: Database, run: RunRecord) -> list[tuple[UUID, int]]:
    """Return the run's batches, each with how many jobs it has."""
    ids = [one for one in (run.batch_id, run.sample_batch_id) if one is not None]
    async with database.transaction() as conn:
        return [(one, (await batches.get(conn, one)).job_count) for one in ids]


async def load_with_past(
    database: Database, which: str | None
) -> tuple[EvaluationRun, list[EvaluationRun]]:
    """Return a graded run and the comparable ones before it, oldest first.

    Args:
        database: The store.
        which: Id, start of an id, or name of the run; the latest where None.

    Raises:
        NotFoundError: There is no such run.
        InputError: The run is not graded yet, or failed.
    """
    async with database.transaction() as conn:
        record = await eval_runs.find(conn, which)
        if record.state != "finished":
            raise InputError(
                "the run has no grades to report",
                value=record.state,
                remedy="Wait until `routoo-producer eval show` says finished",
            )
        earlier = await eval_runs.history(conn, record, _PAST_RUNS)
        past = [await load_run(conn, one.id) for one in reversed(earlier)]
        return await load_run(conn, record.id), past


def _alert_json(alert: AlertRecord) -> dict[str, Any]:
    return {"kind": alert.kind, "subject": alert.subject, "message": alert.message}
