"""A short run of `make chaos` on each broker: whatever is killed, the books agree in the end."""

import os
import random

import pytest

from tests.chaos.events import Plan
from tests.chaos.run import run
from tests.services import short_folder

_IS_LONG = bool(os.environ.get("ROUTOO_CHAOS"))
_EVENTS = ["kill_one", "restart_database", "restart_broker", "kill_all"]
_MORE = [
    *("suspend_one", "pause_batch", "cancel_and_retry", "kill_submission", "jump_clock"),
    *("submit", "submit", "submit"),
]
"""With `ROUTOO_CHAOS`; the batches that are submitted have their answers in all ways."""


def broker_url(broker: str) -> str | None:
    url = os.environ.get("ROUTOO_TEST_BROKER_URL") if broker == "given" else None
    if broker == "given" and url is None:
        pytest.skip("ROUTOO_TEST_BROKER_URL names no broker")
    return url


@pytest.mark.timeout(1_200)  # of a machine that others use
@pytest.mark.parametrize("broker", ["embedded", "given"])
def test_batches_end_well_whatever_happens_to_processes_and_servers(broker: str) -> None:
    url = broker_url(broker)
    seed = random.randrange(10**6)
    events = [*_EVENTS, *(_MORE if _IS_LONG else [])]
    random.Random(seed).shuffle(events)
    print(f"seed {seed}: {events}")
    plan = Plan(
        seed, 600.0, jobs=120, batches=1, pause_s=0.5, broker_url=url, outages_s=(0.0,),
        calls_per_minute=240, events=tuple(events), slack_s=4.0 if _IS_LONG else 60.0,
    )  # fmt: skip
    with short_folder() as folder:
        run(plan, folder / "home")
