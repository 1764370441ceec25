"""Measures jobs/s of a dispatcher, beside a bare aiohttp loop and beside litellm's router.

Every client has a process of its own on one core; the endpoint (50 ms, small bodies) and PostgreSQL
share another. The bare loop only sends, parses and drops; ours also keeps limits of requests,
tokens and calls in flight that it shares with other dispatchers, accounts, and commits every
result; once more without the shared limits, to see what they cost; and once with half of the jobs
as probes, of which half are escalated, to see what judging costs. litellm is measured where
--peers-python names an interpreter that has benchmarks/peers.txt installed. Clients take turns; the
median of each counts.

On a real network's terms, answers take seconds and connections are encrypted:
`--tls --latency-s 2 --concurrency 1000 --calls 10000`. The rate is then the endpoint's, and what
counts is CPU a call.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dispatch_batch import SHARD_SIZE, pool_of, prepare
from dispatch_judge import made_up_judge
from figures import Figure, show
from servers import endpoint_server, make_certificate, migrated_database

from routoo.store.database import libpq_url

HERE = Path(__file__).resolve().parent
OURS = {"routoo", "routoo_unlimited", "routoo_probed"}
"""With the limits that dispatchers share through the database, and without; half probed."""
QUIET_CONCURRENCY = 8
"""Calls in flight where the overhead of one call is measured, not the wait for the others."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where the clients are measured."""

    base_url: str
    database_url: str
    peers_python: str | None
    judge: bytes
    """Of the answers to probes."""

    def run(self, client: str, calls: int, concurrency: int) -> dict[str, Any]:
        """Run one client in a process of its own."""
        request = {"base_url": self.base_url, "calls": calls, "concurrency": concurrency}
        python = sys.executable
        if client in OURS:
            limited = client != "routoo_unlimited"
            judge = self.judge if client == "routoo_probed" else None
            pool = pool_of(self.base_url, concurrency, limited=limited)
            batch_id = asyncio.run(prepare(self.database_url, pool, calls, judge))
            shards = -(-calls // SHARD_SIZE)
            request |= {
                "database_url": self.database_url, "batch_id": str(batch_id), "shards": shards,
                "limited": limited,
            }  # fmt: skip
        elif client == "litellm":
            python = str(self.peers_python)
        done = subprocess.run(
            [python, HERE / "dispatch_clients.py", client, json.dumps(request)],
            stdout=subprocess.PIPE, text=True, check=True,
            env=environ(),
        )  # fmt: skip
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        assert len(found["latencies_s"]) == calls, "a call was lost"
        return found | {"jobs_per_s": calls / found["wall_s"]}


def environ() -> dict[str, str]:
    """Return the environment of a client's process."""
    # An unbuffered standard output may lose a part of a long line.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return {**kept, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else it asks the network


def main() -> None:
    """Measure and print."""
    options = _options()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # inherited by the servers
    with ExitStack() as exits:
        certificate = None
        if options.tls:
            name = exits.enter_context(tempfile.TemporaryDirectory(prefix="routoo-", dir="/tmp"))
            certificate = make_certificate(Path(name))
            os.environ["SSL_CERT_FILE"] = str(certificate)  # the clients trust it
        base_url = exits.enter_context(endpoint_server(options.latency_s, certificate))
        url = exits.enter_context(database())
        bench = Bench(base_url, url, options.peers_python, made_up_judge())
        show(_rates(bench, options), as_json=options.json)
        show(_overheads(bench, options), as_json=options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000, help="of a turn")
    parser.add_argument("--litellm-calls", type=int, default=1_000, help="of its turn")
    parser.add_argument("--concurrency", type=int, default=256, help="calls in flight")
    parser.add_argument("--latency-s", type=float, default=0.05, help="of the endpoint")
    parser.add_argument("--tls", action="store_true", help="encrypt the calls (needs openssl)")
    parser.add_argument("--turns", type=int, default=3, help="the median of each client is taken")
    parser.add_argument("--peers-python", help="interpreter with benchmarks/peers.txt installed")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


@contextmanager
def database() -> Iterator[str]:
    """Start a migrated PostgreSQL, and yield its URL."""
    with tempfile.TemporaryDirectory(prefix="routoo-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with migrated_database(None, folder) as url:
            yield libpq_url(url)


def _rates(bench: Bench, options: argparse.Namespace) -> Iterator[Figure]:
    calls = dict.fromkeys(("aiohttp", *sorted(OURS)), options.calls)
    if options.peers_python:
        calls["litellm"] = options.litellm_calls
    turns: dict[str, list[dict[str, Any]]] = {client: [] for client in calls}
    for _ in range(options.turns):
        for client, found in turns.items():
            found.append(bench.run(client, calls[client], options.concurrency))
    rate = {
        client: statistics.median(turn["jobs_per_s"] for turn in found)
        for client, found in turns.items()
    }
    for client, found in turns.items():
        cpu_ms = statistics.median(turn["cpu_s"] for turn in found) * 1000 / calls[client]
        yield Figure(f"dispatch_{client}_jobs", rate[client], "jobs/s")
        bare_ms = (
            statistics.median(turn["cpu_s"] for turn in turns["aiohttp"]) * 1000 / options.calls
        )
        yield Figure(f"dispatch_{client}_cpu", cpu_ms, "ms/call", bare_ms, bare_ms / cpu_ms)
    per_s = [statistics.median(_calls_per_s(turns[one])) for one in ("routoo_probed", "routoo")]
    yield Figure("dispatch_probed_per_call", per_s[0], "calls/s", per_s[1], per_s[0] / per_s[1])
    for peer in rate.keys() - {"routoo"}:
        ratio = rate["routoo"] / rate[peer]
        yield Figure(f"dispatch_vs_{peer}", rate["routoo"], "jobs/s", rate[peer], ratio)


def _calls_per_s(turns: list[dict[str, Any]]) -> list[float]:
    return [turn["calls"] / turn["wall_s"] for turn in turns]


def _overheads(bench: Bench, options: argparse.Namespace) -> Iterator[Figure]:
    """Measure what a client adds to a call's latency while it is not busy with others.

    Ours is the latency that it records: from the sending to the whole answer, without the wait for
    money and a slot.
    """
    if options.latency_s > 1:
        return  # what a client adds can't be told from the latency's own spread
    for client in ("aiohttp", "routoo", *(["litellm"] if options.peers_python else [])):
        found = bench.run(client, SHARD_SIZE, QUIET_CONCURRENCY)["latencies_s"]
        cuts = statistics.quantiles(found, n=100)
        yield Figure(f"dispatch_{client}_overhead_p50", (cuts[49] - options.latency_s) * 1000, "ms")
        yield Figure(f"dispatch_{client}_overhead_p99", (cuts[98] - options.latency_s) * 1000, "ms")


if __name__ == "__main__":
    main()
