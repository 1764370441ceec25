"""Reads a batch's aim and limits from text: options of a command, or metadata of a request.

Texts come by the name of the field that they are for; whoever calls says how messages name it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import TypeVar

from producer.rows.limits import (
    read_deadline,
    read_max_latency_s,
    read_models,
    read_number,
    read_quality,
    read_usd,
)
from producer.rows.problems import LimitError
from routoo.domain.batch_options import Objective
from routoo.domain.job import SLA
from routoo.domain.validators import Validators
from routoo.domain.webhook import Webhook, check_webhook_url, webhooks_of
from routoo.errors import InputError

_MOST_RISK = 10.0
_MOST_RATIO = 10.0
_MOST_CONFIDENCE = 0.99

Texts = Mapping[str, str | None]
"""By the name of a field; None, or no entry, means that it was not given."""
Label = Callable[[str], str]
"""Returns what messages call a field."""
Value = TypeVar("Value")


def read_option(where: str, read: Callable[[object], Value], value: str | None) -> Value | None:
    """Return the value that a reader makes of a text, None where it was not given.

    Raises:
        InputError: The reader refused the text; the message says where it stands.
    """
    if value is None:
        return None
    try:
        return read(value)
    except LimitError as error:
        problem = error.problem
        raise InputError(
            problem.what, value=problem.value, where=where, remedy=problem.remedy
        ) from None


def read_budget(texts: Texts, label: Label) -> Decimal | None:
    """Return the budget in USD, None for none.

    Raises:
        InputError: It is no amount.
    """
    read = partial(read_usd, "the budget")
    return read_option(label("budget_usd"), read, texts.get("budget_usd"))


def read_webhooks(
    on_success: Iterable[str] | None,
    on_failure: Iterable[str] | None,
    label: Label,
    *,
    allow_http: bool,
) -> tuple[Webhook, ...]:
    """Return who is told that every job has an answer, and who of any other end.

    Raises:
        InputError: An address can't be called, or may not.
    """
    found = webhooks_of(on_success, on_failure)
    for one in found:
        check_webhook_url(one.url, allow_http=allow_http, where=label(f"on_{one.event}"))
    return found


def read_objective(texts: Texts, models: Sequence[str], label: Label) -> Objective:
    """Return the objective.

    Args:
        texts: Of min_mean_quality, match, willingness_to_pay_usd, risk and floor_confidence.
        models: Names of the pool's models.
        label: What messages call a field.

    Raises:
        InputError: A text has no usable value, or two objectives are given.
    """

    def read(name: str, reader: Callable[[object], float]) -> float | None:
        return read_option(label(name), reader, texts.get(name))

    model, ratio = _matched(texts.get("match"), models, label("match"))
    confidence = partial(read_number, "the confidence", least=0.5, most=_MOST_CONFIDENCE)
    worth = partial(read_number, "the worth of an answer", above=0.0)
    return Objective(
        min_mean_quality=read("min_mean_quality", partial(read_quality, "the mean quality")),
        match_model=model,
        match_ratio=ratio,
        willingness_to_pay_usd=read("willingness_to_pay_usd", worth),
        risk=read("risk", partial(read_number, "the risk", least=0.0, most=_MOST_RISK)) or 0.0,
        floor_confidence=read("floor_confidence", confidence),
    )


def read_limits(
    texts: Texts,
    models: Sequence[str],
    now: datetime,
    label: Label,
    validators: Validators | None = None,
) -> SLA:
    """Return the limits of jobs whose rows set none of their own.

    Args:
        texts: Of min_quality, max_cost_usd, max_latency_s, deadline, allowed_models and
            denied_models.
        models: Names of the pool's models.
        now: What times such as `2h` are counted from, with its zone.
        label: What messages call a field.
        validators: Rules for answers.

    Raises:
        InputError: A text has no usable value.
    """

    def read(name: str, reader: Callable[[object], Value]) -> Value | None:
        return read_option(label(name), reader, texts.get(name))

    read_list = partial(read_models, "the list", known=models)
    return SLA(
        min_quality=read("min_quality", partial(read_quality, "min_quality")),
        max_cost_usd=read("max_cost_usd", partial(read_usd, "the cost cap")),
        max_latency_s=read("max_latency_s", read_max_latency_s),
        deadline=read("deadline", partial(read_deadline, now=now)),
        allowed_models=read("allowed_models", read_list),
        denied_models=read("denied_models", read_list),
        validators=validators,
    )


def _matched(text: str | None, models: Sequence[str], where: str) -> tuple[str | None, float]:
    """Return the model and the ratio of MODEL@RATIO; a bare MODEL stands for all of its quality."""
    if text is None or text in models:
        return text, 1.0
    model, _, share = text.rpartition("@")
    if model not in models:
        raise InputError(
            "the model to match is not in the pool",
            value=text,
            where=where,
            remedy=f"Write MODEL@0.98 with one of {', '.join(models)}",
        )
    read_ratio = partial(read_number, "the share to match", above=0.0, most=_MOST_RATIO)
    return model, read_option(where, read_ratio, share) or 1.0
