"""Batches that are to end well whatever happens to the processes: `make chaos`.

A seed decides what happens and when. `python -m tests.chaos.run --seed 7 --seconds 600` repeats a
run; without a seed it draws and prints one. In the end the tables and the endpoint's own books must
agree, and what is found is printed.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg

from tests.chaos.stack import SECRET, ChaosStack
from tests.fakes.openai_process import FakeServerProcess
from tests.services import short_folder

MODEL = "smollm2-135m-instruct"
"""A model that the example's checkpoint knows; the fake endpoint calls it small."""
PRICE_USD_PER_MTOK = Decimal(1)
CONCURRENCY = 12
LEASE_S, TICK_S = 6.0, 2.0
_SLACK_S = 4.0
"""Of a loaded machine, on top of a lease and two ticks."""
_PRODUCER = Path(sys.executable).with_name("routoo-producer")
_OVER = {"completed", "cancelled", "failed"}
_FAULTS = [
    {"kind": "status", "every": 29, "status": 500},
    {"kind": "reset", "every": 41},
    {"kind": "missing_usage", "every": 31},
    {"kind": "rate_limit", "every": 37, "retry_after": "0"},
]
_HEADERS = {"x-ratelimit-limit-requests": "1e300", "x-ratelimit-reset-requests": "9" * 400}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does."""

    seed: int
    seconds: float
    """How long things happen, in seconds; then all is mended, and the batches may end."""
    jobs: int = 120
    batches: int = 3
    pause_s: float = 4.0
    """Mean time between two events, in seconds."""
    patience_s: float = 300.0
    """Within so long after the last event every batch has ended, in seconds."""
    broker_url: str | None = None
    on_small_disk: bool = False
    real_scoring: bool = False
    """By the example's checkpoint, instead of the same guess for each prompt."""
    outages_s: tuple[float, ...] = (0.0, 3.0)
    """How long servers may be away, in seconds."""


