"""Asks endpoints whether they answer, before any job depends on them; it costs nothing.

Each is asked for its list of models (`GET .../models`), which no provider bills. An endpoint that
has no such list answers all the same, if only that it is not found.
"""

import asyncio
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from routoo.client.access import find_access
from routoo.client.failures import error_of_response
from routoo.client.http import HttpClient, target_of
from routoo.client.model_endpoints import format_of
from routoo.client.ratelimit_headers import http_date
from routoo.domain.networks import NONE_BLOCKED, BlockedNetworks
from routoo.domain.pool import CandidateModel
from routoo.errors import ConfigError, DenialReason, EndpointDeniedError, EndpointError

_MODELS_PATH = "models"
_MOST_BYTES = 16 * 2**20
_AWAY = frozenset({502, 503, 504})
"""Statuses with which a gateway says that what is behind it doesn't answer."""
_REMEDY = (
    "Start the endpoint, correct base_url, key or proxy in the pool, take the model out of it, or "
    "pass --no-ping to leave this check out"
)


@dataclass(frozen=True, slots=True)
class Ping:
    """Whether one endpoint answered."""

    models: tuple[str, ...]
    """Names of the candidate models that it serves."""
    base_url: str
    problem: str | None
    """Why no call can succeed, None where it answered or could not be asked from here."""
    is_unknown: bool = False
    """It was not asked: its key or proxy is set for the workers alone."""
    clock_ahead_s: float | None = None
    """How far its clock is ahead of this machine's, to a second or two; None where unknown."""


async def ping(
    models: Iterable[CandidateModel],
    *,
    timeout_s: float,
    environ: Mapping[str, str] | None = None,
    blocked: BlockedNetworks = NONE_BLOCKED,
) -> list[Ping]:
    """Ask the endpoints of some models, all at once.

    Args:
        models: Candidate models; an endpoint that several share is asked once.
        timeout_s: Longest wait for each of them, in seconds.
        environ: Where keys and proxies are looked up; the process's environment if unset.
        blocked: Addresses that are not connected to.
    """
    environ = os.environ if environ is None else environ
    by_endpoint: dict[tuple[str, str | None, str | None], list[CandidateModel]] = {}
    for model in models:
        for endpoint in model.all_endpoints:
            key = endpoint.base_url, endpoint.api_key_env, endpoint.proxy_url_env
            by_endpoint.setdefault(key, []).append(model.at(endpoint))
    async with HttpClient(max_bytes=_MOST_BYTES, blocked=blocked) as http:
        asked = (_ping(http, shared, timeout_s, environ) for shared in by_endpoint.values())
        return list(await asyncio.gather(*asked))


async def _ping(
    http: HttpClient, models: list[CandidateModel], timeout_s: float, environ: Mapping[str, str]
) -> Ping:
    model = models[0]
    names, url = tuple(one.name for one in models), model.endpoint.base_url
    try:
        access = find_access(model, environ)
    except ConfigError:
        return Ping(names, url, None, is_unknown=True)
    target = target_of(model.endpoint, _MODELS_PATH, access, format_of(model).headers)
    try:
        reply = await http.send(target, None, timeout_s=timeout_s, method="GET")
    except EndpointError as error:
        return Ping(names, url, _reason(error))
    ahead_s = _clock_ahead_s(reply.headers.get("Date"))
    if reply.status < HTTPStatus.MULTIPLE_CHOICES:
        return Ping(names, url, None, clock_ahead_s=ahead_s)
    details = format_of(model).read_error(reply.status, reply.body)
    refusal = error_of_response(
        details, reply.status, reply.headers, where=target.where, secret=access.key
    )
    problem = _reason(refusal) if _is_away(refusal) else None
    return Ping(names, url, problem, clock_ahead_s=ahead_s)


def _clock_ahead_s(date: str | None) -> float | None:
    """Return how far the clock behind a Date header is ahead, in seconds."""
    moment = http_date(date)
    return None if moment is None else moment.timestamp() - time.time()


def _is_away(error: EndpointError) -> bool:
    """Whether a refused list of models means that calls would be refused too.

    Not so where the key may not list models, or there is no list.
    """
    if isinstance(error, EndpointDeniedError):
        redirected = error.http_status is not None and error.http_status < HTTPStatus.BAD_REQUEST
        return error.reason is DenialReason.UNAUTHORIZED or redirected
    return error.http_status in _AWAY


def _reason(error: EndpointError) -> str:
    return error.what.partition("\n")[0].rstrip(".")


def check_answers(pings: Iterable[Ping]) -> None:
    """Raise where a model has no endpoint that answers.

    Raises:
        ConfigError: Names those models, their endpoints and why.
    """
    pings = list(pings)
    answering = {name for one in pings if one.problem is None for name in one.models}
    away = [one for one in pings if set(one.models) - answering]
    if away:
        lines = [f"{', '.join(one.models)} at {one.base_url}: {one.problem}" for one in away]
        count = len({name for one in away for name in one.models} - answering)
        raise ConfigError(
            f"{count} models of the pool don't answer:\n" + "\n".join(lines), remedy=_REMEDY
        )
