"""The migrations and the tables they must produce."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, NullPool, create_engine

from routoo.errors import DatabaseUnavailableError
from routoo.store import migrate
from routoo.store.tables import METADATA
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

        assert compare_metadata(context, METADATA) == []


def test_migrations_produce_the_constraints_of_record(
    database_url: str, migrated_databases: Databases
) -> None:
    with migrated_databases.empty("from_the_tables") as direct:
        METADATA.create_all(_engine(direct))
        with psycopg.connect(direct) as conn:
            conn.execute("CREATE TABLE alembic_version ()")
            expected = conn.execute(_CONSTRAINTS).fetchall()

    with psycopg.connect(database_url) as conn:
        assert conn.execute(_CONSTRAINTS).fetchall() == expected


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
        assert migrate.current(url) is None
        with ThreadPoolExecutor(4) as pool:
            revisions = list(pool.map(migrate.upgrade, [url] * 4))

        assert revisions == [migrate.head()] * 4
        assert migrate.current(url) == migrate.head()


def test_a_server_that_is_away_is_reported_as_such() -> None:
    with pytest.raises(DatabaseUnavailableError, match="can't be reached"):
        migrate.upgrade("postgresql://user:secret@/db?host=/nonexistent")


def test_a_password_never_reaches_an_error_message() -> None:
    with pytest.raises(DatabaseUnavailableError) as caught:
        migrate.current("postgresql://user:secret@localhost:1/db")

    assert "secret" not in str(caught.value)


def test_the_first_migration_can_be_undone(migrated_databases: Databases) -> None:
    with migrated_databases.empty("undone") as url:
        migrate.upgrade(url)
        with _engine(url).connect() as connection:
            config = migrate._config()
            config.attributes["connection"] = connection
            command.downgrade(config, "base")
            connection.commit()

        assert migrate.current(url) is None
        assert migrate.upgrade(url) == migrate.head()
