"""Which checkpoint scores a batch, against a real registry."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from routoo.domain.model_prior import GENERAL_CHECKPOINT
from routoo.errors import CheckpointError
from routoo.pipeline import score
from routoo.pipeline.score import PredictorCache, ScoringCheckpoint
from routoo.ports import Feedback
from routoo.predictor.dataset import OutcomeMatrix
from routoo.settings import REPOSITORY, Settings
from routoo.store import batches, checkpoints
from routoo.store.batches.records import BatchRecord
from routoo.store.database import Database
from routoo.training.onboard import GENERAL, Onboarded, put_into_use
from routoo.training.onboard_report import routes_worse
from routoo.training.promote import promote_named, register_folder
from tests import batch_factory

pytestmark = pytest.mark.anyio

DEFAULT = Path("/default")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders loaded so far; a folder's name is also the hash of the weights in it."""
    found: list[Path] = []

    def load(path: Path, _threads: int | None) -> ScoringCheckpoint:
        found.append(path)
        named: Any = SimpleNamespace(name=path.name, covering=lambda _models: named)
        return ScoringCheckpoint(path.name, named)

    monkeypatch.setattr(score, "_load", load)
    return found


async def promote(db: Database, name: str, folder: str | None = None) -> None:
    async with db.transaction() as conn:
        manifest = {"weights_sha256": name, "metrics": {}}
        found = await checkpoints.register(conn, folder or f"/checkpoints/{name}", manifest)
        await checkpoints.promote(conn, found, "test")


async def submitted(db: Database) -> BatchRecord:
    batch_id = await batch_factory.submit(db, 1)
    async with db.transaction() as conn:
        return await batches.get(conn, batch_id)


async def scored_by(used: PredictorCache, batch: BatchRecord) -> str:
    found: Any = await used.of(batch)
    return str(found.predictor.name)


async def test_a_batch_is_scored_by_what_was_in_use_when_it_was_submitted(
    db: Database, loads: list[Path]
) -> None:
    used = PredictorCache(db, DEFAULT)
    before = await submitted(db)
    await promote(db, "first")
    after = await submitted(db)
    assert await scored_by(used, after) == "first"
    assert await scored_by(used, before) == "default"
    await asyncio.gather(*(used.of(after) for _ in range(3)))
    assert loads == [Path("/checkpoints/first"), DEFAULT]


async def test_a_pool_that_it_can_not_cover_is_scored_by_the_general_checkpoint(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(path: Path, _threads: int | None) -> ScoringCheckpoint:
        general: Any = SimpleNamespace(name="placed")
        covers = general if path == Path("/general") else None
        named: Any = SimpleNamespace(name=path.name, covering=lambda _models: covers)
        return ScoringCheckpoint(path.name, named)

    monkeypatch.setattr(score, "_load", load)
    used = PredictorCache(db, DEFAULT, Path("/general"))
    assert await scored_by(used, await submitted(db)) == "placed"
    await promote(db, "first")
    assert await scored_by(used, await submitted(db)) == "placed"


async def test_a_rollback_takes_effect_with_the_next_batch(db: Database, loads: list[Path]) -> None:
    used = PredictorCache(db, DEFAULT)
    for name in ("first", "second", "third"):
        await promote(db, name)
    for expected in ("second", "first"):
        async with db.transaction() as conn:
            assert await checkpoints.roll_back(conn, "worse") is not None
        assert await scored_by(used, await submitted(db)) == expected
    async with db.transaction() as conn:
        assert await checkpoints.roll_back(conn, "worse") is None
    assert len(loads) == 2


async def test_a_checkpoint_that_came_back_can_be_rolled_back_again(db: Database) -> None:
    for name in ("first", "second", "first"):
        await promote(db, name)
    async with db.transaction() as conn:
        found = await checkpoints.roll_back(conn, "worse")
    assert found is not None
    assert found.weights_sha256 == "second"


async def test_what_routes_worse_is_registered_and_left_to_a_person(db: Database) -> None:
    matrix = SimpleNamespace(items=[])
    made = Onboarded(GENERAL_CHECKPOINT, GENERAL, cast(OutcomeMatrix, matrix), (), {})
    said: list[str] = []
    feedback = cast(Feedback, SimpleNamespace(note=said.append))
    routed = {"gain": {"mean": -0.03, "low": -0.06, "high": -0.001}}
    for worse, in_use in ((routes_worse(routed), False), (routes_worse(None), True)):
        found, used = await put_into_use(db, made, Settings(), feedback, routes_worse=worse)
        assert used is in_use
    (why,) = said
    assert why.startswith("registered and not promoted: on your questions it routes worse than")
    assert f"`routoo checkpoint promote {found.weights_sha256[:12]}`" in why
    assert (await put_into_use(db, made, Settings(), feedback, routes_worse=True))[1]


async def test_a_rollback_of_what_is_in_use_no_more_does_nothing(db: Database) -> None:
    await promote(db, "first")
    await promote(db, "second")
    async with db.transaction() as conn:
        assert await checkpoints.roll_back(conn, "worse", only_if="first") is None
        found = await checkpoints.promoted(conn)
    assert found is not None
    assert found.weights_sha256 == "second"


@pytest.mark.usefixtures("loads")
async def test_a_folder_that_holds_other_weights_is_refused(db: Database) -> None:
    await promote(db, "wanted", "/checkpoints/other")
    with pytest.raises(CheckpointError, match="not hold the checkpoint that was promoted"):
        await PredictorCache(db, DEFAULT).of(await submitted(db))


async def test_a_folder_is_promoted_by_a_relative_name_too(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY / "examples")
    async with db.transaction() as conn:
        registered = await register_folder(conn, Path("checkpoint"))
        promoted = await promote_named(conn, "checkpoint", "a test", Path("nothing"))
        assert promoted == registered
        assert await checkpoints.promoted(conn) == registered
