"""Measures a batch from its file to its answers' file: every stage's rate, memory, and commands.

The whole stack runs as its users run it: servers, scorers, dispatchers, the beat, the commands.
Two parts are stand-ins: an endpoint that answers after 10 ms (`dispatch_server.py`), and in the
scorer the predictor (`pipeline_scorer.py`; `predictor.py` measures the real one). While the batch
runs, memory of all workers is read four times a second, and `status` and `explain` are timed.

Rates are compared within the run: the last tenth of each stage's jobs with the first, and the batch
with its slowest stage.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
import psycopg
from figures import Figure, show
from servers import BIN, HERE, Stack, memory_mb, wait_until

_TOPICS = ("bridges", "rivers", "taxes", "whales", "engines", "songs", "bread", "stars", "maps")
_TEXT = "Explain in one sentence what a person who has never heard of it should know about"
_QUESTIONS = ("Why", "How", "When", "Where", "Who", "What")
_POLL_S = 0.25
_ASK_EVERY_S = 20.0
"""Time between two commands that are timed."""


def main() -> None:
    """Measure and print."""
    options = _options()
    with (
        tempfile.TemporaryDirectory(prefix="routoo-", dir=options.folder) as name,
        ExitStack() as ends,
    ):
        folder = Path(name)
        folder.chmod(0o755)
        bench = Stack(folder, options.database_url, options.latency_s, ends)
        show(_measure(bench, options), as_json=options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--scorers", type=int, default=1)
    parser.add_argument("--dispatchers", type=int, default=1)
    parser.add_argument("--latency-s", type=float, default=0.01, help="of the endpoint")
    parser.add_argument("--database-url", help="empty database; default: an embedded server")
    parser.add_argument("--folder", help="has room for some KB a job; default: the system's")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _measure(bench: Stack, options: argparse.Namespace) -> Iterator[Figure]:
    rows = _write_rows(bench.folder / "rows.jsonl", options.jobs)
    workers = _start_workers(bench, options)
    submitted = _timed(bench, "submit", rows, "--budget-usd", str(options.jobs), "--name", "all")
    yield Figure("submit", options.jobs / submitted.s, "rows/s")
    yield Figure("submit_memory", submitted.peak_mb, "MB")
    watched = _Watched(bench, options.jobs, workers)
    answered_s = watched.run()
    written = _timed(bench, "results", "all", "--out", bench.folder / "answers.jsonl")
    with (bench.folder / "answers.jsonl").open("rb") as lines:
        assert sum(1 for _ in lines) == options.jobs
    yield from watched.figures()
    yield Figure("results", options.jobs / written.s, "rows/s")
    yield Figure("results_memory", written.peak_mb, "MB")
    yield Figure("database", watched.database_bytes() / options.jobs, "bytes/job")
    whole_s = submitted.s + answered_s + written.s
    yield Figure("whole", options.jobs / whole_s, "jobs/s", *watched.slowest(whole_s))


def _write_rows(path: Path, count: int) -> Path:
    with path.open("wb") as stream:
        for number in range(count):
            topic = _TOPICS[number % len(_TOPICS)]
            question = _QUESTIONS[number % len(_QUESTIONS)]
            text = f"{question} number {number}? {_TEXT} {topic} of the year {number % 2000}."
            row = {"custom_id": f"task-{number}", "prompt": text, "max_tokens": 64}
            stream.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    return path


def _start_workers(bench: Stack, options: argparse.Namespace) -> dict[str, int]:
    """Start the worker processes; return each one's process id by its name."""
    program, scorer = BIN / "routoo-worker", (sys.executable, HERE / "pipeline_scorer.py")
    commands: dict[str, Sequence[str | Path]] = {"beat": (program, "beat", "--json-logs")}
    for number in range(options.scorers):
        commands[f"scorer-{number + 1}"] = scorer
    for number in range(options.dispatchers):
        commands[f"dispatcher-{number + 1}"] = (program, "dispatcher", "--json-logs")
    pids = {
        name: bench.start(*command, log=f"{name}.log").pid for name, command in commands.items()
    }
    for name in commands:
        log = bench.folder / f"{name}.log"
        wait_until(lambda log=log: "worker.ready" in log.read_text(), log)
    return pids


@dataclass(frozen=True, slots=True)
class _Done:
    """A command that has ended."""

    s: float
    peak_mb: float


def _timed(bench: Stack, *arguments: str | Path) -> _Done:
    """Run a command of the producer to its end; its peak memory is read as it runs."""
    began_s, peak_mb = time.perf_counter(), 0.0
    process = subprocess.Popen(
        [BIN / "routoo-producer", *arguments],
        env=bench.environ,
        stdout=subprocess.DEVNULL,
    )
    while process.poll() is None:
        peak_mb = max(peak_mb, memory_mb(process.pid, peak=True))
        time.sleep(0.02)
    assert process.returncode == 0, process.returncode
    return _Done(time.perf_counter() - began_s, peak_mb)


