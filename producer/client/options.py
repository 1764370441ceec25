"""The options of a batch in Python, and how they become the texts that all programs read."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from os import PathLike
from typing import Any, TypedDict

import orjson

from producer.aims import read_webhooks
from producer.rows import jsonl_rows
from producer.rows.formats import PROMPT, RawRow, WantedColumns, in_chunks
from producer.rows.limits import read_validators
from producer.rows.problems import LimitError, ProblemKind, RowProblem
from producer.rows.source import Format, RowSource, Source, refuse_parts
from producer.rows.templates import RowTemplate, filled, row_template
from routoo.domain.pool import Pool
from routoo.domain.validators import Validators
from routoo.domain.webhook import Webhook
from routoo.errors import InputError

Rows = str | PathLike[str] | Iterable[str | Mapping[str, Any]]
"""A path of a JSONL, CSV or Parquet file, or rows: prompts, or dicts as a line of such a file."""


class BatchOptions(TypedDict, total=False):
    """What a batch aims at, its limits, and how it is called; the options of `submit`."""

    pool: str | PathLike[str] | Pool
    """Pool file of candidate models, or a pool; ROUTOO_POOL where unset. Over a gateway, the name
    of one of its pools; its first one where unset."""
    name: str
    """Name of the batch; the file's where unset."""
    idempotency_key: str
    """Submitting twice with the same key makes one batch."""
    budget_usd: float | str | Decimal
    """Most that the whole batch may cost, in USD; a hard limit."""
    min_mean_quality: float
    """Aim: mean expected quality to be reached at the least cost, in [0, 1]."""
    match: str
    """Aim: MODEL@0.98, so much of a model's own mean quality, at the least cost."""
    willingness_to_pay_usd: float
    """Aim: what one more good answer is worth, in USD; dearer gains are left out."""
    risk: float
    """Standard deviations of its estimate that quality is counted below its mean by."""
    floor_confidence: float
    """Share of jobs whose answer shall reach `min_quality`, 0.5 to 0.99."""
    min_quality: float
    """Least expected quality of a job's model, in [0, 1]."""
    max_cost_usd: float | str | Decimal
    """Most that one job may cost, in USD."""
    max_latency_s: float
    """Longest wait for a call's answer, in seconds."""
    deadline: str | datetime | timedelta
    """No call starts after it: an instant with its zone, or a time from now."""
    allowed_models: Iterable[str]
    """The only models of the pool that may answer."""
    denied_models: Iterable[str]
    """Models that may not."""
    cascade: bool
    """Whether a cheap model may be asked first and its answer judged; true unless given."""
    dedupe: bool
    """Whether identical requests are called once; those with temperature 0 or a seed else."""
    on_unavailable: str
    """wait or fallback, while a job's model takes no calls."""
    patience_s: float
    """Longest wait for a job's model, in seconds."""
    max_completion_tokens: int
    """Limit of the answers to rows that name none."""
    validate: Mapping[str, Any]
    """Rules for every answer: json_schema, regex, choices, not_empty, not_truncated, repair."""
    ignore_model: bool
    """Whether every job is routed, whatever its `model` field says."""
    skip_invalid: bool
    """Whether the good rows of an input with bad ones are submitted."""
    template: str
    """What a prompt is made of: "Translate: {text}" takes the column `text`; {NAME?} may be
    empty, {{ and }} are braces."""
    system_template: str
    """What a system message is made of."""
    id_column: str
    """Column of the custom_ids; `custom_id` where unset."""
    subset: str
    """Part of a dataset's folder, where it has several."""
    split: str
    """Split of a dataset's folder, where it has several."""
    on_success: str | Iterable[str]
    """Address or addresses that are told, signed, once every job has an answer; not over a gateway.
    """
    on_failure: str | Iterable[str]
    """Those that are told of every other end; not over a gateway."""
    ping: bool
    """Whether the pool's endpoints are asked first whether they answer; true unless given."""


TEXTS = (
    "budget_usd",
    "min_mean_quality",
    "match",
    "willingness_to_pay_usd",
    "risk",
    "floor_confidence",
    "min_quality",
    "max_cost_usd",
    "max_latency_s",
    "deadline",
    "allowed_models",
    "denied_models",
)
"""Options that `producer.aims` reads as text."""


def as_texts(options: BatchOptions) -> dict[str, str]:
    """Return the aim and the limits as they would be typed."""
    values: Mapping[str, object] = {name: options.get(name) for name in TEXTS}
    return {name: _text(value) for name, value in values.items() if value is not None}


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return f"{value.total_seconds():f}s"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ",".join(map(str, value))
    return str(value)


