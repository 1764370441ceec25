"""Settings: URLs of the wrong kind are refused at once, and folders keep their meaning."""

from pathlib import Path

import pytest

from routoo.errors import ConfigError
from routoo.settings import load_settings
from routoo.store.database import with_password_apart


@pytest.mark.parametrize(
    ("variable", "url", "said"),
    [
        ("ROUTOO_DATABASE_URL", "mysql://ada:secret@host/db", "wrong scheme (mysql)"),
        ("ROUTOO_DATABASE_URL", "host/db", "wrong scheme (none)"),
        ("ROUTOO_DATABASE_URL", "postgresql://ada:secret@host:post/db", "port is no number"),
        ("ROUTOO_BROKER_URL", "http://ada:secret@host", "wrong scheme (http)"),
        ("ROUTOO_BROKER_URL", "redis://:secret@host:99999/0", "port is no number"),
        ("ROUTOO_BROKER_URL", "amqp://ada:secret@host;sqs://host", "wrong scheme (sqs)"),
    ],
)
def test_a_url_that_names_no_such_server_is_refused_without_its_password(
    variable: str, url: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, url)
    with pytest.raises(ConfigError) as refused:
        load_settings()
    assert str(refused.value).startswith(f"{variable}: the URL")
    assert said in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("ROUTOO_DATABASE_URL", "postgresql+psycopg://ada@host:5432/db"),
        ("ROUTOO_DATABASE_URL", "postgres:///db?host=/run/postgresql"),
        ("ROUTOO_DATABASE_URL", "postgresql://one:5432,two:5432/db"),
        ("ROUTOO_BROKER_URL", "amqps://ada:p%40ss@host//"),
        ("ROUTOO_BROKER_URL", "redis+socket:///run/valkey.sock"),
        ("ROUTOO_BROKER_URL", "amqp://one//;amqp://two//"),
    ],
)
def test_a_url_of_a_server_that_we_know_is_taken(
    variable: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, url)
    load_settings()


def test_a_relative_folder_means_the_same_to_every_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROUTOO_HOME", "home")
    monkeypatch.setenv("ROUTOO_CHECKPOINT", "checkpoint")
    settings = load_settings()
    assert settings.home == tmp_path / "home"
    assert settings.checkpoint == tmp_path / "checkpoint"


def test_a_password_is_given_to_another_program_in_its_environment_alone() -> None:
    url, environment = with_password_apart("postgresql+psycopg://ada:s%40fe@host:5432/db?x=1")
    assert url == "postgresql://ada@host:5432/db?x=1"
    assert environment["PGPASSWORD"] == "s@fe"
    url, environment = with_password_apart("postgresql://routoo@/routoo?host=%2Ftmp")
    assert url == "postgresql://routoo@/routoo?host=%2Ftmp"
    assert "PGPASSWORD" not in environment
