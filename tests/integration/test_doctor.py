"""`routoo-worker doctor` finds what keeps a machine from serving batches, a line a check."""

import asyncio
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from routoo.settings import REPOSITORY, Settings
from routoo.store.database import Database
from tests import batch_factory as factory
from tests.fakes.openai_process import FakeServerProcess
from tests.producer_command import write_pool
from worker.doctor import checks as doctor_checks
from worker.doctor.examine import check_traces, examine
from worker.doctor.finding import Finding, Health, Known
from worker.roles import Role

NOWHERE = "postgresql://user:secret@127.0.0.1:1/routoo"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[FakeServerProcess]:
    with FakeServerProcess({"models": {"smollm2-135m-instruct": {}}}) as server:
        yield server


def pool_at(folder: Path, base_url: str, name: str = "smollm2-135m-instruct") -> Path:
    path = write_pool(folder / "pool.yaml")
    pool = json.loads(path.read_text())
    pool["models"][0] |= {"name": name, "endpoint": {"base_url": base_url}}
    path.write_text(json.dumps(pool))
    return path


def by_check(found: Iterator[Finding]) -> dict[str, list[Finding]]:
    checks: dict[str, list[Finding]] = {}
    for finding in found:
        checks.setdefault(finding.check, []).append(finding)
    return checks


def test_a_machine_in_order_has_nothing_broken_and_a_call_says_what_it_cost(
    database_url: str, broker_url: str, endpoint: FakeServerProcess, tmp_path: Path
) -> None:
    settings = Settings(database_url=database_url, broker_url=broker_url, home=tmp_path)
    pool = pool_at(tmp_path, endpoint.base_url)
    found = by_check(examine(settings, pool, calls=True, environ={}))
    broken = [one for many in found.values() for one in many if one.health is Health.BROKEN]
    assert not broken
    assert found["database"][0].health is Health.OK
    assert found["migrations"][0].found.endswith("the newest")
    assert "USD" in found["calls"][0].found
    assert "the database's" in found["clock"][0].found
    assert found["workers"][0].remedy == "Start beat, dispatcher, scorer, or `routoo-worker up`"
    assert len(endpoint.log()) == 1


@pytest.mark.anyio
async def test_without_a_pool_that_of_the_newest_batch_is_looked_at_else_the_example_s_in_doubt(
    db: Database, database_url: str, broker_url: str, tmp_path: Path
) -> None:
    settings = Settings(database_url=database_url, broker_url=broker_url, home=tmp_path)

    def look() -> dict[str, list[Finding]]:
        return by_check(examine(settings, None, roles=frozenset({Role.DISPATCHER}), environ={}))

    found = await asyncio.to_thread(look)
    assert found["pool"][0].found.startswith("none is named, so the example's is looked at")
    assert {one.health for one in (*found["pool"], *found["endpoints"])} == {Health.WARNING}
    await factory.submit(db, 1)
    found = await asyncio.to_thread(look)
    assert "that of the newest batch" in found["pool"][0].found
    assert {one.health for one in found["endpoints"]} == {Health.BROKEN}


def test_a_database_that_is_down_hides_nothing_else_and_its_password_is_not_shown(
    broker_url: str, endpoint: FakeServerProcess, tmp_path: Path
) -> None:
    settings = Settings(database_url=NOWHERE, broker_url=broker_url, home=tmp_path)
    pool = pool_at(tmp_path, endpoint.base_url)
    found = by_check(examine(settings, pool, environ={"ROUTOO_DATABSE_URL": "x"}))
    assert found["database"][0].health is Health.BROKEN
    assert found["migrations"][0].health is Health.NOT_CHECKED
    assert found["broker"][0].health is Health.OK
    assert found["endpoints"][0].health is Health.OK
    assert found["calls"][0].health is Health.NOT_CHECKED
    assert found["settings"][0].remedy == "Write ROUTOO_DATABASE_URL"
    assert "secret" not in "".join(one.line() for many in found.values() for one in many)