@dataclass(frozen=True, slots=True)
class RowList:
    """Rows in memory: prompts, or objects as a line of JSON holds them."""

    given: Iterable[str | Mapping[str, Any]]
    name: str = "rows"
    """What messages call them."""
    template: RowTemplate | None = None
    """What prompts are made of; the column `prompt` where unset."""

    @property
    def stem(self) -> str:
        """The name by which a batch is called."""
        return self.name

    @contextmanager
    def rows(self) -> Iterator[tuple[Iterator[list[RawRow]], Callable[[], int]]]:
        """Yield the rows in chunks, and a function that counts no bytes."""
        with self.raw_rows(PROMPT) as (chunks, bytes_read):
            yield filled(chunks, self.template), bytes_read

    @contextmanager
    def raw_rows(
        self, _columns: WantedColumns
    ) -> Iterator[tuple[Iterator[list[RawRow]], Callable[[], int]]]:
        """Yield the rows as they were given, with all that they have."""
        raw = (_raw_row(number, row) for number, row in enumerate(self.given, 1))
        yield in_chunks(raw), lambda: 0


def _raw_row(number: int, row: str | Mapping[str, Any]) -> RawRow:
    """Return a row as if it had been read from a line of JSON."""
    try:
        text = orjson.dumps({"prompt": row} if isinstance(row, str) else row, default=_plain)
    except orjson.JSONEncodeError as error:
        remedy = 'Give a prompt, or {"prompt": ...} with texts, numbers, lists and dicts'
        what = f"the row can't be written as JSON: {error}"
        return RawRow(
            number, repr(row).encode(), RowProblem(ProblemKind.MALFORMED_LINE, what, remedy)
        )
    return jsonl_rows.raw_row(number, text)


def _plain(value: object) -> object:
    """Return a value of other libraries (Decimal, numpy's numbers, instants) as JSON has it."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, date):
        return value.isoformat()
    item = getattr(value, "item", None)
    if callable(item):
        return item()
    raise TypeError(type(value).__name__)


def source_of(rows: Rows, options: BatchOptions) -> RowSource:
    """Return what a program gives as rows: a file, a table of pandas, prompts or dicts.

    Raises:
        InputError: A template can't be read, the file's name does not tell the format, or a part is
            named of what is no dataset.
        NotFoundError: There is no such file.
    """
    texts = (options.get("template"), options.get("system_template"), options.get("id_column"))
    source = _source(rows, options.get("subset"), options.get("split"))
    return replace(source, template=row_template(*texts, label))


def read_rows(rows: Rows, subset: str | None, split: str | None) -> list[RawRow]:
    """Return what a program gives as rows, as they stand there, with all their columns.

    Raises:
        InputError: They can't be read.
        NotFoundError: There is no such file.
    """
    with _source(rows, subset, split).raw_rows(WantedColumns(frozenset())) as (chunks, _):
        return [row for chunk in chunks for row in chunk]


def _source(rows: Rows, subset: str | None, split: str | None) -> Source | RowList:
    if isinstance(rows, (str, PathLike)):
        source = Source.of(str(rows))
        if source.format is Format.DATASET:
            return source.reading(subset=subset, split=split)
        refuse_parts(subset, split, label)
        return source
    refuse_parts(subset, split, label)
    to_dict = getattr(rows, "to_dict", None)  # a table's; pandas itself may not be there
    return RowList(rows if to_dict is None else to_dict("records"))


def webhooks_of(options: BatchOptions, *, allow_http: bool) -> tuple[Webhook, ...]:
    """Return who is told how the batch ended, checked.

    Raises:
        InputError: An address can't be called, or may not.
    """
    given = options.get("on_success"), options.get("on_failure")
    on_success, on_failure = ([one] if isinstance(one, str) else one for one in given)
    return read_webhooks(on_success, on_failure, label, allow_http=allow_http)


def label(field: str) -> str:
    """Return what messages call an option."""
    return field


def check_known(given: Mapping[str, object], known: Collection[str]) -> None:
    """Refuse an option that there isn't: a budget that is misspelt would be none.

    Raises:
        InputError: There is no such option.
    """
    unknown = sorted(given.keys() - set(known))
    if unknown:
        raise InputError(
            "there is no such option", value=unknown[0], remedy=f"Give some of {', '.join(known)}"
        )


def rules_of(options: BatchOptions) -> Validators | None:
    """Return the rules for answers, checked; None where there are none.

    Raises:
        InputError: A rule can't be applied.
    """
    rules = options.get("validate")
    if rules is None:
        return None
    try:
        return read_validators(dict(rules))
    except LimitError as error:
        problem = error.problem
        raise InputError(
            problem.what, value=problem.value, where="validate", remedy=problem.remedy
        ) from None
