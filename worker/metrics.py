"""Serves to Prometheus what the database knows of all batches, on /metrics of a port of the beat.

Whatever process serves the metrics, they are the same: nothing is counted in memory. Labels hold
names of models, schedules and endpoints, never anything of a batch, a job or a prompt.
"""

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal

import structlog
from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from routoo.domain.completion import DeviationReason, QualityChange
from routoo.domain.job import BatchStatus, ResultStatus, ShardState, Stage
from routoo.errors import ConfigError, StoreError
from routoo.loop_thread import LoopThread
from routoo.settings import Settings
from routoo.store.batches.overview import (
    OpenMoney,
    Overview,
    RecentCalls,
    ScheduleFigures,
    overview,
)
from routoo.store.database import Database

_Samples = Iterable[tuple[Sequence[str], float]]
"""Values of the labels, and the value."""
_READ_TIMEOUT_S = 8.0
"""Prometheus itself waits ten seconds."""
_FRESH_S = 3.0
"""Scrapes within this time, in seconds, share one read of the database."""
_IDLE_FACTOR = 9
"""After a read the database is not read for this many times as long as the read took."""
_log = structlog.get_logger(__name__)


class DatabaseCollector(Collector):
    """Reads the database when Prometheus scrapes, for all metric families.

    Args:
        loop: Runs the queries; each scrape arrives on a thread of its own.
        db: A database opened on that loop.
    """

    def __init__(self, loop: LoopThread, db: Database) -> None:
        self._loop, self._db = loop, db
        self._lock = threading.Lock()
        self._seen: list[Metric] = []
        self._fresh_until_s = 0.0

    def collect(self) -> list[Metric]:
        """Return all families, or only that the database is away while it is."""
        with self._lock:
            started_s = time.monotonic()
            if started_s >= self._fresh_until_s:
                self._seen = self._read()
                ended_s = time.monotonic()
                rest_s = max(_FRESH_S, _IDLE_FACTOR * (ended_s - started_s))
                self._fresh_until_s = ended_s + rest_s
            return self._seen

    def _read(self) -> list[Metric]:
        try:
            seen = self._loop.run(self._overview())
        except (StoreError, TimeoutError) as error:
            _log.warning("metrics.not_read", reason=type(error).__name__)
            return [reachable(yes=False)]
        return [reachable(yes=True), *families(seen)]

    async def _overview(self) -> Overview:
        async with asyncio.timeout(_READ_TIMEOUT_S), self._db.transaction() as conn:
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


def families(seen: Overview) -> Iterator[Metric]:
    """Yield every family; zeros too where the labels' values are known beforehand."""
    yield from _work(seen)
    yield from _money(seen)
    yield from _calls(seen)
    yield from _evaluation(seen)


def described_families() -> Iterator[Metric]:
    """Yield every family with at least one sample, for the reference: names, labels, meaning."""
    money = OpenMoney(*[Decimal(0)] * 4)
    calls = (RecentCalls("", "", 0, 0.0),)
    schedules = (ScheduleFigures("", 0.0, 0.0, 0.0),)
    pair = (DeviationReason.BUDGET, QualityChange.EQUAL)
    yield reachable(yes=True)
    yield from families(
        Overview(
            batches={BatchStatus.PLANNED: 0},
            jobs_pending=0,
            results={ResultStatus.SUCCEEDED: 0},
            deviations={pair: 0},
            shards={(Stage.SCORE, ShardState.READY): 0},
            money=money,
            calls=calls,
            alerts={"": 0},
            schedules=schedules,
            endpoints={"": False},
            extra_tokens={"": (0, 0)},
        )
    )


def reachable(*, yes: bool) -> Metric:
    """Return the family that shows whether the database could be read."""
    text = "Whether the database answered in time; without it there are no other metrics."
    return _gauge("routoo_database_reachable", text, (), [((), float(yes))])


