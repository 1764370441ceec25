"""Runs the main job from end to end: `make run`.

Fetches and serves three real language models, starts the embedded stack, submits the example batch
under a budget, watches it, grades the answers and compares the routing with every model alone. It
only runs commands that a user would type, and prints each.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from examples.local_models.catalogue import MODELS, demo_models
from examples.local_models.fetch import fetch
from examples.local_models.serve import LocalModels
from routoo.errors import EmbeddedStackError, RoutooError
from routoo.settings import REPOSITORY, load_settings

EXAMPLES = REPOSITORY / "examples"
BUDGET_USD = "0.0009"
"""About two thirds of what the strongest model alone would cost for this batch."""
_READY_S = 180.0
_STOP_S = 30.0
_console = Console()


def main() -> int:
    """Run the demonstration and return its exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _demo()
    except RoutooError as error:
        _console.print(f"error: {error}", style="red", markup=False)
        return error.exit_code
    except KeyboardInterrupt:
        _console.print("stopped")
        return 130


def _demo() -> int:
    home = load_settings().home
    models = demo_models(os.environ.get("ROUTOO_DEMO", ""))
    pool = EXAMPLES / ("pool.yaml" if models == MODELS else "pool-small.yaml")
    _say(f"Model files, once, into {home / 'models'}")
    fetch(models, home)
    _say("Model servers on this machine, one process each")
    for model in models:
        _console.print(f"{model.name} at {model.base_url}", highlight=False)
    with LocalModels(models, home):
        _say("The embedded stack: PostgreSQL, Valkey, a scorer, a dispatcher, beat")
        with _stack(home):
            return _batch(pool)


def _batch(pool: Path) -> int:
    _say("The example batch")
    submitted = _produce(
        [
            *("submit", str(EXAMPLES / "batch.jsonl"), "--pool", str(pool)),
            *("--budget-usd", BUDGET_USD, "--name", "example"),
        ],
        keep_output=True,
    )
    batch = submitted.stdout.strip()
    # Jobs without an answer are part of the outcome: shown, and told by the exit status.
    watched = _produce(["watch", batch], may_fail=True)
    _produce(["grade", batch, "--references", str(EXAMPLES / "references.jsonl")])
    _say("The outcome")
    _produce(["results", batch])
    _produce(["summary", batch, "--outcomes", str(EXAMPLES / "outcomes" / "batch.parquet")])
    _console.print(
        "\nEvery answer is in PostgreSQL, table [bold]results[/], view [bold]batch_results[/]. "
        "To route your own: [bold].venv/bin/routoo-worker up[/], then "
        "[bold].venv/bin/routoo-producer submit FILE --pool POOL --budget-usd X --watch[/]"
    )
    return watched.returncode


@contextmanager
def _stack(home: Path) -> Iterator[None]:
    """Run `routoo-worker up` in the background."""
    log = home / "logs" / "worker.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    _echo("routoo-worker", ["up"], note=f"> {log} &")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [_program("routoo-worker"), "up"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches only this process, which then stops the stack in order.
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, home, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_until_ready(process: subprocess.Popen[bytes], home: Path, log: Path) -> None:
    deadline = time.monotonic() + _READY_S
    while not _is_ready(home, process.pid):
        if process.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise EmbeddedStackError(
                f"the stack did not get ready; the end of its log:\n{tail}\n", where=str(log)
            )
        time.sleep(0.2)


def _is_ready(home: Path, pid: int) -> bool:
    try:
        status = json.loads((home / "worker.json").read_text())
    except (OSError, ValueError):
        return False
    return bool(status["ready"]) and status["supervisor"] == pid


def _produce(
    arguments: Sequence[str], *, keep_output: bool = False, may_fail: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a producer command, shown as a user would type it."""
    _echo("routoo-producer", arguments)
    command = [_program("routoo-producer"), *arguments]
    output = subprocess.PIPE if keep_output else None
    done = subprocess.run(command, stdout=output, text=True, check=False)
    if done.returncode != 0 and not may_fail:
        raise EmbeddedStackError(f"`routoo-producer {arguments[0]}` ended with {done.returncode}")
    return done


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _say(text: str) -> None:
    _console.rule(f"[bold]{text}", align="left")


def _echo(program: str, arguments: Sequence[str], note: str = "") -> None:
    line = " ".join(["$", program, *arguments, note]).replace(f"{REPOSITORY}/", "")
    _console.print(line, style="cyan", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