@dataclass(slots=True)
class _Watched:
    """The batch while workers are at it."""

    bench: Stack
    jobs: int
    workers: dict[str, int]
    memory_mb: dict[str, list[float]] = field(default_factory=dict)
    counts: list[tuple[float, int, int]] = field(default_factory=list)
    """Seconds since the start, jobs scored, jobs answered; one entry a poll."""
    selected_s: float = 0.0
    """How long the selection took, in seconds."""
    command_s: dict[str, list[float]] = field(default_factory=dict)

    def run(self) -> float:
        """Watch until all jobs are answered; return the seconds that took."""
        asking = threading.Event()
        asker = threading.Thread(target=self._ask, args=(asking,))
        asker.start()
        began_s = time.perf_counter()
        try:
            with psycopg.connect(self.bench.database_url, autocommit=True) as conn:
                while not self._poll(conn, began_s):
                    time.sleep(_POLL_S)
        finally:
            asking.set()
            asker.join()
        return time.perf_counter() - began_s

    def _poll(self, conn: "psycopg.Connection[tuple[object, ...]]", began_s: float) -> bool:
        row = conn.execute(
            "SELECT status,"
            " (SELECT coalesce(sum(job_count), 0)::int FROM shards s WHERE s.batch_id = b.id"
            "  AND stage = 'score' AND state = 'done'),"
            " (SELECT coalesce(sum(results), 0)::int FROM batch_counts c WHERE c.batch_id = b.id)"
            " FROM batches b"
        ).fetchone()
        assert row is not None
        status, scored, answered = row
        self.counts.append((time.perf_counter() - began_s, int(str(scored)), int(str(answered))))
        for name, pid in self.workers.items():
            self.memory_mb.setdefault(name, []).append(memory_mb(pid))
        assert status in {"in_progress", "completed"}, row
        return status == "completed"

    def _ask(self, ends: threading.Event) -> None:
        """Time commands that people give meanwhile."""
        commands = {
            "status": ("status", "all", "--json"),
            "explain": ("explain", "all", f"task-{self.jobs // 2}", "--json"),
        }
        while not ends.wait(_ASK_EVERY_S):
            for name, arguments in commands.items():
                began_s = time.perf_counter()
                self.bench.command("routoo-producer", *arguments)
                self.command_s.setdefault(name, []).append(time.perf_counter() - began_s)

    def figures(self) -> Iterator[Figure]:
        """Yield what was seen."""
        for stage, column in (("score", 1), ("dispatch", 2)):
            yield Figure(stage, self._rate(column, 0.0, 1.0), "jobs/s")
            first, last = self._rate(column, 0.0, 0.1), self._rate(column, 0.9, 1.0)
            yield Figure(f"{stage}_last_tenth", last, "jobs/s", first, last / first)
        scored_s = next(at for at, scored, _ in self.counts if scored == self.jobs)
        first_answer_s = next(at for at, _, answered in self.counts if answered)
        yield Figure("select", self.jobs / max(first_answer_s - scored_s, _POLL_S), "jobs/s")
        for name, values in self.memory_mb.items():
            half = max(values[: len(values) // 2 + 1])
            yield Figure(f"{name}_memory_peak", max(values), "MB", half, max(values) / half)
        for name, times in self.command_s.items():
            yield Figure(f"{name}_p50", statistics.median(times), "s")
            yield Figure(f"{name}_longest", max(times), "s")

    def _rate(self, column: int, low: float, high: float) -> float:
        """Return the jobs a second between two shares of a stage's jobs, as far as polls tell."""
        counts = [entry[column] for entry in self.counts]
        begins = max(bisect_right(counts, 0) - 1, 0)  # the last poll that found none
        reached, polls = np.unique(counts[begins:], return_index=True)  # when each was first seen
        times = [self.counts[begins + poll][0] for poll in polls]
        start_s, end_s = np.interp([low * self.jobs, high * self.jobs], reached, times)
        return float((high - low) * self.jobs / max(end_s - start_s, _POLL_S))

    def slowest(self, whole_s: float) -> tuple[float, float]:
        """Return the slowest stage's rate, and the whole batch's ratio to it."""
        rate = min(self._rate(1, 0.0, 1.0), self._rate(2, 0.0, 1.0))
        return rate, self.jobs / whole_s / rate

    def database_bytes(self) -> int:
        """Return the size of the database."""
        with psycopg.connect(self.bench.database_url, autocommit=True) as conn:
            row = conn.execute("SELECT pg_database_size(current_database())").fetchone()
        assert row is not None
        return int(row[0])


if __name__ == "__main__":
    main()
