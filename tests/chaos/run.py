"""Batches that are to end well whatever happens to the processes: `make chaos`.

A seed decides what happens and when. `python -m tests.chaos.run --seed 7 --seconds 600` repeats a
run; without a seed it draws and prints one. In the end the tables and the endpoint's own books must
agree, and what is found is printed.
"""

import argparse
import random
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg

from routoo.settings import Settings
from tests.chaos.events import CONCURRENCY, Plan, Run, prompt_of
from tests.chaos.stack import SECRET, ChaosStack
from tests.fakes.openai_process import FakeServerProcess
from tests.services import short_folder

PRICE_USD_PER_MTOK = Decimal(1)
MOST_MB = {"dispatcher": 400.0, "beat": 300.0, "scorer": 1_500.0}
"""Caps of a process's memory, by role; a scorer has PyTorch and a model in it."""
_SHORT_SPAN_S, _SHORT_SPANS = 10.0, 4
"""A quarter of a limit a minute may go out within ten seconds."""
_FAULTS = [
    {"kind": "status", "every": 29, "status": 500, "message": f"the key {SECRET} is overloaded"},
    {"kind": "reset", "every": 41},
    {"kind": "missing_usage", "every": 31},
    {"kind": "rate_limit", "every": 37, "retry_after": "0"},
]
_HEADERS = {"x-ratelimit-limit-requests": "1e300", "x-ratelimit-reset-requests": "9" * 400}


def run(plan: Plan, home: Path) -> Run:
    """Run a plan, and check what must hold in the end.

    Raises:
        AssertionError: Something does not hold; the message names it.
    """
    script = {
        "models": {
            "small": {
                "latency_s": {"low": 0.1, "high": 0.6},
                "api_key": SECRET,
                "headers": _HEADERS,
                "faults": _FAULTS,
            }
        },
        "batches": {"latency_s": 1.0},
    }
    settings = {
        "ROUTOO_LEASE_S": str(plan.settings.lease_s),
        "ROUTOO_RECOVERY_INTERVAL_S": str(plan.settings.recovery_interval_s),
        "ROUTOO_SHARD_SIZE": str(plan.settings.shard_size),
        "ROUTOO_CHANNEL_POLL_S": str(plan.settings.channel_poll_s),
        "CHAOS_SCORING": "real" if plan.real_scoring else "guess",
    }
    stack = ChaosStack(home, plan.broker_url, settings=settings, on_small_disk=plan.on_small_disk)
    with FakeServerProcess(script) as server:
        under_way = Run(plan, stack, server, random.Random(plan.seed))
        try:
            stack.start()
            _go(under_way)
            check(under_way)
        finally:
            print(summary(under_way), flush=True)
            stack.stop()
    return under_way


def _go(run: Run) -> None:
    stack, plan = run.stack, run.plan
    for name in ("scorer-1", "dispatcher-1", "dispatcher-2", "beat"):
        stack.spawn(name, name.partition("-")[0])
    for _ in range(plan.batches):
        run.submit()
    ends_s = time.monotonic() + plan.seconds
    next_s = time.monotonic() + plan.pause_s
    while time.monotonic() < ends_s and not (run.has_happened and run.are_over()):
        is_ready = all(worker.is_ready for worker in stack.workers.values())
        is_left = not (plan.events and run.has_happened)
        if is_left and is_ready and time.monotonic() >= next_s:
            run.act()
            next_s = time.monotonic() + run.rng.expovariate(1 / plan.pause_s)
        stack.revive()
        run.watch_take_overs()
        run.watch_memory()
        time.sleep(0.2)
    stack.mend()
    patience_s = time.monotonic() + plan.patience_s
    while not run.are_over():
        assert time.monotonic() < patience_s, f"batches that don't end: {_open(stack)}"
        stack.revive()
        run.watch_take_overs()
        run.watch_memory()
        time.sleep(0.2)


def _open(stack: ChaosStack) -> list[tuple[Any, ...]]:
    return stack.query(
        "SELECT b.id::text, b.status, b.error, s.stage, s.shard_no, s.state, s.epoch, s.attempts"
        " FROM batches b JOIN shards s ON s.batch_id = b.id WHERE s.state <> 'done'"
    )


# What must hold


def check(run: Run) -> None:
    """Check every batch, the endpoint's books, the logs, and where the secret went."""
    log = run.server.log()
    for batch_id in run.batch_ids:
        _check_results(run, batch_id)
    _check_money(run, log)
    _check_limits(run.plan, log)
    late = [one for one in run.take_overs_s if one > run.plan.take_over_s]
    assert not late, f"shards taken over after {late} s"
    greedy = {role: mb for role, mb in run.peak_mb.items() if mb > MOST_MB[role]}
    assert not greedy, f"more memory than allowed, in MB: {greedy}"
    assert not run.stack.given_up, run.stack.given_up
    assert run.has_happened, run.events
    _check_words(run.stack.logs() | {"commands": "\n".join(run.printed)})
    _check_secret(run.stack)


def _check_words(said: Mapping[str, str]) -> None:
    """Check what workers and commands told people."""
    for name, text in said.items():
        assert SECRET not in text, name
        for word in ("Traceback", "ignored terminating", "delayed delivery", "Exception ignored"):
            assert word not in text, f"{name}: {_around(text, word)}"


