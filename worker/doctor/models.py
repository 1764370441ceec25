"""Checks the pool, the checkpoint, and whether endpoints answer; calls models where asked to."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

from routoo.client.access import check_variables
from routoo.client.endpoints import ChatEndpoints
from routoo.client.ping import ping
from routoo.client.token_counts import TokenCounters
from routoo.domain.pool import CandidateModel, Pool
from routoo.domain.pool_file import load_pool
from routoo.errors import EndpointError, RoutooError
from routoo.store import checkpoints
from routoo.store.database import Database
from worker.doctor.finding import Finding, Health, Known, of_error, waits
from worker.roles import Role

_PING_TIMEOUT_S = 5.0
_CALL_TIMEOUT_S = 60.0


def check_pool(name: str, known: Known) -> Iterator[Finding]:
    """Read the pool, and look for the keys and tokenizers that it names."""
    pool = load_pool(known.pool_file)
    known.pool = pool
    yield Finding(name, Health.OK, f"{known.pool_file}: {len(pool.models)} models, all priced")
    if Role.DISPATCHER in known.roles:
        check_variables(pool.models, known.environ)
        TokenCounters().load(pool.models)


def check_checkpoint(name: str, known: Known) -> Iterator[Finding]:
    """Read the checkpoint in use, and compare it with the pool and its backbone."""
    from routoo.predictor.backbone.language_model import find_backbone  # torch
    from routoo.predictor.checkpoint import read_checkpoint  # the same

    folder, origin = _checkpoint_in_use(known)
    manifest = read_checkpoint(folder).manifest
    yield Finding(name, Health.OK, f"{folder} ({origin}), {len(manifest.models)} models")
    if known.pool is not None:
        wanted = dict.fromkeys(model.predicted_as for model in known.pool.models)
        unknown = [one for one in wanted if one not in manifest.models]
        if unknown:
            found = f"it doesn't know {', '.join(unknown)} of the pool, which runs on priors"
            remedy = "Learn its models by `routoo onboard`; `routoo pool priors` shows the priors"
            yield Finding(name, Health.WARNING, found, remedy)
    if find_backbone(manifest.backbone).weights_sha256 != manifest.backbone_sha256:
        found = f"the backbone {manifest.backbone} has other weights than it was fitted with"
        remedy = "Install the version of the backbone that the checkpoint was fitted with"
        yield Finding(name, Health.BROKEN, found, remedy)


def _checkpoint_in_use(known: Known) -> tuple[Path, str]:
    async def read() -> str | None:
        async with Database(known.url or "", max_size=1) as db, db.transaction() as conn:
            promoted = await checkpoints.promoted(conn)
            return promoted.path if promoted else None

    promoted = asyncio.run(read()) if known.is_migrated else None
    if promoted is not None:
        return Path(promoted), "promoted"
    return known.settings.checkpoint, "ROUTOO_CHECKPOINT"


def check_endpoints(name: str, known: Known) -> Iterator[Finding]:
    """Ask every endpoint for its list of models, which costs nothing."""
    if known.pool is None:
        yield waits(name, "the pool")
        return
    timeout_s = known.settings.ping_timeout_s or _PING_TIMEOUT_S
    known.pings = asyncio.run(ping(known.pool.models, timeout_s=timeout_s, environ=known.environ))
    for one in known.pings:
        what = f"{', '.join(one.models)} at {one.base_url.partition('?')[0]}"
        if one.is_unknown:
            found = f"{what}: not asked, since its key or proxy is not set"
            yield Finding(name, Health.NOT_CHECKED, found)
        elif one.problem is not None:
            remedy = "Start it, or correct base_url, key or proxy in the pool"
            yield Finding(name, Health.BROKEN, f"{what}: {one.problem}", remedy)
        else:
            yield Finding(name, Health.OK, f"{what}: answers")


def check_calls(name: str, known: Known) -> Iterator[Finding]:
    """Call every model once, where that was asked for."""
    if not known.calls:
        found = "no model was called: --call asks each for one token, which costs money"
        yield Finding(name, Health.NOT_CHECKED, found)
    elif known.pool is None:
        yield waits(name, "the pool")
    else:
        yield from asyncio.run(_call_each(name, known.pool, known.environ))


async def _call_each(name: str, pool: Pool, environ: Mapping[str, str]) -> list[Finding]:
    """Make a call of one token to each model, all at once."""

    async def call(model: CandidateModel) -> Finding:
        body = {"messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 1}
        try:
            done = await endpoints.complete(model, body, timeout_s=_CALL_TIMEOUT_S)
        except EndpointError as error:
            return of_error(name, error, f"{model.name}: ")
        except RoutooError as error:
            return Finding(name, Health.NOT_CHECKED, f"{model.name}: {error.what}", error.remedy)
        cost_usd = done.usage.cost_usd(model)
        found = f"{model.name}: answered in {done.latency_s:.1f} s for {cost_usd:f} USD"
        return Finding(name, Health.OK, found)

    async with ChatEndpoints(environ=environ) as endpoints:
        return list(await asyncio.gather(*map(call, pool.models)))
