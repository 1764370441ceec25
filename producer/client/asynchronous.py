"""The Python client: `AsyncClient` and its batches. `Client` calls the same from ordinary code."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import fields
from decimal import Decimal
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

from pydantic import SecretStr

from producer.client.backend import Backend, BatchState, Plan, Result
from producer.client.options import BatchOptions, Rows, check_known, read_rows
from routoo.domain.job import BatchStatus
from routoo.errors import InputError
from routoo.settings import Settings, load_settings

if TYPE_CHECKING:
    import pandas as pd

_POLL_S = 0.5


class AsyncBatch:
    """A batch, or a plan that is one once it is submitted.

    Attributes:
        id: Its id.
        notes: What its submission found beside: rows left out, fields not used.
    """

    def __init__(self, backend: Backend, batch_id: str, notes: tuple[str, ...] = ()) -> None:
        self.id, self.notes = batch_id, notes
        self._backend = backend

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    async def plan(self) -> Plan:
        """Return what it is expected to bring and to cost, once that is known.

        Raises:
            InputError: It was submitted without a plan, and none is made yet.
            RoutooError: Planning failed; the message says why.
        """
        return await self._backend.plan(self.id)

    async def submit(self) -> None:
        """Run exactly what was planned, once it is; one that runs already goes on.

        Raises:
            InfeasibleError: What it aims at can't be met; the remedy says what to relax.
            InputError: It is over, or its deadline is.
        """
        await self._backend.plan(self.id)
        await self._backend.submit_plan(self.id)

    async def status(self) -> BatchState:
        """Return the batch now."""
        return await self._backend.state(self.id)

    async def wait(self, timeout_s: float | None = None) -> BatchState:
        """Wait until the batch is over, and return how it ended.

        Raises:
            TimeoutError: It took longer; it goes on.
        """
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            state = await self.status()
            if state.status.has_ended:
                return state
            _check_submitted(state)
            if until_s is not None and time.monotonic() >= until_s:
                raise TimeoutError(f"batch {self.id} is {state.status} after {timeout_s} s")
            await asyncio.sleep(_POLL_S)

    async def results(self, *, in_order: bool = False) -> AsyncGenerator[Result, None]:
        """Yield the result of every job as it comes, until the batch is over.

        Args:
            in_order: Yield them in input order, once the batch is over.

        Raises:
            InputError: It is a plan that was not submitted.
        """
        async with aclosing(self._backend.results(self.id, in_order=in_order)) as found:
            async for result in found:
                yield result

    async def join(
        self,
        rows: Rows,
        *,
        id_column: str | None = None,
        subset: str | None = None,
        split: str | None = None,
    ) -> "list[dict[str, Any]]":
        """Wait until the batch is over, and return what it was made of, each row with its result.

        A row's own columns come first, as they are; then the fields of its `Result`, with `result_`
        before those whose name the rows have. A row without a result has None there.

        Args:
            rows: What was submitted: rows, or the path of a file.
            id_column: Column of the custom_ids, if there was one.
            subset: Part of a dataset's folder.
            split: Split of a dataset's folder.

        Raises:
            InputError: They can't be read, or none of them is a job of this batch.
        """
        from producer.results.join import join_rows  # drivers, 0.3 s

        given, names = read_rows(rows, subset, split), [one.name for one in fields(Result)]
        found = {
            result.custom_id: {name: getattr(result, name) for name in names}
            async for result in self.results()
        }
        return join_rows(given, found, names, id_column, self.id)

    async def to_pandas(self) -> "pd.DataFrame":
        """Wait until the batch is over, and return its results as a table in input order.

        Raises:
            ImportError: pandas is not installed.
        """
        to_frame = _frame_maker()
        return to_frame([result async for result in self.results(in_order=True)])

    async def pause(self) -> None:
        """Let no new call start; calls in flight end and are kept."""
        await self._backend.pause(self.id)

    async def resume(self, *, budget_usd: float | str | Decimal | None = None) -> None:
        """Let the batch go on; with a budget of the whole batch, also one whose money ran out."""
        amount = None if budget_usd is None else Decimal(str(budget_usd))
        await self._backend.resume(self.id, amount)

    async def retry(self) -> None:
        """Open the jobs that ended without an answer again."""
        await self._backend.retry(self.id)

    async def cancel(self) -> None:
        """End the batch once its calls in flight have ended; the answers so far are kept."""
        await self._backend.cancel(self.id)


def _frame_maker() -> "Callable[[list[Result]], pd.DataFrame]":
    """Return what makes a table of results; before they are waited for, pandas is looked for."""
    try:
        import pandas as pd  # not everybody has it
    except ImportError as error:
        raise ImportError(
            "to_pandas() needs pandas, which is not installed: `pip install pandas`, or use "
            "batch.results()"
        ) from error
    names = [field.name for field in fields(Result)]

    def to_frame(results: "list[Result]") -> "pd.DataFrame":
        columns = {name: [getattr(one, name) for one in results] for name in names}
        columns["cost_usd"] = [float(usd) for usd in columns["cost_usd"]]
        columns["status"] = [str(status) for status in columns["status"]]
        return pd.DataFrame(columns).set_index("index")

    return to_frame


def _check_submitted(state: BatchState) -> None:
    if state.status in {BatchStatus.PLANNING, BatchStatus.PLANNED}:
        raise InputError(
            "the plan was not submitted", value=state.id, remedy="Submit it: batch.submit()"
        )


class Where(TypedDict, total=False):
    """Where a client's batches run; by the settings of the environment where nothing is given."""

    database_url: str
    """PostgreSQL; ROUTOO_DATABASE_URL where unset, or else the embedded one of this machine."""
    base_url: str
    """A gateway's URL instead, as http://127.0.0.1:8080."""
    api_key: str
    """The gateway's key; ROUTOO_API_KEY where unset."""
    start_workers: bool
    """Whether the stack is started on this machine where no worker lives, and stopped when the
    client is closed; false unless given."""
    checkpoint: str | PathLike[str]
    """Predictor of these workers; ROUTOO_CHECKPOINT where unset. Workers that run already keep the
    one that they have."""


