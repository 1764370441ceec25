"""A short run of `make chaos` on each broker: whatever is killed, the books agree in the end."""

import os
import random

import pytest

from tests.chaos.events import Plan
from tests.chaos.run import run
from tests.services import short_folder

SECONDS = 12.0

pytestmark = pytest.mark.skipif(
    not os.environ.get("ROUTOO_CHAOS"), reason="kills processes for minutes: set ROUTOO_CHAOS"
)


@pytest.mark.timeout(1_200)  # of a machine that others use
@pytest.mark.parametrize("broker", ["embedded", "given"])
def test_batches_end_well_whatever_happens_to_processes_and_servers(broker: str) -> None:
    broker_url = os.environ.get("ROUTOO_TEST_BROKER_URL") if broker == "given" else None
    if broker == "given" and broker_url is None:
        pytest.skip("ROUTOO_TEST_BROKER_URL names no broker")
    seed = random.randrange(10**6)
    print(f"python -m tests.chaos.run --seed {seed}")
    plan = Plan(seed, SECONDS, jobs=60, batches=1, pause_s=3.0, broker_url=broker_url)
    with short_folder() as folder:
        run(plan, folder / "home")
