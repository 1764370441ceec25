"""The servers under a command: those that the settings name, or the embedded ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from producer.notice import note
from producer.queue import publish
from routoo.domain.job import Stage
from routoo.embedded.stack import broker_url, embedded_stack
from routoo.embedded.valkey import EmbeddedValkey
from routoo.errors import BrokerUnavailableError
from routoo.settings import Settings

_NO_WORKERS = "no workers run on this home: `routoo-worker up` will run the batch"


@contextmanager
def database_in_use(settings: Settings) -> Iterator[str]:
    """Keep a usable database for as long as the block runs.

    An embedded server is started where it doesn't run, migrated, and stopped in the end unless
    workers or other commands use it. A server named by URL is left as it is.

    Yields:
        Its URL.

    Raises:
        EmbeddedStackError: The embedded server can't be started.
        StoreError: It can't be migrated.
    """
    # Blocks: to be entered before the event loop runs.
    with embedded_stack(settings, broker=False) as (url, _):
        if settings.embedded_database:
            from routoo.store.migrate import upgrade  # noqa: PLC0415 - alembic takes 0.2 s

            upgrade(url)
        yield url


def wake_workers(settings: Settings, stage: Stage, batch_id: UUID, shard_count: int) -> None:
    """Tell the workers of a stage's shards; a broker that is away is worth a note, no more."""
    if settings.embedded_broker and not EmbeddedValkey(settings.home).is_running():
        note(_NO_WORKERS)
        return
    try:
        publish(broker_url(settings), stage, batch_id, shard_count)
    except BrokerUnavailableError as error:
        note(f"note: {error}")
