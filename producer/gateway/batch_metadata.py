"""Reads what a batch's metadata asks for: budget, aim, limits and pool."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from producer.aims import read_budget, read_limits, read_objective, read_option
from producer.gateway.errors import ApiError
from producer.gateway.options import GatewayOptions
from producer.rows.limits import read_deadline, read_number
from producer.submit import BatchRequest
from routoo.domain.batch_options import CallOptions, OnUnavailable
from routoo.errors import InputError, RoutooError

MOST_PAIRS, LONGEST_KEY, LONGEST_VALUE = 16, 64, 512
"""OpenAI's limits of metadata."""
_TRUE = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True, slots=True)
class AskedBatch:
    """What a batch is asked to be."""

    request: BatchRequest
    expires_at: datetime
    """No call starts after this."""


def label(field: str) -> str:
    """Return what messages call a field of the metadata."""
    return f"metadata.{field}"


def check_metadata(value: object) -> dict[str, str]:
    """Return metadata, within OpenAI's limits.

    Raises:
        ApiError: It is no object of texts, or too large.
    """
    metadata = {} if value is None else value
    if not isinstance(metadata, dict) or len(metadata) > MOST_PAIRS:
        raise ApiError(400, f"Give an object of at most {MOST_PAIRS} texts.", param="metadata")
    for key, text in metadata.items():
        if not isinstance(text, str) or len(key) > LONGEST_KEY or len(text) > LONGEST_VALUE:
            message = (
                f"Keys have at most {LONGEST_KEY} and values, which are texts, at most "
                f"{LONGEST_VALUE} characters; {key[:LONGEST_KEY]!r} has another value."
            )
            raise ApiError(400, message, param="metadata")
        if "\0" in key + text:
            raise ApiError(400, "Metadata holds the NUL character.", param="metadata")
    return metadata


def read_batch(
    options: GatewayOptions,
    metadata: Mapping[str, str],
    window: str,
    asked_at: datetime,
    name: str,
) -> AskedBatch:
    """Return the batch that metadata asks for.

    Args:
        options: Hold the pools.
        metadata: As `check_metadata` returns it.
        window: How long it may take, as 24h.
        asked_at: When it was asked for: what times are counted from.
        name: What the batch is called where the metadata names none.

    Raises:
        ApiError: A field has no usable value; names the field.
    """
    try:
        return _read(options, metadata, window, asked_at, name)
    except RoutooError as error:
        where = error.where or ""
        raise ApiError(400, str(error), param=where or "metadata") from error


def _read(
    options: GatewayOptions, metadata: Mapping[str, str], window: str, asked_at: datetime, name: str
) -> AskedBatch:
    ends_at = read_option("completion_window", lambda text: read_deadline(text, asked_at), window)
    pool = options.pool(metadata.get("pool"), where=label("pool")).with_batch_channels()
    limits = read_limits(metadata, pool.names, asked_at, label)
    expires_at = min(filter(None, (ends_at, limits.deadline)), default=asked_at + timedelta(days=1))
    return AskedBatch(
        BatchRequest(
            pool=pool,
            name=metadata.get("name") or name,
            budget_usd=read_budget(metadata, label),
            objective=read_objective(metadata, pool.names, label),
            call_options=_call_options(metadata),
            sla=replace(limits, deadline=expires_at),
            plan_only=_flag(metadata, "plan_only"),
            ignore_model=_flag(metadata, "ignore_model"),
            skip_invalid=_flag(metadata, "skip_invalid"),
        ),
        expires_at,
    )


def _call_options(metadata: Mapping[str, str]) -> CallOptions:
    on_unavailable = metadata.get("on_unavailable", OnUnavailable.WAIT)
    if on_unavailable not in list(OnUnavailable):
        known = " or ".join(OnUnavailable)
        raise InputError(
            "it is not known",
            value=on_unavailable,
            where=label("on_unavailable"),
            remedy=f"Give {known}",
        )
    most = _number(metadata, "max_completion_tokens", 1.0)
    return CallOptions(
        dedupe=_flag(metadata, "dedupe") if "dedupe" in metadata else None,
        on_unavailable=OnUnavailable(on_unavailable),
        patience_s=_number(metadata, "patience_s", 0.0),
        max_completion_tokens=None if most is None else int(most),
        cascade=_flag(metadata, "cascade", default=True),
    )


def _number(metadata: Mapping[str, str], name: str, least: float) -> float | None:
    def read(text: object) -> float:
        return read_number(name, text, least=least)

    return read_option(label(name), read, metadata.get(name))


def _flag(metadata: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    text = metadata.get(name)
    if text is None:
        return default
    if text.lower() not in _TRUE:
        raise InputError("it is no flag", value=text, where=label(name), remedy="Give true, false")
    return _TRUE[text.lower()]