def backend_of(where: Where) -> Backend:
    """Return what runs a client's batches; not opened yet.

    Raises:
        InputError: Both a database and a gateway are named, or what isn't known.
        ConfigError: A ROUTOO_* variable can't be used.
    """
    check_known(where, Where.__annotations__)
    if "base_url" in where:
        from producer.client.gateway import GatewayBackend  # aiohttp, 0.2 s

        if where.keys() - {"base_url", "api_key"}:
            raise InputError(
                "a gateway has a database and workers of its own",
                remedy="Give base_url and api_key alone",
            )
        return GatewayBackend(where["base_url"], where.get("api_key"))
    from producer.client.database import DatabaseBackend  # drivers, 0.3 s

    return DatabaseBackend(_settings_of(where), start_workers=where.get("start_workers", False))


def _settings_of(where: Where) -> Settings:
    """Return the settings, with the database and the checkpoint that are named."""
    named: dict[str, object] = {}
    if "database_url" in where:
        named["database_url"] = SecretStr(where["database_url"])
    if "checkpoint" in where:
        named["checkpoint"] = Path(where["checkpoint"]).absolute()
    return load_settings().model_copy(update=named)


class AsyncClient:
    """Submits, follows and reads batches; an async context manager.

    Args:
        where: Where its batches run; see `Where`.

    Raises:
        InputError: Both a database and a gateway are named.
        ConfigError: A ROUTOO_* variable can't be used.
    """

    def __init__(self, **where: Unpack[Where]) -> None:
        self._backend = backend_of(where)

    async def __aenter__(self) -> Self:
        await self._backend.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._backend.close()

    async def plan(self, rows: Rows, **options: Unpack[BatchOptions]) -> AsyncBatch:
        """Let rows be scored and selected without a call, and wait for the plan.

        It costs nothing. `await batch.plan()` is what was planned, `await batch.submit()` runs it.

        Args:
            rows: Prompts, dicts, or the path of a file.
            options: Aim and limits; see `BatchOptions`.

        Raises:
            BadInputError: Rows have problems; `report` has them all.
            InputError: An option has no usable value.
            RoutooError: Planning failed; the message says why.
        """
        batch = await self._submitted(rows, options, plan_only=True)
        await batch.plan()
        return batch

    async def submit(self, rows: Rows, **options: Unpack[BatchOptions]) -> AsyncBatch:
        """Submit rows as one batch: after it returns, workers answer them.

        Args:
            rows: Prompts, dicts, or the path of a file.
            options: Aim and limits; see `BatchOptions`.

        Raises:
            BadInputError: Rows have problems; `report` has them all.
            InputError: An option has no usable value.
        """
        return await self._submitted(rows, options, plan_only=False)

    async def batch(self, name: str | None = None) -> AsyncBatch:
        """Return a batch by its id, the start of one, or its name; the latest one for None.

        Raises:
            NotFoundError: There is no such batch.
        """
        return AsyncBatch(self._backend, await self._backend.find(name))

    async def batches(self, limit: int = 20) -> list[AsyncBatch]:
        """Return the newest batches, newest first."""
        return [AsyncBatch(self._backend, one) for one in await self._backend.recent(limit)]

    async def _submitted(self, rows: Rows, options: BatchOptions, *, plan_only: bool) -> AsyncBatch:
        check_known(options, BatchOptions.__annotations__)
        submitted = await self._backend.submit(rows, options, plan_only=plan_only)
        return AsyncBatch(self._backend, submitted.batch_id, submitted.notes)
