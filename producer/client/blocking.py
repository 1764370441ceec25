"""`Client`: the Python client for ordinary code and notebooks.

Everything is done by `AsyncClient`, on an event loop in a thread of its own: so it works where a
loop runs already, as in a notebook.
"""

import weakref
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from producer.client.asynchronous import AsyncBatch, AsyncClient, Where
from producer.client.backend import BatchState, Plan, Result
from producer.client.options import BatchOptions, Rows
from routoo.errors import InputError
from routoo.loop_thread import LoopThread

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")


class _Connection:
    """An opened `AsyncClient` on a loop of its own; closed when nobody uses it any more.

    Args:
        client: Not opened yet.
    """

    def __init__(self, client: AsyncClient) -> None:
        self._loop = LoopThread().__enter__()
        try:
            self._loop.run(client.__aenter__())
        except BaseException:
            self._loop.__exit__()
            raise
        self.close = weakref.finalize(self, _close, client, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the client, and wait for its result.

        Raises:
            InputError: The client is closed.
        """
        if not self.close.alive:
            coroutine.close()
            raise InputError("the client is closed", remedy="Make another one")
        return self._loop.run(coroutine)


def _close(client: AsyncClient, loop: LoopThread) -> None:
    loop.run(client.__aexit__(None, None, None))
    loop.__exit__()


class Batch:
    """A batch, or a plan that is one once it is submitted; see `AsyncBatch`.

    Attributes:
        id: Its id.
        notes: What its submission found beside: rows left out, fields not used.
    """

    def __init__(self, connection: _Connection, batch: AsyncBatch) -> None:
        self.id, self.notes = batch.id, batch.notes
        self._connection, self._batch = connection, batch

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    def plan(self) -> Plan:
        """Return what it is expected to bring and to cost, once that is known."""
        return self._connection.run(self._batch.plan())

    def submit(self) -> None:
        """Run exactly what was planned, once it is; one that runs already goes on."""
        self._connection.run(self._batch.submit())

    def status(self) -> BatchState:
        """Return the batch now."""
        return self._connection.run(self._batch.status())

    def wait(self, timeout_s: float | None = None) -> BatchState:
        """Wait until the batch is over, and return how it ended.

        Raises:
            TimeoutError: It took longer; it goes on.
        """
        return self._connection.run(self._batch.wait(timeout_s))

    def results(self, *, in_order: bool = False) -> Iterator[Result]:
        """Yield the result of every job as it comes, or in input order, until the batch is over."""
        found = self._batch.results(in_order=in_order)
        try:
            while (result := self._connection.run(_next(found))) is not None:
                yield result
        finally:
            with suppress(InputError):  # closed meanwhile
                self._connection.run(found.aclose())

    def join(
        self,
        rows: Rows,
        *,
        id_column: str | None = None,
        subset: str | None = None,
        split: str | None = None,
    ) -> list[dict[str, Any]]:
        """Wait until the batch is over, and return what it was made of, each row with its result.

        Args:
            rows: What was submitted: rows, or the path of a file.
            id_column: Column of the custom_ids, if there was one.
            subset: Part of a dataset's folder.
            split: Split of a dataset's folder.

        Raises:
            InputError: They can't be read, or none of them is a job of this batch.
        """
        joined = self._batch.join(rows, id_column=id_column, subset=subset, split=split)
        return self._connection.run(joined)

    def to_pandas(self) -> "pd.DataFrame":
        """Wait until the batch is over, and return its results as a table in input order.

        Raises:
            ImportError: pandas is not installed.
        """
        return self._connection.run(self._batch.to_pandas())

    def pause(self) -> None:
        """Let no new call start; calls in flight end and are kept."""
        self._connection.run(self._batch.pause())

    def resume(self, *, budget_usd: float | str | Decimal | None = None) -> None:
        """Let the batch go on; with a budget of the whole batch, also one whose money ran out."""
        self._connection.run(self._batch.resume(budget_usd=budget_usd))

    def retry(self) -> None:
        """Open the jobs that ended without an answer again."""
        self._connection.run(self._batch.retry())

    def cancel(self) -> None:
        """End the batch once its calls in flight have ended; the answers so far are kept."""
        self._connection.run(self._batch.cancel())


async def _next(results: AsyncGenerator[Result, None]) -> Result | None:
    return await anext(results, None)


class Client:
    """Submits, follows and reads batches; see `AsyncClient`.

    It connects at once. `close` it, or use it as a context manager; the end of the program closes
    it too.

    Args:
        where: Where its batches run; see `Where`.

    Raises:
        InputError: Both a database and a gateway are named.
        ConfigError: A ROUTOO_* variable can't be used.
        DatabaseUnavailableError: The database can't be reached.
    """

    def __init__(self, **where: Unpack[Where]) -> None:
        self._client = AsyncClient(**where)
        self._connection = _Connection(self._client)

    def close(self) -> None:
        """Stop what was started, and disconnect; a second call does nothing."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def plan(self, rows: Rows, **options: Unpack[BatchOptions]) -> Batch:
        """Let rows be scored and selected without a call, and wait for the plan.

        It costs nothing. `batch.plan()` is what was planned, `batch.submit()` runs it.

        Args:
            rows: Prompts, dicts, or the path of a file.
            options: Aim and limits; see `BatchOptions`.

        Raises:
            BadInputError: Rows have problems; `report` has them all.
            InputError: An option has no usable value.
            RoutooError: Planning failed; the message says why.
        """
        return self._of(self._connection.run(self._client.plan(rows, **options)))

    def submit(self, rows: Rows, **options: Unpack[BatchOptions]) -> Batch:
        """Submit rows as one batch: after it returns, workers answer them.

        Args:
            rows: Prompts, dicts, or the path of a file.
            options: Aim and limits; see `BatchOptions`.

        Raises:
            BadInputError: Rows have problems; `report` has them all.
            InputError: An option has no usable value.
        """
        return self._of(self._connection.run(self._client.submit(rows, **options)))

    def batch(self, name: str | None = None) -> Batch:
        """Return a batch by its id, the start of one, or its name; the latest one for None.

        Raises:
            NotFoundError: There is no such batch.
        """
        return self._of(self._connection.run(self._client.batch(name)))

    def batches(self, limit: int = 20) -> list[Batch]:
        """Return the newest batches, newest first."""
        return [self._of(one) for one in self._connection.run(self._client.batches(limit))]

    def _of(self, batch: AsyncBatch) -> Batch:
        return Batch(self._connection, batch)
