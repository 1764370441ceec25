"""The migrations and the tables they must produce."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, NullPool, create_engine
from sqlmodel import SQLModel

from routoo.domain.completion import AnswerJudgement, Reservation, Result
from routoo.domain.job import SLA, ResultStatus
from routoo.domain.prediction import Assignment, Predictions
from routoo.errors import DatabaseUnavailableError
from routoo.store import administration, columns, results
from routoo.store.batches.records import BatchRecord
from routoo.store.evaluation.eval_runs import RunRecord
from routoo.store.evaluation.grades import GradeRecord
from routoo.store.kept_answers import KeptAnswerRecord
from routoo.store.ledger import AttemptRecord
from routoo.store.schedules import ScheduleRecord
from routoo.store.tables.batch import BatchRow
from routoo.store.tables.evaluation import EvalRunRow, ScheduleRow
from routoo.store.tables.facts import (
    AnswerJudgementRow,
    AssignmentRow,
    AttemptRow,
    GradeRow,
    JobRow,
    KeptAnswerRow,
    PredictionRow,
    ReservationRow,
    ResultRow,
)
from tests.services import Databases

_CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND conrelid <> 'alembic_version'::regclass
    ORDER BY 1, 2
"""


def _engine(url: str) -> Engine:
    return create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=NullPool
    )


def test_migrations_produce_exactly_the_tables_of_record(database_url: str) -> None:
    with _engine(database_url).connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )

        assert compare_metadata(context, SQLModel.metadata) == []


def test_migrations_produce_the_constraints_of_record(
    database_url: str, migrated_databases: Databases
) -> None:
    with migrated_databases.empty("from_the_tables") as direct:
        SQLModel.metadata.create_all(_engine(direct))
        with psycopg.connect(direct) as conn:
            conn.execute("CREATE TABLE alembic_version ()")
            expected = conn.execute(_CONSTRAINTS).fetchall()

    with psycopg.connect(database_url) as conn:
        assert conn.execute(_CONSTRAINTS).fetchall() == expected


# Each record is the one list of its columns: of those that it names, and of those it leaves out.
@pytest.mark.parametrize(
    ("record", "table", "left_out"),
    [
        (AttemptRecord, AttemptRow, {"batch_id", "created_at"}),
        (KeptAnswerRecord, KeptAnswerRow, {"batch_id", "created_at"}),
        (AnswerJudgement, AnswerJudgementRow, {"batch_id", "created_at"}),
        (Reservation, ReservationRow, {"batch_id", "shard_no", "created_at"}),
        (GradeRecord, GradeRow, {"batch_id", "created_at"}),
        (Assignment, AssignmentRow, {"batch_id", "revision"}),
        (Predictions, PredictionRow, {"batch_id", "job_no"}),
        (SLA, JobRow, {"batch_id", "job_no", "custom_id", "body"}),
        (BatchRecord, BatchRow, {"first_deadline"}),
        (RunRecord, EvalRunRow, set()),
        (ScheduleRecord, ScheduleRow, set()),
    ],
)
def test_records_name_every_column_of_their_tables(
    record: type, table: type[SQLModel], left_out: set[str]
) -> None:
    assert set(columns.names(record)) | left_out == set(table.model_fields)
    assert not set(columns.names(record)) & left_out


def test_a_result_is_read_and_written_with_every_column(database_url: str) -> None:
    by_the_database = {"batch_id", "created_at", "quality_change"}
    assert {*results.WRITTEN_COLUMNS} | by_the_database == set(ResultRow.model_fields)
    with psycopg.connect(database_url) as conn:
        view = conn.execute("SELECT * FROM batch_results LIMIT 0").description
    assert view is not None
    assert ("batch_id", *results.VIEW_COLUMNS) == tuple(column.name for column in view)


def test_a_result_gives_a_value_to_every_column_that_is_written() -> None:
    ended = Result(0, ResultStatus.FAILED, Decimal(0), attempts=1)
    assert results.row_of(ended).keys() == set(results.WRITTEN_COLUMNS)


@pytest.mark.parametrize(
    ("record", "table", "names"),
    [
        (results.ResultRecord, "results", results.WRITTEN_COLUMNS),
        (AttemptRecord, "attempts", columns.names(AttemptRecord)),
        (Reservation, "reservations", columns.names(Reservation)),
        (GradeRecord, "grades", columns.names(GradeRecord)),
    ],
)
def test_rows_are_sent_with_the_types_of_their_columns(
    database_url: str, record: type, table: str, names: tuple[str, ...]
) -> None:
    with psycopg.connect(database_url) as conn:
        sent = conn.execute(
            f"SELECT {columns.from_recordset(record, names)}"
            f" FROM {columns.recordset(record, names)}".encode(),
            {"rows": "[]"},
        ).description
        held = conn.execute(f"SELECT {columns.listed(names)} FROM {table} LIMIT 0".encode())
        assert sent is not None
        assert held.description is not None
        assert [(one.name, one.type_code) for one in sent] == [
            (one.name, one.type_code) for one in held.description
        ]


def test_public_tables_and_their_columns_are_documented(database_url: str) -> None:
    with psycopg.connect(database_url) as conn:
        bare = conn.execute("""
            SELECT c.relname, a.attname FROM pg_class c
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
            WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
              AND c.relname <> 'alembic_version' AND col_description(c.oid, a.attnum) IS NULL
        """).fetchall()

    assert bare == []


def test_programs_that_start_together_migrate_once(migrated_databases: Databases) -> None:
    with migrated_databases.empty("migrated_at_once") as url:
        assert administration.current_revision(url) is None
        with ThreadPoolExecutor(4) as pool:
            revisions = list(pool.map(administration.upgrade, [url] * 4))

        assert revisions == [administration.newest_revision()] * 4
        assert administration.current_revision(url) == administration.newest_revision()


def test_the_newest_revision_is_the_one_that_alembic_finds() -> None:
    assert (
        administration.newest_revision()
        == ScriptDirectory.from_config(administration._config()).get_current_head()
    )


def test_a_database_that_is_up_to_date_is_found_so_without_alembic(database_url: str) -> None:
    code = (
        "import sys; from routoo.store import administration;"
        f" print(administration.upgrade({database_url!r}),"
        " sorted({'alembic', 'sqlalchemy', 'sqlmodel'} & sys.modules.keys()))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == f"{administration.newest_revision()} []\n"


def test_a_server_that_is_away_is_reported_as_such() -> None:
    with pytest.raises(DatabaseUnavailableError, match="can't be reached"):
        administration.upgrade("postgresql://user:secret@/db?host=/nonexistent")


def test_a_password_never_reaches_an_error_message() -> None:
    with pytest.raises(DatabaseUnavailableError) as caught:
        administration.current_revision("postgresql://user:secret@localhost:1/db")

    assert "secret" not in str(caught.value)


def test_the_first_migration_can_be_undone(migrated_databases: Databases) -> None:
    with migrated_databases.empty("undone") as url:
        administration.upgrade(url)
        with _engine(url).connect() as connection:
            config = administration._config()
            config.attributes["connection"] = connection
            command.downgrade(config, "base")
            connection.commit()

        assert administration.current_revision(url) is None
        assert administration.upgrade(url) == administration.newest_revision()