def _check_limits(plan: Plan, log: Sequence[dict[str, Any]]) -> None:
    """Check the calls in flight, and the limits in each window, by the endpoint's own log."""
    most = most_in_flight(log)
    assert most <= CONCURRENCY, f"{most} calls in flight of {CONCURRENCY}"
    calls = [(row["started_at"], 1) for row in log]
    tokens = [(row["started_at"], row["prompt_tokens"] + row["completion_tokens"]) for row in log]
    for what, found, limit in (
        ("calls", calls, plan.calls_per_minute),
        ("tokens", tokens, plan.tokens_per_minute),
    ):
        for span_s, allowed in ((60.0, limit), (_SHORT_SPAN_S, limit / _SHORT_SPANS)):
            most = most_in_span(found, span_s)
            assert most <= allowed, f"{most} {what} in {span_s:g} s, of {allowed:g}"


def most_in_span(found: Sequence[tuple[float, int]], span_s: float) -> int:
    """Return the most that came within so many seconds, wherever they begin."""
    arrivals = sorted(found)
    first = most = now = 0
    for at_s, amount in arrivals:
        now += amount
        while arrivals[first][0] < at_s - span_s:
            now -= arrivals[first][1]
            first += 1
        most = max(most, now)
    return most


def _check_results(run: Run, batch_id: str) -> None:
    found = run.stack.query(
        "SELECT custom_id, status, answer FROM batch_results WHERE batch_id = %s", batch_id
    )
    assert [row[0] for row in found] == [f"job-{n}" for n in range(run.plan.jobs)], batch_id
    (batch,) = run.stack.query("SELECT status, error FROM batches WHERE id = %s", batch_id)
    assert batch[0] in {"completed", "cancelled"}, batch
    for number, (_, status, answer) in enumerate(found):
        if batch[0] == "cancelled" and status == "cancelled":
            continue
        assert status == "succeeded", (batch_id, number, status)
        assert answer == answer_to(prompt_of(number)), (number, answer)


def _check_money(run: Run, log: Sequence[dict[str, Any]]) -> None:
    """Check the endpoint's books <= our ledgers <= the budgets, and each call in our books."""
    tokens = sum(row["prompt_tokens"] + row["completion_tokens"] for row in log)
    billed_usd = PRICE_USD_PER_MTOK * tokens / 1_000_000
    at_providers = run.server.batch_log()["batches"]
    billed_usd += PRICE_USD_PER_MTOK / 2 * sum(one["billed_tokens"] for one in at_providers) / 10**6
    ledgers = run.stack.query("SELECT limit_usd, reserved_usd, spent_usd, overrun_usd FROM ledgers")
    for limit_usd, reserved_usd, spent_usd, overrun_usd in ledgers:
        assert (reserved_usd, overrun_usd) == (0, 0)
        assert spent_usd <= limit_usd
    spent_usd = sum((row[2] for row in ledgers), Decimal(0))
    assert billed_usd <= spent_usd, (billed_usd, spent_usd)
    (attempts,) = run.stack.query("SELECT count(*) FROM attempts")
    assert len(log) <= attempts[0], f"{len(log)} calls arrived, {attempts[0]} are in our books"


def most_in_flight(log: Sequence[dict[str, Any]]) -> int:
    """Return the most calls that the endpoint was busy with at once."""
    known = [row for row in log if row["ended_at"] is not None]
    edges = [(row["started_at"], 1) for row in known] + [(row["ended_at"], -1) for row in known]
    most = now = 0
    for _, step in sorted(edges):
        now += step
        most = max(most, now)
    return most


def _check_secret(stack: ChaosStack) -> None:
    """Look for the planted secret in all that the database holds, and in every file."""
    tables = stack.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    with psycopg.connect(stack.environ["ROUTOO_DATABASE_URL"]) as conn:
        for (table,) in tables:
            with conn.cursor().copy(f"COPY {table} TO STDOUT".encode()) as rows:
                for block in rows:
                    assert SECRET.encode() not in bytes(block), table
    for path in stack.home.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


def answer_to(prompt: str) -> str:
    """Return what the endpoint answers."""
    return f"small says {sha256(prompt.encode()).hexdigest()[:8]}"


def _around(text: str, word: str) -> str:
    place = text.index(word)
    return text[max(0, place - 500) : place + 2_000]


def main() -> None:
    """Run it in full, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--jobs", type=int, default=1_000)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--broker-url", help="of a RabbitMQ or Redis; a Valkey is started if unset")
    parser.add_argument("--real-scoring", action="store_true", help="by the example's checkpoint")
    parser.add_argument("--small-disk", action="store_true", help="fill the disk too (needs root)")
    parser.add_argument(
        "--default-settings", action="store_true", help="leases of a minute and shards of 1,000"
    )
    options = parser.parse_args()
    plan = Plan(
        options.seed,
        options.seconds,
        jobs=options.jobs,
        batches=options.batches,
        broker_url=options.broker_url,
        on_small_disk=options.small_disk,
        real_scoring=options.real_scoring,
        outages_s=(0.0, 3.0, 60.0),
        **({"settings": Settings()} if options.default_settings else {}),
    )
    print(f"seed {plan.seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # no process is left behind
    with short_folder() as folder:
        run(plan, folder / "home")


def summary(seen: Run) -> str:
    """Return what happened, and how fast shards were taken over."""
    took = sorted(seen.take_overs_s)
    longest = f"{took[-1]:.1f} s" if took else "none"
    return re.sub(
        r"\s+",
        " ",
        f"seed {seen.plan.seed}: {len(seen.batch_ids)} batches of {seen.plan.jobs} jobs,"
        f" {seen.stack.kills} kills, events {dict(seen.events)},"
        f" {len(took)} shards taken over, the slowest after {longest}, memory at most"
        f" { ({role: round(mb) for role, mb in seen.peak_mb.items()}) } MB",
    )


if __name__ == "__main__":
    main()
