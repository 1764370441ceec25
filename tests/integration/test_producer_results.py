"""Results leave the store in every format, in input order, through the real command."""

import csv
import io
import json
import subprocess
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest
from psycopg import AsyncConnection

from producer.results.follow import follow_results
from routoo.domain.completion import Result
from routoo.domain.job import ResultStatus, Stage
from routoo.store import ledger, results, shards
from routoo.store.database import Database, libpq_url
from tests import batch_factory as factory
from tests.producer_command import ProducerCommand
from tests.unit.test_producer_templates import save_to_disk

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def producer(database_url: str, tmp_path: Path) -> Run:
    return ProducerCommand(database_url, tmp_path).run


async def finished(db: Database) -> UUID:
    """Return a batch of four jobs; the last one failed."""
    batch_id = await factory.submit(db, 4, shard_size=4)
    await factory.score(db, batch_id)
    await factory.select(db, batch_id)
    lease = await factory.claim(db, batch_id, Stage.DISPATCH)
    failed = Result(
        3, ResultStatus.FAILED, Decimal(0), 1, error_code="rate_limited", error_message="too many"
    )
    async with db.transaction() as conn:
        await ledger.reserve(conn, lease, [factory.reservation(n, "0.02") for n in range(3)])
    async with db.transaction() as conn:
        paid = [factory.attempt(n, "0.01") for n in range(3)]
        await ledger.settle(conn, lease, paid)
        answers = ["plain", 'two\nlines, "quoted"', "naïve"]
        done = [factory.result(n, answer) for n, answer in enumerate(answers)]
        await results.save(conn, lease, [*done, failed])
        await shards.finish(conn, lease, shards.Done())
    return batch_id


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


async def test_jsonl_has_openai_lines_and_an_error_file(
    db: Database, producer: Run, tmp_path: Path
) -> None:
    batch_id = await finished(db)
    done = producer("results", batch_id, "--out", "answers.jsonl", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["results"] == {"succeeded": 3, "failed": 1}
    answers = rows((tmp_path / "answers.jsonl").read_text())
    assert [row["custom_id"] for row in answers] == ["job-0", "job-1", "job-2"]
    assert answers[1]["response"] == {
        "status_code": 200,
        "request_id": "response-1",
        "body": {"id": "response-1"},
    }
    assert {row["error"] for row in answers} == {None}
    (failure,) = rows((tmp_path / "answers.errors.jsonl").read_text())
    assert failure["custom_id"] == "job-3"
    assert failure["response"] is None
    assert failure["error"] == {"code": "rate_limited", "message": "too many"}


async def test_a_batch_without_failures_leaves_no_error_file(
    db: Database, producer: Run, tmp_path: Path
) -> None:
    batch_id = await factory.submit(db, 2)
    await factory.score(db, batch_id)
    await factory.select(db, batch_id)
    await factory.dispatch(db, await factory.claim(db, batch_id, Stage.DISPATCH))
    done = producer("results", batch_id, "--out", "answers.jsonl")
    assert done.returncode == 0
    assert files(tmp_path) == ["answers.jsonl", "pool.yaml"]


async def test_csv_has_the_columns_of_the_view(db: Database, producer: Run) -> None:
    batch_id = await finished(db)
    done = producer("results", batch_id, "--format", "csv")
    table = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["custom_id"] for row in table] == [f"job-{n}" for n in range(4)]
    assert table[1]["answer"] == 'two\nlines, "quoted"'
    assert table[0]["cost_usd"] == "0.01"
    assert (table[3]["answer"], table[3]["error_code"]) == ("", "rate_limited")


async def test_parquet_has_typed_columns(db: Database, producer: Run, tmp_path: Path) -> None:
    batch_id = await finished(db)
    assert producer("results", batch_id, "--out", "answers.parquet").returncode == 0
    table = pq.read_table(tmp_path / "answers.parquet")
    assert table.column("job_no").to_pylist() == [0, 1, 2, 3]
    assert table.column("cost_usd").to_pylist() == [0.01, 0.01, 0.01, 0.0]
    assert table.column("answer").to_pylist()[3] is None


