"""Measures a batch from its file to its answers' file: every stage's rate, memory, and commands.

The whole stack runs as its users run it: servers, scorers, dispatchers, the beat, the commands.
Two parts are stand-ins: an endpoint that answers after 10 ms (`dispatch_server.py`), and in the
scorer the predictor (`pipeline_scorer.py`; `predictor.py` measures the real one). While the batch
runs, memory of all workers and servers is read, and `status`, `watch`, `explain` and a re-plan are
timed (`pipeline_watch.py`).

Rates are compared within the run: the last tenth of each stage's jobs with the first, and the batch
with its slowest stage. Progress goes to standard error. `--samples FILE` gets one JSON object a
second: jobs so far, memory of every process in MB; a run that breaks off leaves it behind.

A million jobs take about half an hour on two cores and 6 KB of disk a job:

    python benchmarks/pipeline.py --jobs 1000000 --json --samples samples.jsonl > figures.jsonl

With several numbers of scorers or dispatchers a batch is run with each of them, on a stack of its
own, and at the end a table sets each beside its slowest stage:

    python benchmarks/pipeline.py --jobs 100000 --scorers 1 2 --dispatchers 1 2 4
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import orjson
from figures import Figure, show
from pipeline_watch import Watched
from rich.console import Console
from rich.table import Table
from servers import BIN, HERE, Stack, memory_mb, wait_until

_TOPICS = ("bridges", "rivers", "taxes", "whales", "engines", "songs", "bread", "stars", "maps")
_TEXT = "Explain in one sentence what a person who has never heard of it should know about"
_QUESTIONS = ("Why", "How", "When", "Where", "Who", "What")
_DISK_BYTES_PER_JOB = 6_000
"""Rows, answers, database and its log."""


def main() -> None:
    """Measure and print."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that the servers stop, too
    sizes = [_Workers(*size) for size in product(options.scorers, options.dispatchers)]
    figures = {}
    for workers in sizes:
        figures[workers] = found = list[Figure]()
        name = "" if len(sizes) == 1 else f"{workers} "
        for figure in _run(options, workers):
            found.append(figure)
            show([replace(figure, metric=name + figure.metric)], as_json=options.json)
    if len(sizes) > 1 and not options.json:
        Console(width=150).print(_table(figures))


@dataclass(frozen=True, slots=True)
class _Workers:
    """How many processes there are of each kind."""

    scorers: int
    dispatchers: int

    def __str__(self) -> str:
        return f"scorers={self.scorers} dispatchers={self.dispatchers}"


def _run(options: argparse.Namespace, workers: _Workers) -> Iterator[Figure]:
    """Run a batch on a stack of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="routoo-", dir=options.folder) as name,
        ExitStack() as ends,
    ):
        folder = Path(name)
        folder.chmod(0o755)
        free, needed = shutil.disk_usage(folder).free, options.jobs * _DISK_BYTES_PER_JOB
        if free < needed:
            sys.exit(f"{folder} has {free / 1e9:.1f} GB free; {needed / 1e9:.1f} GB are needed")
        bench = Stack(folder, options.database_url, options.latency_s, ends)
        yield from _measure(bench, options, workers)


def _table(figures: Mapping[_Workers, Sequence[Figure]]) -> Table:
    """Return rates in jobs a second, a row a run."""
    table = Table(title="jobs a second")
    stages = ("submit", "score", "select", "dispatch", "results", "whole")
    for column in ("scorers", "dispatchers", *stages, "slowest stage", "whole beside it"):
        table.add_column(column, justify="right")
    for workers, found in figures.items():
        of = {figure.metric: figure for figure in found}
        rates = [f"{of[stage].value:,.0f}" for stage in stages]
        whole = of["whole"]
        beside = f"{whole.reference:,.0f}", f"{whole.ratio:.2f}"
        table.add_row(str(workers.scorers), str(workers.dispatchers), *rates, *beside)
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1_000_000)
    for kind in ("scorers", "dispatchers"):
        parser.add_argument(
            f"--{kind}", type=int, nargs="+", default=[1], metavar="N", help="several: a run each"
        )
    parser.add_argument("--latency-s", type=float, default=0.01, help="of the endpoint")
    parser.add_argument("--ask-every-s", type=float, default=20.0, help="between timed commands")
    parser.add_argument("--database-url", help="empty database; default: an embedded server")
    parser.add_argument("--folder", help="has room for 6 KB a job; default: the system's")
    parser.add_argument("--samples", type=Path, help="gets memory and progress over time")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if len(options.scorers) * len(options.dispatchers) > 1 and (
        options.database_url or options.samples
    ):
        parser.error("several runs need a database and a file of samples each: leave both out")
    return options


def _measure(bench: Stack, options: argparse.Namespace, sizes: _Workers) -> Iterator[Figure]:
    _say(f"writing {options.jobs:,} rows")
    rows = _write_rows(bench.folder / "rows.jsonl", options.jobs)
    workers = _start_workers(bench, sizes)
    _say("submitting")
    submitted = _timed(bench, "submit", rows, "--budget-usd", str(options.jobs), "--name", "all")
    rows.unlink()
    yield Figure("submit", options.jobs / submitted.s, "rows/s")
    yield Figure("submit_memory", submitted.peak_mb, "MB")
    watched = Watched(bench, options.jobs, workers, options.ask_every_s, options.samples)
    answered_s = watched.run()
    yield from watched.figures()
    _say("writing answers")
    written = _timed(bench, "results", "all", "--out", bench.folder / "answers.jsonl")
    with (bench.folder / "answers.jsonl").open("rb") as lines:
        assert sum(1 for _ in lines) == options.jobs
    yield Figure("results", options.jobs / written.s, "rows/s")
    yield Figure("results_memory", written.peak_mb, "MB")
    yield Figure("database", watched.database_bytes() / options.jobs, "bytes/job")
    whole_s = submitted.s + answered_s + written.s
    yield Figure("whole", options.jobs / whole_s, "jobs/s", *watched.slowest(whole_s))


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def _write_rows(path: Path, count: int) -> Path:
    with path.open("wb") as stream:
        for number in range(count):
            text = request_text(number)
            row = {"custom_id": f"task-{number}", "prompt": text, "max_tokens": 64}
            stream.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    return path


def request_text(number: int) -> str:
    """Return the prompt of a job; no two are alike."""
    topic = _TOPICS[number % len(_TOPICS)]
    question = _QUESTIONS[number % len(_QUESTIONS)]
    return f"{question} number {number}? {_TEXT} {topic} of the year {number % 2000}."


def _start_workers(bench: Stack, sizes: _Workers) -> dict[str, int]:
    """Start the worker processes; return each one's process id by its name."""
    program, scorer = BIN / "routoo-worker", (sys.executable, HERE / "pipeline_scorer.py")
    commands: dict[str, Sequence[str | Path]] = {"beat": (program, "beat", "--json-logs")}
    for number in range(sizes.scorers):
        commands[f"scorer-{number + 1}"] = scorer
    for number in range(sizes.dispatchers):
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


if __name__ == "__main__":
    main()
