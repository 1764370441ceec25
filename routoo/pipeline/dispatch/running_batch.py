"""What a batch's dispatch may ask of the batch as a whole: another plan, or a pause."""

from dataclasses import dataclass, field, replace

from routoo.domain.absence import Absence, AbsenceReason, Patience
from routoo.domain.batch_options import OnUnavailable
from routoo.domain.job import SLA
from routoo.domain.pool import CandidateModel
from routoo.ports import ChatClient
from routoo.store.batches import BatchRecord, control, progress, replans
from routoo.store.database import Database


@dataclass(slots=True)
class RunningBatch:
    """The batch of a shard that is being dispatched; without a record it stays as it is."""

    patience: Patience = field(default_factory=Patience)
    """How long its jobs wait for a model that takes no calls."""
    replan_wait_s: float = 15.0
    """How long a job waits for the plan that it asked for, in seconds."""
    answering: set[str] = field(default_factory=set)
    """Names of the models that answered."""
    _denying: set[str] = field(default_factory=set)
    """Names of models whose denial sent a job to another model."""
    _db: Database | None = None
    _record: BatchRecord | None = None
    _requested: set[str] = field(default_factory=set)
    _paused: bool = False

    @classmethod
    def of(cls, db: Database, record: BatchRecord, replan_wait_s: float) -> "RunningBatch":
        """Return the batch of a shard."""
        options = record.call_options
        patience = Patience(options.on_unavailable, options.patience_s)
        return cls(patience, replan_wait_s, _db=db, _record=record)

    def patience_of(self, sla: SLA) -> Patience:
        """Return how long a job waits, which its own row may say."""
        if sla.on_unavailable is None:
            return self.patience
        return replace(self.patience, on_unavailable=OnUnavailable(sla.on_unavailable))

    async def request_replan(self, model: str, reason: str) -> bool:
        """Have the jobs that wait for a model planned anew; once for each model.

        Returns:
            Whether a plan may come: one was requested now, or by another job of this shard.
        """
        if self._db is None or self._record is None or len(self._record.pool.models) == 1:
            return False
        if model not in self._requested:
            self._requested.add(model)
            async with self._db.transaction() as conn:
                await replans.request(conn, self._record.id, f"jobs leave {model}: {reason}")
        return True

    async def asks_other(self, model: CandidateModel, absence: Absence) -> bool:
        """Return whether a job leaves a model that denies requests, to see whether all models do.

        One does for each such model, unless another model is known to answer, here or to another
        worker lately: a batch that no model answers is to be paused at once.
        """
        is_denied = absence.reason is AbsenceReason.DENIED
        if not is_denied or model.name in self._denying or self.answering - {model.name}:
            return False
        self._denying.add(model.name)
        if self._db is not None and self._record is not None:
            async with self._db.transaction() as conn:
                self.answering |= await progress.models_answering(conn, self._record.id)
        return not self.answering - {model.name}

    async def pause_if_denied(self, message: str, client: ChatClient) -> bool:
        """Pause the batch if every model's endpoints take no requests of ours.

        Args:
            message: What an endpoint said, which becomes the reason.
            client: Knows the endpoints.

        Returns:
            Whether it is paused now.
        """
        if self._db is None or self._record is None or self._paused:
            return self._paused
        for model in self._record.pool.models:
            absence = None if model.is_batch_channel else client.absence(model)
            denied = absence is not None and absence.reason is AbsenceReason.DENIED
            if not (model.is_batch_channel or denied):
                return False
        reason = f"{message.rstrip('.')}. Then let it go on: routoo-producer resume"
        self._paused = True
        async with self._db.transaction() as conn:
            await control.pause_running(conn, self._record.id, reason)
        return True