async def test_the_table_shows_answers_on_one_line_and_json_whole(
    db: Database, producer: Run
) -> None:
    await finished(db)
    shown = producer("results", "--rows", "2")
    assert "two lines, " in shown.stdout
    assert "2 shown, 4 of 4 jobs have ended" in shown.stderr
    as_json = rows(producer("results", "--json").stdout)
    assert as_json[1]["answer"] == 'two\nlines, "quoted"'
    assert as_json[3]["status"] == "failed"


async def test_results_so_far_can_be_read(db: Database, producer: Run) -> None:
    batch_id = await factory.submit(db, 4)
    done = producer("results", batch_id, "--format", "jsonl")
    assert (done.returncode, done.stdout) == (0, "")
    assert "4 of 4 jobs have not ended" in done.stderr


async def test_a_file_that_cannot_be_written_is_bad_input(db: Database, producer: Run) -> None:
    await finished(db)
    done = producer("results", "--out", "missing/answers.csv")
    assert done.returncode == 2
    assert "can't be written" in done.stderr


async def test_watch_ends_with_status_five_when_a_job_has_no_answer(
    db: Database, producer: Run
) -> None:
    batch_id = await finished(db)
    done = producer("watch", batch_id, "--json")
    assert done.returncode == 5
    last = rows(done.stdout)[-1]
    assert (last["status"], last["answered"], last["ended"], last["jobs"]) == ("completed", 3, 4, 4)
    assert last["spent_usd"] == 0.03


async def test_status_shows_the_progress_of_a_batch(db: Database, producer: Run) -> None:
    batch_id = await finished(db)
    facts = json.loads(producer("status", str(batch_id)[:8], "--json").stdout)
    assert facts["results"]["succeeded"] == 3
    assert facts["models"] == [
        {"model": "small", "jobs": 3, "share": 1.0, "calls": 3, "cost_usd": 0.03}
    ]
    shown = producer("status", "example").stdout
    assert str(batch_id) in shown
    assert "$0.0300 spent" in shown
    assert "3 of 4" in shown
    assert "no answer: 1 rate_limited: too many" in shown
    assert str(batch_id)[:8] in producer("list").stdout


async def test_an_unknown_batch_is_not_found(db: Database, producer: Run) -> None:
    assert producer("status").returncode == 3
    await factory.submit(db)
    for command in ("status", "watch", "results"):
        done = producer(command, "no-such-batch")
        assert done.returncode == 3
        assert "no such batch" in done.stderr


def joined_to(producer: Run, batch_id: UUID, path: Path, *options: str) -> list[dict[str, Any]]:
    done = producer("results", batch_id, "--join", path, "--format", "jsonl", *options)
    assert done.returncode == 0, done.stderr
    return rows(done.stdout)


async def test_results_are_joined_to_rows_by_their_ids_in_every_format(
    db: Database, producer: Run, tmp_path: Path
) -> None:
    batch_id = await finished(db)
    path = tmp_path / "in.csv"
    path.write_text("custom_id,answer,n\njob-3,,3\njob-1,=1+1,1\nother,x,\n")
    one, two, none = joined_to(producer, batch_id, path)
    assert list(two)[:3] == ["custom_id", "answer", "n"]
    assert two["result_answer"] == 'two\nlines, "quoted"'
    assert (one["error_code"], one["n"], none["status"]) == ("rate_limited", "3", None)
    done = producer("results", batch_id, "--join", path, "--out", "out.csv", "--json")
    assert json.loads(done.stdout)["results"] == {"succeeded": 1, "failed": 1}
    assert "1 of 3 rows have no result" in done.stderr
    assert "2 of 4 jobs are not among them" in done.stderr
    table = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [row["answer"] for row in table] == ["", "'=1+1", "x"]
    done = producer("results", batch_id, "--join", "out.csv", "--out", "out.parquet")
    assert done.returncode == 0, done.stderr
    again = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["result_result_answer"] for row in again] == [None, 'two\nlines, "quoted"', None]
    assert not (tmp_path / "out.errors.jsonl").exists()


