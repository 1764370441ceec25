"""Serves the metrics to Prometheus: on /metrics of a port of the beat, where one is set."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.registry import Collector

from routoo.errors import ConfigError, StoreError
from routoo.settings import Settings
from routoo.store.batches.overview import Overview, overview
from routoo.store.database import Database
from worker.loop import LoopThread
from worker.metrics import families, reachable

_PATIENCE_S = 8.0
"""Prometheus itself waits ten seconds."""
_FRESH_S = 3.0
"""Scrapes within this time, in seconds, share one look at the database."""
_REST_FACTOR = 9
"""After a look the database is left alone for this many times as long as it took."""
_log = structlog.get_logger(__name__)


class DatabaseCollector(Collector):
    """Looks into the database when scraped.

    Args:
        loop: Runs the look; scrapes come on threads of their own.
        db: Opened on that loop.
    """

    def __init__(self, loop: LoopThread, db: Database) -> None:
        self._loop, self._db = loop, db
        self._lock = threading.Lock()
        self._seen: list[Metric] = []
        self._fresh_until_s = 0.0

    def collect(self) -> list[Metric]:
        """Return all families; only that the database is away, while it is."""
        with self._lock:
            started_s = time.monotonic()
            if started_s >= self._fresh_until_s:
                self._seen = self._read()
                ended_s = time.monotonic()
                rest_s = max(_FRESH_S, _REST_FACTOR * (ended_s - started_s))
                self._fresh_until_s = ended_s + rest_s
            return self._seen

    def _read(self) -> list[Metric]:
        try:
            seen = self._loop.run(self._look())
        except (StoreError, TimeoutError) as error:
            _log.warning("metrics.not_read", reason=type(error).__name__)
            return [reachable(yes=False)]
        return [reachable(yes=True), *families(seen)]

    async def _look(self) -> Overview:
        async with asyncio.timeout(_PATIENCE_S), self._db.transaction() as conn:
            return await overview(conn)


@contextmanager
def serving_metrics(settings: Settings, loop: LoopThread, db: Database) -> Iterator[int | None]:
    """Serve metrics for as long as the block runs; yield the port, None where none is set.

    Raises:
        ConfigError: The address can't be listened on.
    """
    if settings.metrics_port is None:
        yield None
        return
    registry = CollectorRegistry()
    registry.register(DatabaseCollector(loop, db))
    host, port = settings.metrics_host, settings.metrics_port
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigError(
            f"metrics can't be served there: {error}",
            value=f"{host}:{port}",
            where="ROUTOO_METRICS_PORT",
            remedy="Choose a free port of this machine, or unset it",
        ) from error
    _log.info("metrics.served", host=host, port=server.server_port)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
