"""Follows the batch of `pipeline.py`: progress, memory of processes, commands given meanwhile."""

import asyncio
import json
import statistics
import subprocess
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from uuid import UUID

import numpy as np
import psycopg
from figures import Figure
from servers import BIN, Stack, cpu_s, memory_mb

from routoo.store.batches import replans
from routoo.store.database import Database

_POLL_S = 0.25
_SAMPLE_EVERY_S = 1.0
_PROGRESS_EVERY_S = 15.0
_REPLAN_AT = 0.3
"""Share of the jobs that are answered when the batch is planned again."""
_SEEN = """
    SELECT status,
        (SELECT coalesce(sum(job_count), 0)::int FROM shards s WHERE s.batch_id = b.id
         AND stage = 'score' AND state = 'done'),
        (SELECT coalesce(sum(results), 0)::int FROM batch_counts c WHERE c.batch_id = b.id),
        (SELECT state = 'done' FROM shards s WHERE s.batch_id = b.id AND stage = 'select'), id
    FROM batches b
"""
Connection = psycopg.Connection[tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class _Sample:
    """One look at the batch and the processes."""

    at_s: float
    """Seconds since the start."""
    scored: int
    answered: int
    selecting: bool
    memory_mb: dict[str, float]


@dataclass(slots=True)
class Watched:
    """The batch while workers are at it."""

    bench: Stack
    jobs: int
    workers: dict[str, int]
    """Process ids by name."""
    ask_every_s: float
    """Time between two rounds of commands that are timed."""
    samples_file: Path | None = None
    samples: list[_Sample] = field(default_factory=list)
    command_s: dict[str, list[float]] = field(default_factory=dict)
    _cpu_s: dict[str, float] = field(default_factory=dict)
    _wrote_s: float = -_SAMPLE_EVERY_S
    _told_s: float = 0.0

    def run(self) -> float:
        """Watch until all jobs are answered; return the seconds that took."""
        asking = threading.Event()
        threads = [
            threading.Thread(target=self._ask, args=(asking,)),
            threading.Thread(target=self._replan, args=(asking,)),
        ]
        began_s = time.perf_counter()
        with ExitStack() as exits:
            exits.callback(lambda: [thread.join() for thread in threads])
            exits.callback(asking.set)
            stream = exits.enter_context(self.samples_file.open("w")) if self.samples_file else None
            conn = exits.enter_context(psycopg.connect(self.bench.database_url, autocommit=True))
            for thread in threads:
                thread.start()
            while not self._poll(conn, began_s, stream):
                time.sleep(_POLL_S)
            ended_s = time.perf_counter() - began_s
        self._cpu_s = {name: cpu_s(pid) for name, pid in self.workers.items()}
        return ended_s

    def _poll(self, conn: Connection, began_s: float, stream: IO[str] | None) -> bool:
        row = conn.execute(_SEEN).fetchone()
        assert row is not None
        status, scored, answered, selected, _ = row
        assert status in {"in_progress", "completed"}, row
        at_s = time.perf_counter() - began_s
        memory = {name: memory_mb(pid) for name, pid in self.workers.items()}
        is_due = at_s - self._wrote_s >= _SAMPLE_EVERY_S
        if is_due:
            for name, pids in self.bench.server_pids(conn).items():
                memory[name] = sum(memory_mb(pid, shared=False) for pid in pids)
        scored_count = int(str(scored))
        selecting = scored_count == self.jobs and not selected
        sample = _Sample(at_s, scored_count, int(str(answered)), selecting, memory)
        self.samples.append(sample)
        if is_due:
            self._wrote_s = at_s
            self._tell(sample, stream)
        return status == "completed"

    def _tell(self, sample: _Sample, stream: IO[str] | None) -> None:
        """Write a sample to its file; now and then say on standard error how far the batch is."""
        if stream is not None:
            line = {
                "at_s": round(sample.at_s, 1),
                "scored": sample.scored,
                "answered": sample.answered,
                "selecting": sample.selecting,
                "memory_mb": {name: round(mb, 1) for name, mb in sample.memory_mb.items()},
            }
            stream.write(json.dumps(line) + "\n")
            stream.flush()
        if sample.at_s - self._told_s >= _PROGRESS_EVERY_S:
            self._told_s = sample.at_s
            memory = ", ".join(f"{name} {mb:.0f}" for name, mb in sample.memory_mb.items())
            sys.stderr.write(
                f"{sample.at_s:.0f} s: {sample.scored:,} scored, {sample.answered:,} answered;"
                f" MB: {memory}\n"
            )

    def _ask(self, ends: threading.Event) -> None:
        """Time commands that people give meanwhile, once the batch is planned."""
        commands: dict[str, Callable[[], object]] = {
            "status": lambda: self.bench.command("routoo-producer", "status", "all", "--json"),
            "watch": self._first_line_of_watch,
            "explain": lambda: self.bench.command(
                "routoo-producer", "explain", "all", f"task-{self.jobs // 2}", "--json"
            ),
        }
        while not ends.wait(self.ask_every_s):
            if self.samples and self.samples[-1].answered:
                for name, give in commands.items():
                    self._time(name, give)

    def _time(self, name: str, give: Callable[[], object]) -> None:
        began_s = time.perf_counter()
        give()
        self.command_s.setdefault(name, []).append(time.perf_counter() - began_s)

    def _first_line_of_watch(self) -> None:
        watch = subprocess.Popen(
            [BIN / "routoo-producer", "watch", "all", "--json"],
            env=self.bench.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        with watch:
            assert watch.stdout is not None
            watch.stdout.readline()
            watch.terminate()

    def _replan(self, ends: threading.Event) -> None:
        """Have the batch planned again while it runs, and time that."""
        while not ends.wait(_POLL_S):
            if self.samples and self.samples[-1].answered >= _REPLAN_AT * self.jobs:
                self._time("replan", lambda: asyncio.run(self._planned_again(ends)))
                return

    async def _planned_again(self, ends: threading.Event) -> None:
        async with Database(self.bench.database_url) as database:
            async with database.transaction() as conn:
                found = await (await conn.execute("SELECT id FROM batches")).fetchone()
                assert found is not None
                batch_id: UUID = found[0]
                assert await replans.request(conn, batch_id, "the benchmark asks for it")
            while not ends.is_set():
                async with database.transaction() as conn:
                    if await replans.open_request(conn, batch_id) is None:
                        return
                await asyncio.sleep(_POLL_S)

    def figures(self) -> Iterator[Figure]:
        """Yield what was seen."""
        for stage in ("scored", "answered"):
            name = {"scored": "score", "answered": "dispatch"}[stage]
            yield Figure(name, self._rate(stage, 0.0, 1.0), "jobs/s")
            first, last = self._rate(stage, 0.0, 0.1), self._rate(stage, 0.9, 1.0)
            yield Figure(f"{name}_last_tenth", last, "jobs/s", first, last / first)
        yield Figure("select", self.jobs / self._selection_s, "jobs/s")
        for name in self.samples[0].memory_mb:
            yield from self._memory_figures(name)
        for name, seconds in self._cpu_s.items():
            yield Figure(f"{name}_cpu", seconds / self.jobs * 1e6, "us/job")
        for name, times in self.command_s.items():
            yield Figure(f"{name}_p50", statistics.median(times), "s")
            yield Figure(f"{name}_longest", max(times), "s")

    def _memory_figures(self, name: str) -> Iterator[Figure]:
        """Yield a process's peak beside its start, and its last tenth of dispatch beside the first.

        A figure whose ratio is 1 is flat.
        """
        seen = [
            (sample, sample.memory_mb[name]) for sample in self.samples if name in sample.memory_mb
        ]
        start, peak = seen[0][1], max(mb for _, mb in seen)
        yield Figure(f"{name}_memory_peak", peak, "MB", start, peak / start)
        selecting = [mb for sample, mb in seen if sample.selecting]
        if selecting:
            most = max(selecting)
            yield Figure(f"{name}_memory_selecting", most, "MB", start, most / start)
        tenth = self.jobs / 10
        first = [mb for sample, mb in seen if 0 < sample.answered <= tenth]
        last = [mb for sample, mb in seen if sample.answered >= self.jobs - tenth]
        if first and last:
            before, after = statistics.median(first), statistics.median(last)
            yield Figure(f"{name}_memory_last_tenth", after, "MB", before, after / before)

    @property
    def _selection_s(self) -> float:
        """From the last prediction to the first plan's commit, in seconds."""
        counts = [sample.scored for sample in self.samples]
        scored = counts.index(self.jobs)
        rest = self.samples[scored:]
        ended = next((one for one in rest if not one.selecting or one.answered), rest[-1])
        return max(ended.at_s - rest[0].at_s, _POLL_S)

    def _rate(self, stage: str, low: float, high: float) -> float:
        """Return the jobs a second between two shares of a stage's jobs, as far as polls tell."""
        counts = [getattr(sample, stage) for sample in self.samples]
        begins = max(bisect_right(counts, 0) - 1, 0)  # the last poll that found none
        reached, polls = np.unique(counts[begins:], return_index=True)  # when each was first seen
        times = [self.samples[begins + poll].at_s for poll in polls]
        # A first poll that finds some jobs done doesn't tell how long these took.
        start, end = max(low * self.jobs, reached[0]), high * self.jobs
        start_s, end_s = np.interp([start, end], reached, times)
        return float((end - start) / max(end_s - start_s, _POLL_S))

    def slowest(self, whole_s: float) -> tuple[float, float]:
        """Return the slowest stage's rate, and the whole batch's ratio to it."""
        rate = min(self._rate("scored", 0.0, 1.0), self._rate("answered", 0.0, 1.0))
        return rate, self.jobs / whole_s / rate

    def database_bytes(self) -> int:
        """Return the size of the database."""
        with psycopg.connect(self.bench.database_url, autocommit=True) as conn:
            row = conn.execute("SELECT pg_database_size(current_database())").fetchone()
        assert row is not None
        return int(row[0])