def test_models_that_the_checkpoint_does_not_know_and_missing_keys_are_named(
    tmp_path: Path,
) -> None:
    settings = Settings(database_url=NOWHERE, broker_url="redis://127.0.0.1:1", home=tmp_path)
    pool = REPOSITORY / "examples" / "pool-hosted.yaml"
    found = by_check(examine(settings, pool, environ={}))
    assert "OPENAI_API_KEY, VLLM_API_KEY" in found["pool"][1].found
    assert "gpt-4o-mini" in found["checkpoint"][1].found
    assert found["endpoints"][0].health is Health.NOT_CHECKED
    assert found["broker"][0].health is Health.BROKEN


def test_a_machine_is_examined_for_the_roles_it_is_to_run(tmp_path: Path) -> None:
    settings = Settings(database_url=NOWHERE, broker_url="redis://127.0.0.1:1", home=tmp_path)
    pool = REPOSITORY / "examples" / "pool-hosted.yaml"
    found = by_check(examine(settings, pool, roles=frozenset({Role.BEAT}), environ={}))
    assert [one.health for one in found["settings"]] == [Health.OK]
    assert not {"checkpoint", "endpoints", "calls"} & set(found)
    assert [one.health for one in found["pool"]] == [Health.OK]


def test_limits_that_are_too_low_are_broken_and_say_how_to_raise_them(
    database_url: str, broker_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    monkeypatch.setattr(doctor_checks, "available_memory_bytes", lambda: 2**20)
    settings = Settings(
        database_url=database_url, broker_url=broker_url, home=tmp_path, dispatch_threads=200
    )
    pool = pool_at(tmp_path, "http://127.0.0.1:1/v1")
    found = by_check(examine(settings, pool, environ={}))
    for check in ("open files", "connections", "memory", "endpoints"):
        assert found[check][0].health is Health.BROKEN, check
        assert found[check][0].remedy
    assert "its hard limit" in (found["open files"][0].remedy or "")


def test_the_command_prints_json_and_its_exit_status_says_that_something_is_broken(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("routoo-worker"), "doctor", "--json", "--role", "beat"],
        env=os.environ
        | {"ROUTOO_DATABASE_URL": NOWHERE, "ROUTOO_BROKER_URL": "redis://127.0.0.1:1"}
        | {"ROUTOO_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    printed = json.loads(done.stdout)
    assert done.returncode == 1
    assert printed["healthy"] is False
    assert {"check", "health", "found", "remedy"} == set(printed["checks"][0])


def test_a_role_by_itself_needs_servers_that_others_reach(tmp_path: Path) -> None:
    settings = Settings(database_url=NOWHERE, broker_url=None, home=tmp_path)
    known = examine(settings, settings.pool, roles=frozenset({Role.BEAT}), environ={})
    assert next(known).found.startswith("ROUTOO_BROKER_URL unset")


@pytest.mark.parametrize("is_away", [False, True])
def test_a_collector_of_traces_that_is_away_is_a_warning(
    endpoint: FakeServerProcess, tmp_path: Path, *, is_away: bool
) -> None:
    url = "http://127.0.0.1:1" if is_away else endpoint.base_url
    known = Known(
        settings=Settings(database_url=NOWHERE, home=tmp_path, traces=True),
        pool_file=tmp_path,
        roles=frozenset(Role),
        calls=False,
        environ={"OTEL_EXPORTER_OTLP_ENDPOINT": url},
        exits=ExitStack(),
    )
    (found,) = check_traces("traces", known)
    assert found.health is (Health.WARNING if is_away else Health.OK)


def test_settings_that_cannot_be_read_are_the_only_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("routoo-worker"), "doctor"],
        env=os.environ | {"ROUTOO_LEASE_S": "soon", "ROUTOO_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "broken       settings     ROUTOO_LEASE_S" in done.stdout
