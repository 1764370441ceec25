"""Fixtures of all tests; a service is started by the first test that asks for it.

`ROUTOO_TEST_DATABASE_URL` and `ROUTOO_TEST_BROKER_URL` run the suite against servers of one's own.
Tests may be `async def`: AnyIO's plugin runs them on asyncio.
"""

import gc
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

# One thread a process, told before NumPy and torch are loaded: the suite's processes and the
# programs that they start share the cores, and threads that wait for each other burn them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A script's background command ignores Ctrl-C, and so would the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import pytest
from jaxtyping import install_import_hook
from xdist.scheduler import LoadFileScheduling

import tests.shapes
from routoo.store.database import Database
from tests.services import Databases, broker_server, database_server, databases, short_folder

# A property holds however slow the machine is: an example has no time limit of its own.
hypothesis.settings.register_profile("routoo", deadline=None)
hypothesis.settings.load_profile("routoo")

# The array shapes that signatures promise are checked while the tests run.
install_import_hook(
    ["routoo.selector", "routoo.predictor", "routoo.judge", "routoo.pipeline.select.estimates"],
    f"{tests.shapes.__name__}.checked",
)


_STACK = "tests/acceptance/"
_WITHOUT_STACK = ("test_collect_cli.py", "test_db_commands.py")


class OneStack(LoadFileScheduling):
    """Hands out files whole, and those that share the acceptance tests' stack to one process."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        shares = file.startswith(_STACK) and not file.endswith(_WITHOUT_STACK)
        return _STACK if shares else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneStack | None:
    """Put tests that share a stack together, where files are handed out whole."""
    return OneStack(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: tests wait for servers, answers and clocks."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Import all tests without looking for garbage; later looks pass over what imports made."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Asyncio is what the programs run on."""
    return "asyncio"


@pytest.fixture(scope="session")
def service_folder() -> Iterator[Path]:
    """Home folder of this process's embedded servers."""
    with short_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def migrated_databases(service_folder: Path) -> Iterator[Databases]:
    """A database server with a migrated template."""
    with database_server(service_folder) as url, databases(url) as found:
        yield found


@pytest.fixture
def database_url(migrated_databases: Databases) -> Iterator[str]:
    """URL of a fresh migrated database."""
    with migrated_databases.clone() as url:
        yield url


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """A fresh migrated database, opened."""
    async with Database(database_url) as opened:
        yield opened


@pytest.fixture(scope="session")
def broker_url(service_folder: Path) -> Iterator[str]:
    """URL of a broker; a test keeps to queues or a virtual database of its own."""
    with broker_server(service_folder) as url:
        yield url
