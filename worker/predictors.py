"""Which checkpoint scores a batch: the one that was in use when the batch was submitted.

So every scorer scores a batch by the same one, however late it looks, and a promotion or a rollback
takes effect with the next batch, without a restart.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from routoo.errors import CheckpointError
from routoo.ports import Predictor
from routoo.store import checkpoints
from routoo.store.batches import BatchRecord
from routoo.store.checkpoints import CheckpointRecord
from routoo.store.database import Database

_KEPT = 2
"""Predictors held in memory: the one in use, and the one of batches that wait since before."""
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Predictors:
    """Loads predictors as batches need them.

    Attributes:
        db: Where the registry is.
        default: Checkpoint of batches that were submitted before any was promoted.
    """

    db: Database
    default: Path
    _loaded: OrderedDict[Path, tuple[str, Predictor]] = field(default_factory=OrderedDict)
    _loading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def warm_up(self) -> None:
        """Load what the next batch will need.

        Raises:
            CheckpointError: It can't be used.
        """
        async with self.db.transaction() as conn:
            promoted = await checkpoints.promoted(conn)
        await self._get(promoted)

    async def of(self, batch: BatchRecord) -> Predictor:
        """Return the predictor that scores a batch.

        Raises:
            CheckpointError: Its checkpoint can't be used.
        """
        async with self.db.transaction() as conn:
            promoted = await checkpoints.promoted(conn, at=batch.created_at)
        return await self._get(promoted)

    async def _get(self, promoted: CheckpointRecord | None) -> Predictor:
        path = self.default if promoted is None else Path(promoted.path)
        wanted = None if promoted is None else promoted.weights_sha256
        async with self._loading:
            found = self._loaded.get(path)
            if found is None or (wanted is not None and found[0] != wanted):
                found = await asyncio.to_thread(_load, path)
                self._loaded[path] = found
            if wanted is not None and found[0] != wanted:
                raise CheckpointError(
                    "the folder does not hold the checkpoint that was promoted",
                    where=str(path),
                    value=found[0],
                    remedy=f"Copy the checkpoint with the weights {wanted} there",
                )
            self._loaded.move_to_end(path)
            while len(self._loaded) > _KEPT:
                self._loaded.popitem(last=False)
            return found[1]


def _load(path: Path) -> tuple[str, Predictor]:
    # Here and not above: PyTorch takes seconds to import and only scorers need it.
    from routoo.predictor.predictor import load_predictor  # noqa: PLC0415

    predictor = load_predictor(path)
    _log.info("checkpoint.loaded", path=str(path), weights=predictor.manifest.weights_sha256[:12])
    return predictor.manifest.weights_sha256, predictor
