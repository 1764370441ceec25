"""What happens to batches and the processes that work on them, drawn from a seed."""

import random
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from routoo.settings import Settings
from tests.chaos.stack import ChaosStack
from tests.chaos.submission import PRODUCER, ample_usd, begin, end, model
from tests.fakes.openai_process import FakeServerProcess

CONCURRENCY = 12
_OVER = {"completed", "cancelled", "failed"}
_KINDS: tuple[tuple[str, ...], ...] = ((), ("--cache", "1h"), ("--max-latency-s", "5"), ())
"""Options of the batches in turn: plain calls, the response cache, hedged calls, and, with the last
one, the provider's batch API."""
_QUICK = Settings(lease_s=6.0, recovery_interval_s=2.0, shard_size=10, channel_poll_s=1.0)
_TOKENS_A_CALL = 15
_PEAK = re.compile(r"VmHWM:\s+(\d+)")


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
    settings: Settings = _QUICK
    """The workers' settings."""
    calls_per_minute: int = 1_500
    """Limit of the endpoint, of which tokens are limited too: both bind."""
    events: tuple[str, ...] = ()
    """What happens, in this order; drawn as long as things happen where it is empty."""
    slack_s: float = 4.0
    """Of a loaded machine, on top of a lease and two ticks, in seconds."""

    @property
    def tokens_per_minute(self) -> int:
        return self.calls_per_minute * _TOKENS_A_CALL

    @property
    def take_over_s(self) -> float:
        """Within so long a shard is taken over, in seconds."""
        return self.settings.lease_s + 2 * self.settings.recovery_interval_s + self.slack_s


class Orphan(NamedTuple):
    """A shard whose worker died."""

    role: str
    batch_id: str
    stage: str
    shard_no: int
    epoch: int