def _work(seen: Overview) -> Iterator[Metric]:
    yield _gauge("routoo_batches", "Batches.", ["status"], _of(seen.batches.items()))
    yield _gauge(
        "routoo_jobs_pending",
        "Jobs of open batches without a result.",
        (),
        [((), seen.jobs_pending)],
    )
    yield _gauge(
        "routoo_jobs_ended",
        "Jobs of open batches that have a result.",
        ["status"],
        _of(seen.results.items()),
    )
    yield _gauge(
        "routoo_jobs_deviated",
        "Jobs of open batches that another model answered than planned.",
        ["reason", "change"],
        seen.deviations.items(),
    )
    yield _gauge(
        "routoo_shards", "Shards of open batches.", ["stage", "state"], seen.shards.items()
    )


def _money(seen: Overview) -> Iterator[Metric]:
    kinds = {
        "limit": (seen.money.limit_usd, "Budgets of open batches together"),
        "reserved": (seen.money.reserved_usd, "Worst case of the calls in flight"),
        "spent": (seen.money.spent_usd, "What the calls of open batches have cost"),
        "overrun": (seen.money.overrun_usd, "Of that, what was billed beyond what was reserved"),
    }
    for kind, (usd, text) in kinds.items():
        yield _gauge(f"routoo_{kind}_usd", f"{text}, in USD.", (), [((), float(usd))])


def _calls(seen: Overview) -> Iterator[Metric]:
    yield _gauge(
        "routoo_calls_last_minute",
        "Calls that ended within the last minute.",
        ["model", "status"],
        (((one.model, one.status), one.calls) for one in seen.calls),
    )
    yield _gauge(
        "routoo_call_latency_last_minute_seconds",
        "Their mean time from request to whole answer.",
        ["model", "status"],
        (
            ((one.model, one.status), one.mean_latency_s)
            for one in seen.calls
            if one.mean_latency_s is not None
        ),
    )
    yield _gauge(
        "routoo_endpoint_breaker_open",
        "Whether calls to an endpoint are held back because it keeps failing.",
        ["endpoint"],
        _of(_without_queries(seen.endpoints).items()),
    )
    for column, kind in enumerate(("prompt", "completion")):
        extras = {key: tokens[column] for key, tokens in seen.extra_tokens.items()}
        yield _gauge(
            f"routoo_endpoint_extra_{kind}_tokens",
            f"Most {kind} tokens that an endpoint billed beyond a call's bound.",
            ["endpoint"],
            _of(_without_queries(extras).items()),
        )


def _alerts(seen: Overview) -> Metric:
    alerts = CounterMetricFamily(
        "routoo_eval_alerts", "Alerts of evaluation runs.", labels=["kind"]
    )
    for kind, count in seen.alerts.items():
        alerts.add_metric([kind], count)
    return alerts


def _evaluation(seen: Overview) -> Iterator[Metric]:
    yield _alerts(seen)
    last = seen.schedules
    yield _gauge(
        "routoo_eval_quality_ratio",
        "Mean quality of a schedule's last run, 0 to 1.",
        ["schedule"],
        (((one.schedule,), one.quality) for one in last if one.quality is not None),
    )
    yield _gauge(
        "routoo_eval_cost_usd",
        "Cost of a schedule's last run, in USD.",
        ["schedule"],
        _of((one.schedule, one.cost_usd) for one in last),
    )
    yield _gauge(
        "routoo_eval_finished_timestamp_seconds",
        "When a schedule's last run was graded.",
        ["schedule"],
        _of((one.schedule, one.finished_at_s) for one in last),
    )


def _without_queries(endpoints: Mapping[str, int]) -> dict[str, int]:
    """Return figures by endpoint's name; what follows a ? may be secret."""
    found: dict[str, int] = {}
    for key, figure in endpoints.items():
        base_url, *rest = key.split("|")
        name = "|".join([base_url.partition("?")[0], *rest])
        found[name] = max(found.get(name, 0), figure)
    return found


def _of(values: Iterable[tuple[str, float]]) -> _Samples:
    """Return samples of a family with one label."""
    return (((label,), value) for label, value in values)


def _gauge(name: str, text: str, labels: Sequence[str], samples: _Samples) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
