"""What the acceptance tests share: a checkpoint, and one stack."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from routoo.predictor.manifest import MANIFEST_FILE, WEIGHTS_FILE
from routoo.settings import REPOSITORY
from tests.acceptance.stack import LocalStack
from tests.fakes.openai_process import FakeServerProcess
from tests.services import short_folder

EXAMPLE = REPOSITORY / "examples" / "checkpoint"
NAMES = {
    "smollm2-135m-instruct": "small",
    "qwen2.5-coder-1.5b-instruct": "large",
}
"""The fake models, by the example's models whose answers the predictor has learnt."""


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's predictor under the names of the fake models, without its judge.

    `test_evaluation_loop.py` trains one by `routoo train`.
    """
    folder = tmp_path_factory.mktemp("checkpoint")
    manifest = (EXAMPLE / MANIFEST_FILE).read_text()
    for theirs, ours in NAMES.items():
        manifest = manifest.replace(f'"{theirs}"', f'"{ours}"')
    (folder / MANIFEST_FILE).write_text(json.dumps(json.loads(manifest) | {"judge": {}}))
    shutil.copy(EXAMPLE / WEIGHTS_FILE, folder)
    return folder


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
    script = {"models": {name: {"latency_s": 0.3} for name in NAMES.values()}}
    with FakeServerProcess(script) as server:
        yield server
