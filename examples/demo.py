"""The main job, end to end: `make run`; and `make serve`, which only starts what it needs.

`make run` fetches and serves three real language models, starts the embedded stack, submits the
first questions of the example batch under a budget, watches them, grades the answers and compares
the routing with every model alone. It only runs commands that a user would type, and prints each.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from examples.local_models.catalogue import MODELS, demo_models
from examples.local_models.fetch import fetch
from examples.local_models.serve import LocalModels
from routoo.console import formatting
from routoo.errors import EmbeddedStackError, RoutooError
from routoo.settings import REPOSITORY, load_settings

EXAMPLES = REPOSITORY / "examples"
SMALL_POOL = "pool-small.yaml"
BUDGET_USD = "0.0004"
"""About half of what the strongest model alone would cost for these questions."""
SMALL_BUDGET_USD = "0.00016"
"""Without the largest model: midway between what the two others alone would cost."""
_SERVERS = ("ROUTOO_DATABASE_URL", "ROUTOO_BROKER_URL")
_READY_S = 180.0
_CHECK_S = 1.0
_STOP_S = 30.0
_console = Console()


def main(arguments: Sequence[str]) -> int:
    """Run the demonstration, or only its servers (`serve`), and return the exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _demo(_serve if "serve" in arguments else _batch)
    except RoutooError as error:
        _console.print(f"error: {error}", style="red", markup=False)
        return error.exit_code
    except KeyboardInterrupt:
        _console.print("stopped")
        return 130


def _demo(use: Callable[[Path, Path], int]) -> int:
    """Run a function of the home and the pool file while models and workers run."""
    home = load_settings().home
    models = demo_models(os.environ.get("ROUTOO_DEMO", ""))
    pool = EXAMPLES / ("pool.yaml" if models == MODELS else SMALL_POOL)
    _say(f"Model files, once, into {home / 'models'}")
    fetch(models, home)
    _say("Model servers on this machine, one process each")
    for model in models:
        _console.print(f"{model.name} at {model.base_url}", highlight=False)
    with LocalModels(models, home):
        _say("The embedded stack: PostgreSQL, Valkey, a scorer, a dispatcher, beat")
        with _stack(home):
            return use(home, pool)


def _serve(home: Path, pool: Path) -> int:
    _say("Models and workers run until Ctrl-C; in another shell")
    _print_commands(_yours(home, pool))
    while (home / "worker.json").exists():  # the supervisor removes it when it ends
        time.sleep(_CHECK_S)
    raise EmbeddedStackError("the workers have ended", where=str(_log_path(home)))


def _batch(home: Path, pool: Path) -> int:
    _say("The example batch")
    begun_s = time.monotonic()
    submitted = _produce(
        [
            *("submit", str(EXAMPLES / "demo.jsonl"), "--pool", str(pool)),
            *("--budget-usd", _budget_usd(pool), "--name", "example"),
        ],
        keep_output=True,
    )
    batch = submitted.stdout.strip()
    _console.print(f"batch {batch}", highlight=False)
    # Jobs without an answer are part of the outcome: shown, and told by the exit status.
    watched = _produce(["watch", batch], may_fail=True)
    _produce(["grade", batch, "--references", str(EXAMPLES / "references.jsonl")])
    _say("The outcome")
    _produce(["results", batch, "--rows", "10"])
    _produce(["summary", batch, "--outcomes", str(EXAMPLES / "outcomes" / "batch.parquet")])
    took = formatting.duration(time.monotonic() - begun_s)
    _say(f"Submitted, answered and graded in {took}. From here, in any shell")
    _print_commands({**_look(home), **_again(home), **_yours(home, pool)})
    return watched.returncode


def _budget_usd(pool: Path) -> str:
    return SMALL_BUDGET_USD if pool.name == SMALL_POOL else BUDGET_USD


def _look(home: Path) -> dict[str, str]:
    """Return commands that show what there is, each with what it does."""
    sql = "SELECT custom_id, model, answer, quality FROM batch_results LIMIT 5"
    return {
        "the answers as a file": _command(
            home, "routoo-producer", "results", "example", "--out", "answers.jsonl"
        ),
        "the same in SQL": _command(home, "routoo", "db", "psql", "-c", sql),
    }


def _again(home: Path) -> dict[str, str]:
    """Return the command that starts the models and the workers."""
    command = f"{_variables(home, 'ROUTOO_DEMO')}make -C {_quoted(REPOSITORY)} serve"
    return {"models and workers again, until Ctrl-C": command}


def _yours(home: Path, pool: Path) -> dict[str, str]:
    """Return commands that route a person's own prompts over the example's models."""
    submit = ("submit", "mine.jsonl", "--pool", str(pool), "--budget-usd", "0.001", "--watch")
    return {
        "your own prompts, one a line": (
            """echo '{"prompt": "What is the capital of Peru?", "max_tokens": 24}' > mine.jsonl"""
        ),
        "route them, while those run": _command(home, "routoo-producer", *submit),
        "read the answers": _command(home, "routoo-producer", "results", "mine"),
        "PostgreSQL's prompt": _command(home, "routoo", "db", "psql"),
    }


def _command(home: Path, program: str, *arguments: str) -> str:
    """Return a command as it works in a shell where nothing is activated."""
    words = " ".join(map(_quoted, (_program(program), *arguments)))
    return f"{_variables(home)}{words}"


def _variables(home: Path, *others: str) -> str:
    """Return the settings that a new shell lacks, to stand before a command."""
    names = [name for name in (*_SERVERS, *others) if os.environ.get(name)]
    found = {name: os.environ[name] for name in names}
    if "ROUTOO_HOME" in os.environ:
        found["ROUTOO_HOME"] = str(home)
    return "".join(f"{name}={_quoted(value)} " for name, value in found.items())


def _quoted(word: object) -> str:
    return shlex.quote(str(word))


def _print_commands(commands: Mapping[str, str]) -> None:
    for what, command in commands.items():
        _console.print(f"# {what}", style="dim", markup=False, highlight=False)
        _console.print(command, style="cyan", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _stack(home: Path) -> Iterator[None]:
    """Run `routoo-worker up` in the background."""
    log = _log_path(home)
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


def _log_path(home: Path) -> Path:
    return home / "logs" / "worker.log"


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
    sys.exit(main(sys.argv[1:]))