@dataclass(slots=True)
class Run:
    """A run under way."""

    plan: Plan
    stack: ChaosStack
    server: FakeServerProcess
    rng: random.Random
    batch_ids: list[str] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    orphans: dict[Orphan, float] = field(default_factory=dict)
    """Shards of workers that died: when."""
    take_overs_s: list[float] = field(default_factory=list)
    peak_mb: dict[str, float] = field(default_factory=dict)
    """Most memory that a process of each role had."""
    disturbed_at_s: float = 0.0
    """When a server was away last: no take-over is expected meanwhile."""
    printed: list[str] = field(default_factory=list)
    """What the producer's commands said."""
    done: int = 0
    """How many of the plan's events happened."""

    # What happens

    @property
    def has_happened(self) -> bool:
        """Whether all of the plan's events have."""
        return self.done >= len(self.plan.events)

    def act(self) -> None:
        """Let one thing happen."""
        act = self._next()
        self.done += 1
        self.events[act.__name__] += 1
        act()

    def _next(self) -> Callable[[], None]:
        if self.plan.events:
            found: Callable[[], None] = getattr(self, self.plan.events[self.done])
            return found
        acts: list[tuple[int, Callable[[], None]]] = [
            (6, self.kill_one),
            (2, self.kill_all),
            (2, self.restart_database),
            (2, self.restart_broker),
            (2, self.suspend_one),
            (2, self.pause_batch),
            (1, self.cancel_and_retry),
            (1, self.kill_submission),
        ]
        if self.plan.on_small_disk:
            acts.append((1, self.fill_disk))
        if self.stack.can_jump_clocks:
            acts.append((2, self.jump_clock))
        weights = [weight for weight, _ in acts]
        return self.rng.choices([one for _, one in acts], weights)[0]

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
        outage_s = self.rng.choice(self.plan.outages_s)
        self.disturbed_at_s = time.monotonic() + outage_s + self.plan.settings.lease_s
        self.stack.halt_postgres()
        time.sleep(outage_s)
        self.stack.mend()

    def restart_broker(self) -> None:
        self.stack.halt_broker()
        self._look_on(self.rng.choice(self.plan.outages_s))
        self.stack.mend()

    def fill_disk(self) -> None:
        self.disturbed_at_s = time.monotonic() + self.plan.settings.lease_s
        self.stack.fill_disk()
        time.sleep(2.0)
        self.stack.free_disk()
        self.stack.mend()

    def suspend_one(self) -> None:
        """Stop a process for longer than its lease, so that its shards are taken over."""
        worker = self.stack.workers[self._name()]
        self.stack.suspend(worker)
        settings = self.plan.settings
        self._look_on(settings.lease_s + settings.recovery_interval_s)
        self.stack.resume(worker)

    def _look_on(self, seconds: float) -> None:
        """Let time pass, and see which shards are taken over meanwhile."""
        ends_s = time.monotonic() + seconds
        while time.monotonic() < ends_s:
            self.watch_take_overs()
            time.sleep(0.2)

    def jump_clock(self) -> None:
        self.stack.jump_clock(self._name(), self.rng.choice([-86_400, -3_600, -10, 10, 3_600]))

    def pause_batch(self) -> None:
        batch_id = self.rng.choice(self.batch_ids)
        self._command("pause", batch_id)
        budget_usd = ample_usd(self.plan.jobs + self.rng.choice([0, 100]))
        self._command("resume", batch_id, "--budget-usd", budget_usd)

    def kill_submission(self) -> None:
        """Kill a submission half-way, and submit twice at once with the same key."""
        key = "--idempotency-key", f"again-{len(self.batch_ids)}"
        first = self._submission(*key)
        time.sleep(self.rng.uniform(0.2, 2.0))
        first.kill()
        self.printed += first.communicate()
        both = [self._submission(*key), self._submission(*key)]
        said = [one.communicate() for one in both]
        self.printed += [text for one in said for text in one]
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
        if time.monotonic() > self.disturbed_at_s:
            worker = self.stack.workers[name]
            found = self.stack.query(
                "SELECT batch_id::text, stage, shard_no, epoch FROM shards s JOIN batches b"
                " ON b.id = s.batch_id WHERE s.state = 'leased' AND b.status = 'in_progress'"
                " AND owner LIKE %s",
                f"%:{worker.pid}",
            )
            now_s = time.monotonic()
            self.orphans |= {Orphan(worker.role, *one): now_s for one in found}

    def watch_take_overs(self) -> None:
        """See which of the orphaned shards have a new owner."""
        now_s = time.monotonic()
        if now_s < self.disturbed_at_s:
            self.orphans.clear()
        ready = {one.role for one in self.stack.workers.values() if one.is_ready}
        for orphan, since_s in list(self.orphans.items()):
            if orphan.role not in ready:
                self.orphans[orphan] = now_s  # nobody is there to take it over
            elif self._is_taken(orphan):
                self.take_overs_s.append(now_s - since_s)
                del self.orphans[orphan]

    def _is_taken(self, orphan: Orphan) -> bool:
        (found,) = self.stack.query(
            "SELECT s.epoch > %s OR b.status <> 'in_progress' FROM shards s JOIN batches b"
            " ON b.id = s.batch_id WHERE batch_id = %s AND stage = %s AND shard_no = %s",
            *(orphan.epoch, orphan.batch_id, orphan.stage, orphan.shard_no),
        )
        return bool(found[0])

    # Batches

    def submit(self) -> None:
        """Submit a batch."""
        batch_id, said = end(self._submission())
        self.batch_ids.append(batch_id)
        self.printed.append(said)

    def _submission(self, *options: str) -> "subprocess.Popen[str]":
        prompts = [prompt_of(number) for number in range(self.plan.jobs)]
        turn = len(self.batch_ids) % len(_KINDS)
        asked = model(
            self.server.base_url,
            concurrency=CONCURRENCY,
            requests_per_minute=self.plan.calls_per_minute,
            tokens_per_minute=self.plan.tokens_per_minute,
            has_batch_channel=turn == len(_KINDS) - 1,
        )
        return begin(self.stack, prompts, [asked], *_KINDS[turn], *options)

    def watch_memory(self) -> None:
        """Note the most memory that each process has had."""
        for worker in self.stack.workers.values():
            try:
                status = Path(f"/proc/{worker.pid}/status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if (found := _PEAK.search(status)) is not None:
                peak_mb = int(found[1]) * 1024 / 1e6
                self.peak_mb[worker.role] = max(peak_mb, self.peak_mb.get(worker.role, 0.0))

    def _command(self, name: str, batch_id: str, *options: str) -> None:
        done = subprocess.run(
            [PRODUCER, name, batch_id, *options],
            env=self.stack.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        self.printed += [done.stdout, done.stderr]

    def are_over(self) -> bool:
        """Whether every batch has ended."""
        found = self.stack.query("SELECT status FROM batches")
        return len(found) > 0 and all(status in _OVER for (status,) in found)


def prompt_of(number: int) -> str:
    """Return the prompt of a job."""
    return f"What is the number {number} good for?"
