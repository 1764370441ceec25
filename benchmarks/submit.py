"""Measures rows/s from a JSONL file to committed jobs, beside a raw COPY, and peak memory.

The raw COPY is psycopg's `write_row` of rows that are in memory and parsed already, into the same
table with the same indexes; ours reads, parses and checks the file too. Both take turns on one
fresh PostgreSQL, embedded where no --database-url is given (an empty, migrated database: it is
filled). Memory is that of a `routoo-producer submit` process of its own (VmHWM).
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import orjson
import psycopg
from figures import Figure, show
from servers import migrated_database

from producer.rows.source import Source
from producer.submit import BatchRequest, submit
from routoo.domain.endpoint import Endpoint
from routoo.domain.pool import CandidateModel, Pool, Tariff
from routoo.store.database import Database, libpq_url

SHARD_SIZE = 1000
FEW_ROWS, MANY_ROWS = 10_000, 1_000_000
_KIB_A_MB = 1_000_000 / 1024
_RUN_AND_TELL_PEAK = """
import re, sys
from pathlib import Path
from producer.cli import main
try:
    main()
finally:
    status = Path("/proc/self/status").read_text()
    sys.stderr.write("peak_kib=" + re.search(r"VmHWM:\\s+(\\d+)", status)[1])
"""


def main() -> None:
    """Measure and print."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="routoo-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with migrated_database(options.database_url, folder) as url:
            show([_rate(url, folder, options)], as_json=options.json)
            show([_memory(url, folder, options.many_rows)], as_json=options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="of the comparison")
    parser.add_argument("--many-rows", type=int, default=MANY_ROWS, help="of the memory check")
    parser.add_argument("--turns", type=int, default=3, help="the median of each is taken")
    parser.add_argument("--database-url", help="empty database; default: an embedded server")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _rate(url: str, folder: Path, options: argparse.Namespace) -> Figure:
    path = _write_rows(folder / "rows.jsonl", options.rows)
    ours, raw = [], []
    for _ in range(options.turns):
        ours.append(options.rows / _submit_s(url, path))
        raw.append(options.rows / _copy_s(url, path))
    rate, reference = statistics.median(ours), statistics.median(raw)
    return Figure("submit_vs_copy", rate, "rows/s", reference, rate / reference)


def _write_rows(path: Path, count: int) -> Path:
    with path.open("wb") as stream:
        for number in range(count):
            question = f"Question {number}: " + "what is the capital of the land? " * 10
            messages = [
                {"role": "system", "content": "Answer briefly."},
                {"role": "user", "content": question},
            ]
            body = {"messages": messages, "max_tokens": 64}
            row = {
                "custom_id": f"task-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": body,
            }
            stream.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    return path


def _submit_s(url: str, path: Path) -> float:
    async def run() -> float:
        async with Database(url) as database:
            start_s = time.perf_counter()
            await submit(
                database, Source.of(str(path)), BatchRequest(_pool()), shard_size=SHARD_SIZE
            )
            return time.perf_counter() - start_s

    return asyncio.run(run())


def _copy_s(url: str, path: Path) -> float:
    parsed = map(orjson.loads, path.read_bytes().splitlines())
    batch_id = str(uuid4())
    rows = [
        (batch_id, number, row["custom_id"], orjson.dumps(row["body"]).decode())
        for number, row in enumerate(parsed)
    ]
    with psycopg.connect(libpq_url(url)) as connection, connection.cursor() as cursor:
        start_s = time.perf_counter()
        with cursor.copy("COPY jobs (batch_id, job_no, custom_id, body) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        connection.commit()
        return time.perf_counter() - start_s


def _memory(url: str, folder: Path, many_rows: int) -> Figure:
    pool = folder / "pool.yaml"
    pool.write_text(json.dumps(_pool().model_dump(mode="json", exclude_none=True)))  # JSON is YAML
    few_mb, many_mb = (
        _peak_mb(url, pool, _write_rows(folder / f"{count}.jsonl", count))
        for count in (FEW_ROWS, many_rows)
    )
    return Figure("submit_peak_rss_mb", many_mb, "MB", few_mb, many_mb / few_mb)


def _peak_mb(url: str, pool: Path, path: Path) -> float:
    environment = os.environ | {"ROUTOO_DATABASE_URL": url, "ROUTOO_HOME": str(path.parent)}
    environment |= {"ROUTOO_PING_TIMEOUT_S": "0", "ROUTOO_CHECKPOINT": str(path.parent / "none")}
    command = [sys.executable, "-c", _RUN_AND_TELL_PEAK, "submit", str(path), "--pool", str(pool)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return int(done.stderr.rpartition("peak_kib=")[2]) / _KIB_A_MB


def _pool() -> Pool:
    model = CandidateModel(
        name="model",
        endpoint=Endpoint(base_url="http://localhost:1/v1"),
        price_usd_per_mtok=Tariff(prompt=Decimal(1), completion=Decimal(2)),
        context_window_tokens=4096,
    )
    return Pool(models=(model,))


if __name__ == "__main__":
    main()
