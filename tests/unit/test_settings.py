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


@pytest.mark.parametrize(
    ("blocked", "address", "expected"),
    [
        ("", "127.0.0.1", False),
        ("private", "127.0.0.1", True),
        ("private", "10.1.2.3", True),
        ("private", "169.254.169.254", True),
        ("private", "100.64.0.1", True),
        ("private", "0.1.2.3", True),
        ("private", "224.0.0.1", True),
        ("private", "::1", True),
        ("private", "fe80::1%eth0", True),
        ("private", "fd12::1", True),
        ("private", "::ffff:192.168.0.1", True),
        ("private", "2002:0a00:0001::", True),
        ("private", "8.8.8.8", False),
        ("private", "2606:4700::1111", False),
        ("10.0.0.0/8, fd00::/8", "10.1.2.3", True),
        ("10.0.0.0/8, fd00::/8", "192.168.0.1", False),
    ],
)
def test_networks_are_blocked_with_all_forms_of_their_addresses(
    monkeypatch: pytest.MonkeyPatch, blocked: str, address: str, *, expected: bool
) -> None:
    monkeypatch.setenv("ROUTOO_BLOCKED_NETWORKS", blocked)
    assert load_settings().blocked_networks.blocks(address) is expected


def test_a_network_that_is_none_is_refused_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ROUTOO_BLOCKED_NETWORKS", "10.0.0.1/8")
    with pytest.raises(ConfigError, match="ROUTOO_BLOCKED_NETWORKS"):
        load_settings()
