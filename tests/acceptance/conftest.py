"""What the acceptance tests share: a checkpoint trained by the real command, and one stack."""

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from routoo.domain.items import Item
from routoo.domain.tables import Outcomes, write_items, write_outcomes
from tests.acceptance.stack import LocalStack, run_command
from tests.fakes.openai_process import FakeServerProcess
from tests.services import short_folder

ITEMS = 40
CHANCES = {"small": (0.9, 0.2), "large": (0.95, 0.9)}
"""Of a right answer to an easy and to a hard question."""


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small predictor, trained by `routoo train` on a synthetic table.

    It is trained once for all processes of a test run.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with FileLock(folder / "training.lock"):
        if not (folder / "checkpoint").exists():
            write_tables(folder)
            run_command(
                *("routoo", "train", "--no-curve", "--out", folder / "checkpoint"),
                *("--items", folder / "items.parquet", "--outcomes", folder / "outcomes.parquet"),
                environ=os.environ | {"ROUTOO_HOME": str(folder), "OMP_NUM_THREADS": "1"},
            )
    return folder / "checkpoint"


def write_tables(folder: Path) -> None:
    rng = random.Random(0)
    items = [
        Item(f"item-{number}", f"{'Prove' if number % 2 else 'Name'} number {number}, please")
        for number in range(ITEMS)
    ]
    pairs = [(number, name) for number in range(ITEMS) for name in CHANCES]
    right = [rng.random() < CHANCES[name][number % 2] for number, name in pairs]
    write_items(folder / "items.parquet", items)
    write_outcomes(
        folder / "outcomes.parquet",
        Outcomes(
            item_ids=[f"item-{number}" for number, _ in pairs],
            models=[name for _, name in pairs],
            score=np.array(right, np.float32),
            prompt_tokens=np.full(len(pairs), 20, np.float32),
            completion_tokens=np.full(len(pairs), 5, np.float32),
            cost_usd=np.full(len(pairs), 1e-5),
            latency_s=np.full(len(pairs), 0.1, np.float32),
        ),
    )


@pytest.fixture(scope="package")
def stack(request: pytest.FixtureRequest, checkpoint: Path) -> Iterator[LocalStack]:
    """A running stack; a test that stops it starts it again.

    It ends with the last test of this folder: idle, it takes a tenth of a core.
    """
    with short_folder() as folder:
        stack = LocalStack(folder / "home", checkpoint)
        stack.start()
        yield stack
        exit_code = stack.terminate()
        if request.session.testsfailed:
            sys.stderr.write(stack.log)
        assert exit_code == 0, stack.log


@pytest.fixture
def server() -> Iterator[FakeServerProcess]:
    """An endpoint that answers both models after a while, with books of its own."""
    script = {"models": {name: {"latency_s": 0.3} for name in CHANCES}}
    with FakeServerProcess(script) as server:
        yield server