@dataclass(slots=True)
class Run:
    """A run under way."""

    plan: Plan
    stack: ChaosStack
    server: FakeServerProcess
    rng: random.Random
    batch_ids: list[str] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    orphans: dict[tuple[str, int, int], float] = field(default_factory=dict)
    """Shards of dispatchers that died, by batch, number and epoch: when."""
    take_overs_s: list[float] = field(default_factory=list)
    disturbed_at_s: float = 0.0
    """When a server was away last: no take-over is expected meanwhile."""

    # What happens

    def act(self) -> None:
        """Let one thing happen."""
        acts: list[tuple[int, Callable[[], None]]] = [
            (6, self.kill_one),
            (2, self.kill_all),
            (2, self.restart_database),
            (2, self.restart_broker),
            (2, self.suspend_one),
            (2, self.pause_batch),
            (1, self.jump_clock),
            (1, self.cancel_and_retry),
            (1, self.kill_submission),
        ]
        if self.plan.on_small_disk:
            acts.append((1, self.fill_disk))
        weights = [weight for weight, _ in acts]
        act = self.rng.choices([one for _, one in acts], weights)[0]
        self.events[act.__name__] += 1
        act()

    def _name(self) -> str:
        return self.rng.choice(sorted(self.stack.workers))

    def kill_one(self) -> None:
        name = self._name()
        self._note_orphans(name)
        self.stack.kill([name])

    def kill_all(self) -> None:
        for name in self.stack.workers:
            self._note_orphans(name)
        self.stack.kill(list(self.stack.workers))

    def restart_database(self) -> None:
        self.disturbed_at_s = time.monotonic() + self.plan.outages_s[-1] + LEASE_S
        self.stack.halt_postgres()
        time.sleep(self.rng.choice(self.plan.outages_s))
        self.stack.mend()

    def restart_broker(self) -> None:
        self.stack.halt_broker()
        time.sleep(self.rng.choice(self.plan.outages_s))
        self.stack.mend()

    def fill_disk(self) -> None:
        self.disturbed_at_s = time.monotonic() + LEASE_S
        self.stack.fill_disk()
        time.sleep(2.0)
        self.stack.free_disk()
        self.stack.mend()

    def suspend_one(self) -> None:
        """Stop a process for longer than its lease, so that its shards are taken over."""
        worker = self.stack.workers[self._name()]
        self.stack.suspend(worker)
        time.sleep(LEASE_S + TICK_S)
        self.stack.resume(worker)

    def jump_clock(self) -> None:
        self.stack.jump_clock(self._name(), self.rng.choice([-1, 1]))

    def pause_batch(self) -> None:
        batch_id = self.rng.choice(self.batch_ids)
        self._command("pause", batch_id)
        self._command("resume", batch_id, "--budget-usd", str(self.rng.choice(["0.05", "0.06"])))

    def kill_submission(self) -> None:
        """Kill a submission half-way, and submit twice at once with the same key."""
        key = f"again-{len(self.batch_ids)}"
        first = self._submission(key)
        time.sleep(self.rng.uniform(0.2, 2.0))
        first.kill()
        first.wait()
        both = [self._submission(key), self._submission(key)]
        said = [one.communicate() for one in both]
        printed = {out.strip() for out, _ in said}
        assert len(printed) == 1, said
        assert all(printed), said
        self.batch_ids += printed

    def cancel_and_retry(self) -> None:
        """Cancel a batch with its calls in flight, and open what it left unanswered again."""
        batch_id = self.rng.choice(self.batch_ids)
        self._command("cancel", batch_id)
        self._command("retry", batch_id)

    def _note_orphans(self, name: str) -> None:
        if name.startswith("dispatcher") and time.monotonic() > self.disturbed_at_s:
            pid = self.stack.workers[name].pid
            found = self.stack.query(
                "SELECT batch_id::text, shard_no, epoch FROM shards s JOIN batches b"
                " ON b.id = s.batch_id WHERE s.state = 'leased' AND stage = 'dispatch'"
                " AND b.status = 'in_progress' AND owner LIKE %s",
                f"%:{pid}",
            )
            self.orphans |= {(one[0], one[1], one[2]): time.monotonic() for one in found}

    def watch_take_overs(self) -> None:
        """See which of the orphaned shards have a new owner."""
        now_s = time.monotonic()
        if now_s < self.disturbed_at_s:
            self.orphans.clear()
        workers = self.stack.workers.items()
        if not any(one.is_ready for name, one in workers if name.startswith("dispatcher")):
            self.orphans = dict.fromkeys(self.orphans, now_s)  # nobody is there to take them over
        for (batch_id, shard_no, epoch), since_s in list(self.orphans.items()):
            (found,) = self.stack.query(
                "SELECT s.epoch > %s OR b.status <> 'in_progress' FROM shards s JOIN batches b"
                " ON b.id = s.batch_id WHERE batch_id = %s AND stage = 'dispatch'"
                " AND shard_no = %s",
                *(epoch, batch_id, shard_no),
            )
            if found[0]:
                self.take_overs_s.append(now_s - since_s)
                del self.orphans[batch_id, shard_no, epoch]

    # Batches

    def submit(self) -> None:
        """Submit a batch."""
        submission = self._submission(None)
        printed, said = submission.communicate()
        assert submission.returncode == 0, said
        self.batch_ids.append(printed.strip())

    def _submission(self, key: str | None) -> "subprocess.Popen[str]":
        rows, pool = self.stack.home / "jobs.jsonl", self.stack.home / "pool.json"
        if not rows.exists():
            prompts = [f"What is the number {n} good for?" for n in range(self.plan.jobs)]
            lines = [
                json.dumps({"custom_id": f"job-{n}", "prompt": prompt})
                for n, prompt in enumerate(prompts)
            ]
            rows.write_text("\n".join(lines))
            pool.write_text(json.dumps({"models": [self._model()]}))
        more = [] if key is None else ["--idempotency-key", key]
        return subprocess.Popen(
            [
                *(_PRODUCER, "submit", rows, "--pool", pool),
                *("--budget-usd", "0.05", "--no-ping", *more),
            ],
            env=self.stack.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def _model(self) -> dict[str, Any]:
        return {
            "name": MODEL,
            "endpoint": {
                "base_url": self.server.base_url,
                "model": "small",
                "max_concurrency": CONCURRENCY,
                "timeout_s": 20,
                "api_key_env": "CHAOS_KEY",
            },
            "price_usd_per_mtok": {"prompt": "1", "completion": "1"},
            "context_window_tokens": 4096,
            "max_completion_tokens": 20,
        }

    def _command(self, name: str, batch_id: str, *options: str) -> None:
        subprocess.run(
            [_PRODUCER, name, batch_id, *options],
            env=self.stack.environ,
            capture_output=True,
            check=False,
            timeout=120,
        )

    def are_over(self) -> bool:
        """Whether every batch has ended."""
        found = self.stack.query("SELECT status FROM batches")
        return len(found) > 0 and all(status in _OVER for (status,) in found)


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
        }
    }
    settings = {
        "ROUTOO_LEASE_S": str(LEASE_S),
        "ROUTOO_RECOVERY_INTERVAL_S": str(TICK_S),
        "ROUTOO_SHARD_SIZE": "10",
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
    while time.monotonic() < ends_s and not run.are_over():
        is_ready = all(worker.is_ready for worker in stack.workers.values())
        if is_ready and time.monotonic() >= next_s:
            run.act()
            next_s = time.monotonic() + run.rng.expovariate(1 / plan.pause_s)
        stack.revive()
        run.watch_take_overs()
        time.sleep(0.2)
    stack.mend()
    patience_s = time.monotonic() + plan.patience_s
    while not run.are_over():
        assert time.monotonic() < patience_s, f"batches that don't end: {_open(stack)}"
        stack.revive()
        run.watch_take_overs()
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
    most = most_in_flight(log)
    assert most <= CONCURRENCY, f"{most} calls in flight of {CONCURRENCY}"
    late = [one for one in run.take_overs_s if one > LEASE_S + 2 * TICK_S + _SLACK_S]
    assert not late, f"shards taken over after {late} s"
    # A Valkey on the full disk refuses everything, and Celery ends its process then.
    assert run.events["fill_disk"] or not run.stack.given_up, run.stack.given_up
    for name, text in run.stack.logs().items():
        assert "Traceback" not in text, f"{name}: {_around(text, 'Traceback')}"
        assert "ignored terminating" not in text, name
        assert SECRET not in text, name
    _check_secret(run.stack)


def _check_results(run: Run, batch_id: str) -> None:
    found = run.stack.query(
        "SELECT custom_id, status, answer FROM batch_results WHERE batch_id = %s", batch_id
    )
    assert [row[0] for row in found] == [f"job-{n}" for n in range(run.plan.jobs)], batch_id
    (batch,) = run.stack.query("SELECT status, error FROM batches WHERE id = %s", batch_id)
    assert batch[0] in {"completed", "cancelled"}, batch
    for number, (_, status, answer) in enumerate(found):
        prompt = f"What is the number {number} good for?"
        if batch[0] == "cancelled" and status == "cancelled":
            continue
        assert status == "succeeded", (batch_id, number, status)
        assert answer == f"small says {sha256(prompt.encode()).hexdigest()[:8]}", (number, answer)


def _check_money(run: Run, log: Sequence[dict[str, Any]]) -> None:
    """Check the endpoint's books <= our ledgers <= the budgets, and each call in our books."""
    tokens = sum(row["prompt_tokens"] + row["completion_tokens"] for row in log)
    billed_usd = PRICE_USD_PER_MTOK * tokens / 1_000_000
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
    """Look for the planted secret in everything that the database holds."""
    tables = stack.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    with psycopg.connect(stack.environ["ROUTOO_DATABASE_URL"]) as conn:
        for (table,) in tables:
            with conn.cursor().copy(f"COPY {table} TO STDOUT".encode()) as rows:
                for block in rows:
                    assert SECRET.encode() not in bytes(block), table


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
    )
    print(f"seed {plan.seed}", flush=True)
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
        f" {len(took)} shards taken over, the slowest after {longest}",
    )


if __name__ == "__main__":
    main()
