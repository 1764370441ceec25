"""`routoo db` as people run it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from routoo.store.administration import newest_revision
from tests.services import short_folder
from tests.warm_commands import warm_routoo


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """Home folder of the commands."""
    with short_folder() as folder:
        yield folder


def _db(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ROUTOO_")}
    environment |= {"ROUTOO_HOME": str(home)} | variables
    return warm_routoo.run(["db", *arguments], environ=environment)


def test_a_kept_server_serves_commands_until_it_is_stopped(home: Path, tmp_path: Path) -> None:
    try:
        assert str(home).replace("/", "%2F") in _db(home, "start").stdout
        assert newest_revision() in _db(home, "upgrade").stdout
        assert _db(home, "current").stdout == f"{newest_revision()} (the newest)\n"
        assert "0" in _db(home, "psql", "-c", "SELECT count(*) FROM batches").stdout
        counted = _db(home, "query", "--json", "SELECT count(*) AS batches FROM batches")
        assert counted.stdout == '{"batches":0}\n'
        for statement in ("DELETE FROM batches", "COMMIT; DELETE FROM batches"):
            assert _db(home, "query", statement).returncode == 1
        assert "routoo_scorer: " in _db(home, "roles").stdout
        copy = str(tmp_path / "routoo.dump")
        assert " bytes" in _db(home, "dump", copy).stdout
        refused = _db(home, "restore", copy)
        assert refused.returncode != 0
        assert "isn't empty" in refused.stderr
    finally:
        stopped = _db(home, "stop")

    assert stopped.stdout == "PostgreSQL is stopped\n"
    assert _db(home, "status").returncode == 1


def test_a_configured_url_is_shown_without_its_password(home: Path) -> None:
    shown = _db(home, "url", ROUTOO_DATABASE_URL="postgresql://me:secret@db/routoo")

    assert shown.stdout == "postgresql://me@db/routoo\n"


def test_a_configured_server_is_not_ours_to_stop(home: Path) -> None:
    stopped = _db(home, "stop", ROUTOO_DATABASE_URL="postgresql://me@db/routoo")

    assert stopped.returncode != 0
    assert "not the embedded one" in stopped.stderr


def test_the_stack_and_the_store_load_no_model_library() -> None:
    code = (
        "import sys, routoo.embedded.stack, routoo.store.administration, routoo.store.predictions,"
        " routoo.store.batches.progress, routoo.store.results;"
        " print([m for m in ('torch', 'transformers', 'sklearn', 'scipy') if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
