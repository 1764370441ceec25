"""Submission through the real command: whole or not at all, once, with every problem listed."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from producer.queue import _check_host
from routoo.errors import ConfigError
from tests.producer_command import ProducerCommand, write_pool
from tests.services import short_folder
from tests.warm_commands import PRODUCER, warm_producer

DEADLINE_S = 60.0
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def command(database_url: str, tmp_path: Path) -> ProducerCommand:
    return ProducerCommand(database_url, tmp_path)


@pytest.fixture
def submit(command: ProducerCommand) -> Run:
    return partial(command.run, "submit")


def query(url: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(sql.encode()).fetchall()


def prompts(count: int) -> str:
    return "".join(json.dumps({"prompt": f"Question {n}?"}) + "\n" for n in range(count))


def test_a_submitted_file_is_a_batch_and_its_id_is_all_that_is_printed(
    submit: Run, database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "monday.jsonl").write_text(prompts(2500))
    done = submit("monday.jsonl", "--budget-usd", "0.5", "--min-quality", "0.7")
    assert done.returncode == 0, done.stderr
    ((batch_id, name, count),) = query(database_url, "SELECT id, name, job_count FROM batches")
    assert (done.stdout, name, count) == (f"{batch_id}\n", "monday", 2500)
    assert query(database_url, "SELECT count(*), max(job_no), min(min_quality) FROM jobs") == [
        (2500, 2499, pytest.approx(0.7))
    ]
    assert query(database_url, "SELECT limit_usd::text FROM ledgers") == [("0.5",)]
    shards = "SELECT stage, state, count(*) FROM shards GROUP BY 1, 2 ORDER BY 1"
    assert query(database_url, shards) == [
        ("dispatch", "blocked", 3),
        ("score", "ready", 3),
        ("select", "blocked", 1),
    ]


def test_a_batch_whose_broker_is_away_is_submitted_and_its_owner_is_told(
    submit: Run, database_url: str
) -> None:
    done = submit("-", "--json", stdin=prompts(1))
    assert done.returncode == 0
    assert "Don't submit again" in done.stderr
    assert json.loads(done.stdout)["published"] is False
    assert query(database_url, "SELECT status FROM batches") == [("in_progress",)]


def test_a_broker_whose_host_is_unknown_is_refused_before_anything_is_committed() -> None:
    refused = ConnectionError("Error -2 connecting to brokr:6379")
    refused.__context__ = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    with pytest.raises(ConfigError, match="ROUTOO_BROKER_URL"):
        _check_host(refused)
    refused.__context__ = socket.gaierror(socket.EAI_AGAIN, "Temporary failure")
    _check_host(refused)


def test_bad_rows_are_all_listed_and_nothing_is_submitted(
    submit: Run, database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "fine"}\n{\n\n{"prompt": " "}\n')
    done = submit("bad.jsonl")
    assert done.returncode == 2
    assert "bad.jsonl:2: the row is not JSON" in done.stderr
    assert "bad.jsonl:4: the prompt is empty" in done.stderr
    assert "2 of 3 rows have problems" in done.stderr
    assert query(database_url, "SELECT count(*) FROM batches") == [(0,)]


def test_bad_rows_can_be_left_out_and_are_kept_in_a_file(
    submit: Run, database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "bad.jsonl").write_bytes(b'{"prompt": "a"}\n{"prompt": "\xff"}\n{"prompt": "c"}\n')
    done = submit("bad.jsonl", "--skip-invalid", "--json")
    assert done.returncode == 0
    answer = json.loads(done.stdout)
    assert (answer["job_count"], answer["skipped_rows"]) == (2, 1)
    assert answer["problems"] == {"invalid_encoding": 1}
    (bad,) = (tmp_path / "bad.jsonl.errors.jsonl").read_text().splitlines()
    assert json.loads(bad)["line"] == 2
    assert json.loads(bad)["raw"] == '{"prompt": "\\xff"}'
    assert query(database_url, "SELECT job_no, custom_id FROM jobs ORDER BY 1") == [
        (0, "row-1"),
        (1, "row-3"),
    ]


def test_the_same_idempotency_key_makes_one_batch(submit: Run, database_url: str) -> None:
    first = submit("-", "--idempotency-key", "k", stdin=prompts(2))
    second = submit("-", "--idempotency-key", "k", stdin=prompts(2))
    assert second.returncode == 0
    assert second.stdout == first.stdout
    assert "already submitted" in second.stderr
    assert query(database_url, "SELECT count(*) FROM jobs") == [(2,)]


def test_csv_comes_from_a_pipe_too(submit: Run, database_url: str) -> None:
    done = submit("-", "--format", "csv", stdin='custom_id,prompt\nx,"One, two?"\n')
    assert done.returncode == 0, done.stderr
    ((body,),) = query(database_url, "SELECT body FROM jobs")
    assert body == {"messages": [{"role": "user", "content": "One, two?"}]}


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("missing.jsonl",), 3, "no such file"),
        (("-", "--budget-usd", "-1"), 2, "--budget-usd: the budget is no amount of dollars"),
        (("-", "--min-quality", "1.5"), 2, "min_quality is not between 0 and 1"),
        (("-", "--deadline", "yesterday"), 2, "--deadline: the deadline is unreadable"),
        (("-", "--pool", "no-pool.yaml"), 2, "no-pool.yaml"),
        (("-", "--format", "parquet"), 2, "can't be read from a pipe"),
        (("-", "--name", "a\x07b"), 2, "no printable text"),
        ((), 2, "give a FILE, or --plan"),
        (("--plan", "3f2a"), 3, "no such batch"),
        (("-",), 2, "the input has no rows"),
        (("-", "--nonsense"), 2, "nonsense"),
    ],
)
def test_a_bad_argument_is_reported_with_its_status(
    submit: Run, arguments: tuple[str, ...], status: int, said: str
) -> None:
    done = submit(*arguments)
    assert said in done.stderr
    assert done.returncode == status
    assert done.stdout == ""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_submission_that_is_cut_off_leaves_nothing(
    command: ProducerCommand, database_url: str, number: signal.Signals, status: int
) -> None:
    with subprocess.Popen(
        [PRODUCER, "submit", "-"],
        env=command.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(prompts(20_000).encode())
        process.stdin.flush()
        copying = "SELECT count(*) FROM pg_stat_progress_copy WHERE tuples_processed > 0"
        wait_until(lambda: query(database_url, copying) == [(1,)])
        process.send_signal(number)
        output, _ = process.communicate()
    assert (process.returncode, output) == (status, b"")
    wait_until(lambda: query(database_url, "SELECT count(*) FROM pg_stat_progress_copy") == [(0,)])
    assert query(database_url, "SELECT (SELECT count(*) FROM jobs), count(*) FROM batches") == [
        (0, 0)
    ]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_database_that_is_away_is_reported_without_its_password(
    command: ProducerCommand, tmp_path: Path
) -> None:
    url = "postgresql://me:s3cret-word@127.0.0.1:1/routoo?connect_timeout=1"
    done = subprocess.run(
        [PRODUCER, "list"],
        env=command.environment | {"ROUTOO_DATABASE_URL": url},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert "me@127.0.0.1:1" in done.stderr
    assert "s3cret" not in done.stderr + done.stdout


def test_an_unmigrated_database_is_reported_with_the_remedy(
    command: ProducerCommand, database_url: str
) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    done = command.run("list")
    assert done.returncode == 1
    assert "routoo db upgrade" in done.stderr


def test_without_any_setting_the_embedded_database_is_started(tmp_path: Path) -> None:
    names = ("ROUTOO_DATABASE_URL", "ROUTOO_BROKER_URL")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    with short_folder() as home:
        environment["ROUTOO_HOME"] = str(home)
        environment["ROUTOO_POOL"] = str(write_pool(tmp_path / "pool.yaml"))
        environment["ROUTOO_CHECKPOINT"] = str(tmp_path / "none")
        environment["ROUTOO_PING_TIMEOUT_S"] = "0"

        def producer(*arguments: str) -> "subprocess.CompletedProcess[str]":
            return warm_producer.run(arguments, environ=environment, stdin=prompts(3))

        done = producer("submit", "-")
        assert done.returncode == 0, done.stderr
        assert "`routoo-worker up` will run the batch" in done.stderr
        facts = json.loads(producer("status", "--json").stdout)
        assert (facts["batch_id"], facts["jobs"]) == (done.stdout.strip(), 3)
