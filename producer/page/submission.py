"""Takes a file of prompts from a form, and plans it before any money is spent."""

import asyncio
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from producer.aims import read_budget, read_limits, read_objective
from producer.gateway.state import Gateway
from producer.gateway.uploads import UploadForm
from producer.page.rendering import Visit, check_token
from producer.pool_check import check_pool
from producer.queue import check_broker, publish_or_note
from producer.rows.bad_rows import BadInputError
from producer.rows.source import Source
from producer.submit import BatchRequest, Submission, submit
from routoo.domain.job import Stage
from routoo.errors import InputError, RoutooError
from routoo.store.database import Database

_LABELS = {
    "budget_usd": "the budget",
    "min_mean_quality": "the mean quality",
    "match": "the model to match",
    "deadline": "the deadline",
    "min_quality": "the least quality",
}


@dataclass(frozen=True, slots=True)
class RefusedFormError(Exception):
    """A form can't be submitted; it is shown again with what was typed."""

    message: str
    typed: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    """Of rows of the file."""


async def plan_upload(visit: Visit) -> UUID:
    """Plan the file of the form that a request carries.

    Returns:
        Id of the plan, which workers score and select.

    Raises:
        RefusedFormError: Something typed, or something in the file, has to be mended.
        ApiError: The form is of another session, or too large.
    """
    gateway = visit.gateway
    form = UploadForm(visit.request, gateway.options.max_file_bytes)
    with tempfile.TemporaryDirectory(prefix="routoo-") as folder:
        path = Path(folder) / "upload"
        with path.open("wb") as stream:
            async for data in form.file_data():
                await asyncio.to_thread(stream.write, data)
        check_token(visit, form.fields.get("csrf_token"))
        submission = await _plan(visit, form, path)
    shards = gateway.settings.shard_count(submission.job_count)
    await asyncio.to_thread(
        publish_or_note, gateway.settings, Stage.SCORE, submission.batch_id, shards
    )
    return submission.batch_id


async def _plan(visit: Visit, form: UploadForm, path: Path) -> Submission:
    try:
        request = _read(visit, form.fields, path.parent)
        return await _submit(visit.gateway, _source(path, form.filename), request)
    except BadInputError as error:
        raise RefusedFormError(error.what, form.fields, tuple(error.problems.lines())) from error
    except RoutooError as error:
        raise RefusedFormError(str(error), form.fields) from error


def _read(visit: Visit, typed: Mapping[str, str], folder: Path) -> BatchRequest:
    """Return the batch that a form describes.

    Raises:
        InputError: Something typed has no usable value.
        NotFoundError: There is no such pool.
    """
    texts = {name: text.strip() or None for name, text in typed.items()}
    pool = visit.gateway.options.pool(texts.get("pool")).with_batch_channels()
    aims = {"mean": ("min_mean_quality",), "match": ("match",)}.get(texts.get("aim") or "", ())
    if texts.get("aim") == "match" and texts.get("match_model"):
        texts["match"] = f"{texts['match_model']}@{texts.get('match_ratio') or '1'}"
    missing = [name for name in aims if not texts.get(name)]
    budget_usd = read_budget(texts, _label)
    if missing or (not aims and budget_usd is None):
        name = _label(missing[0] if missing else "budget_usd")
        raise InputError(f"{name} is missing", remedy="The aim that was chosen needs it")
    return BatchRequest(
        pool=pool,
        name=texts.get("name"),
        budget_usd=budget_usd,
        objective=read_objective({name: texts[name] for name in aims}, pool.names, _label),
        plan_only=True,
        sla=read_limits(
            {name: texts.get(name) for name in ("deadline", "min_quality")},
            pool.names,
            datetime.now(UTC),
            _label,
        ),
        skip_invalid="skip_invalid" in typed,
        error_file=folder / "bad-rows.jsonl",
        key_id=visit.session.caller.key_id,
    )


def _label(name: str) -> str:
    return _LABELS.get(name, name.replace("_", " "))


def _source(path: Path, filename: str | None) -> Source:
    """Return the uploaded rows, whose format the file's name tells.

    Raises:
        InputError: There is no file, or its name tells no format.
    """
    name = Path(filename or "").name
    if not name:
        raise InputError("there is no file", remedy="Choose one")
    named = path.with_name(f"upload-{name[-100:]}")
    path.rename(named)
    return Source(named, Source.of(str(named)).format, label=name)


async def _submit(gateway: Gateway, source: Source, request: BatchRequest) -> Submission:
    settings = gateway.settings

    async def work(database: Database) -> Submission:
        check_broker(settings)
        await check_pool(database, request.pool, settings)
        return await submit(database, source, request, shard_size=settings.shard_size)

    return await gateway.database.apart(work)