async def test_results_are_joined_to_rows_by_their_places(
    db: Database, producer: Run, tmp_path: Path
) -> None:
    batch_id = await finished(db)
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"q": {{"n": {n}}}}}\n' for n in range(4)))
    found = joined_to(producer, batch_id, path, "--join-by", "row")
    assert [(row["q"], row["custom_id"]) for row in found] == [
        ({"n": n}, f"job-{n}") for n in range(4)
    ]
    done = producer("results", batch_id, "--join", path, "--join-by", "row", "--out", "o.parquet")
    assert done.returncode == 0, done.stderr
    assert pq.read_table(tmp_path / "o.parquet").column("q").to_pylist()[3] == '{"n":3}'
    refused = producer("results", batch_id, "--join", path)
    assert refused.returncode == 2
    assert "no row is one of the 4 jobs" in refused.stderr
    path.write_text('{"q": 1}\n')
    refused = producer("results", batch_id, "--join", path, "--join-by", "row")
    assert "the input has 1 rows" in refused.stderr


@pytest.mark.parametrize(
    ("options", "read"),
    [
        (("--format", "csv"), lambda text: list(csv.DictReader(io.StringIO(text)))),
        (("--json",), rows),
        ((), rows),
    ],
)
async def test_results_are_followed_to_the_end_of_the_batch(
    db: Database, producer: Run, options: tuple[str, ...], read: Callable[[str], Any]
) -> None:
    batch_id = await finished(db)
    done = producer("results", batch_id, "--follow", *options)
    assert done.returncode == 5, done.stderr
    assert "1 of 4 have no answer" in done.stderr
    assert sorted(row["custom_id"] for row in read(done.stdout)) == [f"job-{n}" for n in range(4)]


async def test_following_outlives_connections_to_the_database(
    db: Database, database_url: str
) -> None:
    batch_id = await finished(db)
    looks, found = 0, []

    async def is_over() -> bool:
        nonlocal looks
        looks += 1
        async with db.transaction() as conn:
            await conn.execute("SELECT 1")
        return looks > 2

    async for block in follow_results(db, batch_id, 4, is_over, in_order=False):
        found += [record.job_no for record in block]
        async with await AsyncConnection.connect(libpq_url(database_url), autocommit=True) as other:
            await other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
    assert found == [0, 1, 2, 3]


async def test_what_can_not_be_followed_is_refused(db: Database, producer: Run) -> None:
    batch_id = await finished(db)
    for options in (("--format", "parquet"), ("--errors", "e.jsonl"), ("--format", "table")):
        refused = producer("results", batch_id, "--follow", *options)
        assert refused.returncode == 2, refused.stderr


def test_a_dataset_s_folder_is_submitted_and_joined_like_a_file(
    producer: Run, tmp_path: Path
) -> None:
    save_to_disk(tmp_path / "d" / "test", "test", [{"question": "a", "n": 1}], [{"question": "b"}])
    save_to_disk(tmp_path / "d" / "train", "train", [{"question": "c"}])
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    done = producer("submit", "d", "--split", "test", "--template", "Why {question}?")
    assert done.returncode == 0, done.stderr
    found = joined_to(producer, UUID(done.stdout.strip()), Path("d"), "--split", "test")
    assert [(row["question"], row["custom_id"], row["status"]) for row in found] == [
        ("a", None, None),  # no job has ended yet
        ("b", None, None),
    ]
    refused = producer("submit", "d", "--template", "Why {question}?")
    assert "Choose by --split: train, test" in refused.stderr
