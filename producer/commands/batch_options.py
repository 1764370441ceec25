"""The options of a batch that is submitted or planned: its aim, its limits and how it is called.

The record holds options as they were typed, each field's help being its documentation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from producer.aims import read_limits, read_option, read_webhooks
from producer.rows.limits import read_deadline
from producer.rows.source import Format
from routoo.domain.batch_options import (
    CallOptions,
    OnContentFilter,
    OnUnavailable,
)
from routoo.domain.job import SLA
from routoo.domain.validators import NO_RULES, Validators, schema_text
from routoo.errors import InputError

if TYPE_CHECKING:
    from producer.rows.source import Source
    from producer.rows.templates import RowTemplate
    from producer.submit import BatchRequest
    from routoo.domain.webhook import Webhook
    from routoo.settings import Settings

from producer.commands.options import AimOptions, MinQualityOption, PoolOption, option_label


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions(AimOptions):
    """The options of a batch of rows; `submit` and `plan` share them."""

    floor_confidence: Annotated[
        str | None,
        typer.Option(
            metavar="C",
            help="Share of jobs whose answer shall reach --min-quality, 0.5 to 0.99: the estimate "
            "is lowered by its largest known error. (default: compare the estimate itself)",
        ),
    ] = None
    dedupe: Annotated[
        bool | None,
        typer.Option(
            "--dedupe/--no-dedupe",
            help="Call identical requests once: all of them, or none. (default: those with "
            "temperature 0 or a seed; without a temperature, answers are samples)",
            show_default=False,
        ),
    ] = None
    cache: Annotated[
        str | None,
        typer.Option(
            metavar="TTL",
            help="Take answers from the response cache, and keep new ones so long: 12h, 7d. "
            "Only for requests with temperature 0 or a seed.",
        ),
    ] = None
    cache_all: Annotated[
        bool, typer.Option("--cache-all", help="Cache requests with a random answer, too.")
    ] = False
    on_content_filter: Annotated[
        OnContentFilter | None,
        typer.Option(
            help="When a content filter refuses: ask the next model, or fail the job. "
            "(default: as the pool says for each model)"
        ),
    ] = None
    validate_json_schema: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON Schema that every answer must fit."),
    ] = None
    validate_regex: Annotated[
        str | None,
        typer.Option(metavar="R", help="Regular expression that must match in every answer."),
    ] = None
    validate_choices: Annotated[
        str | None, typer.Option(metavar="A,B", help="The only answers that are allowed.")
    ] = None
    validate_not_empty: Annotated[
        bool, typer.Option("--validate-not-empty", help="No answer may be empty.")
    ] = False
    validate_not_truncated: Annotated[
        bool,
        typer.Option("--validate-not-truncated", help="No answer may end at its token limit."),
    ] = False
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Ask once more for an answer that breaks a rule before another model is asked.",
        ),
    ] = False
    on_unavailable: Annotated[
        OnUnavailable,
        typer.Option(
            help="While a job's model takes no calls: wait as long as --patience and the deadline "
            "allow and then fall back, or fall back at once."
        ),
    ] = OnUnavailable.WAIT
    patience: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="S",
            help="Longest wait for a job's model, in seconds. (default: as long as the deadline "
            "allows; 900 without one)",
        ),
    ] = None
    no_ping: Annotated[
        bool,
        typer.Option("--no-ping", help="Don't ask first whether the pool's endpoints answer."),
    ] = False
    pool: PoolOption = None
    min_quality: MinQualityOption = None
    max_cost_usd: Annotated[
        str | None, typer.Option(metavar="C", help="Most that one job may cost, in USD.")
    ] = None
    max_latency_s: Annotated[
        str | None,
        typer.Option(
            metavar="L", help="Longest wait for a call, seconds: a slower one is given up."
        ),
    ] = None
    deadline: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            help="No call starts after this: 2027-01-31T18:00:00Z, or from now: 2h, 30m.",
        ),
    ] = None
    allow_model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL", help="Only this model of the pool may answer; can be repeated."
        ),
    ] = None
    deny_model: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="This model may not answer; can be repeated."),
    ] = None
    allow_models: Annotated[str | None, typer.Option(hidden=True)] = None
    deny_models: Annotated[str | None, typer.Option(hidden=True)] = None
    name: Annotated[
        str | None, typer.Option(metavar="N", help="Name of the batch. (default: the file's)")
    ] = None
    idempotency_key: Annotated[
        str | None,
        typer.Option(metavar="K", help="Submitting twice with the same key makes one batch."),
    ] = None
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Submit the good rows, write the bad to a file.")
    ] = False
    errors: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Bad rows, as JSONL. (default: FILE.errors.jsonl)"),
    ] = None
    on_success: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Post there, signed, when the batch ends with an answer to every job; can be "
            "repeated.",
        ),
    ] = None
    on_failure: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="The same when it ends in any other way."),
    ] = None
    template: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help='What each prompt is made of: "Translate: {text}" takes column text; {text?} may '
            "be empty; {{ and }} are braces. (default: the column prompt)",
        ),
    ] = None
    system_template: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The same for the system message. (default: system)"),
    ] = None
    id_column: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column of the custom_ids. (default: custom_id)"),
    ] = None
    subset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Part of a dataset's folder, where it has several."),
    ] = None
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Split of a dataset's folder, where it has several."),
    ] = None
    row_format: Annotated[
        Format | None, typer.Option("--format", help="Format of the rows. (default: by suffix)")
    ] = None
    ignore_model: Annotated[
        bool, typer.Option("--ignore-model", help="Route every job, whatever its model field says.")
    ] = False

    def request(self, settings: "Settings", *, plan_only: bool = False) -> "BatchRequest":
        """Return the batch that the options describe, checked.

        Args:
            settings: Name the pool file where no option does.
            plan_only: Whether the batch is planned and not submitted.

        Raises:
            InputError: An option has no usable value; the message names it.
            ConfigError: The pool file can't be used.
        """
        from producer.submit import BatchRequest
        from routoo.domain.pool_file import load_pool

        pool = load_pool(self.pool or settings.pool).with_batch_channels()
        return BatchRequest(
            pool=pool,
            name=_checked_text("--name", self.name),
            idempotency_key=_checked_text("--idempotency-key", self.idempotency_key),
            budget_usd=self.budget(),
            objective=self.objective(pool),
            plan_only=plan_only,
            call_options=self._call_options(pool.names),
            sla=self._sla(pool.names),
            ignore_model=self.ignore_model,
            skip_invalid=self.skip_invalid,
            error_file=self.errors,
            webhooks=self.webhooks(settings),
        )

    def webhooks(self, settings: "Settings") -> "tuple[Webhook, ...]":
        """Return who is told how the batch ended, checked.

        Raises:
            InputError: An address can't be called, or may not.
        """
        allow_http = settings.webhook_allow_http
        return read_webhooks(self.on_success, self.on_failure, option_label, allow_http=allow_http)

    def source(self, name: str) -> "Source":
        """Return the input that an argument names, read as the options say.

        Raises:
            InputError: The name does not tell the format, or an option has no usable value.
            NotFoundError: There is no such file.
        """
        from producer.rows.source import Source

        source = Source.of(name, self.row_format)
        return source.reading(self.row_template(), subset=self.subset, split=self.split)

    def row_template(self) -> "RowTemplate | None":
        """Return what prompts are made of; None where it is the column `prompt`.

        Raises:
            InputError: A template can't be read.
        """
        from producer.rows.templates import row_template

        return row_template(self.template, self.system_template, self.id_column, option_label)

    def _call_options(self, models: Sequence[str]) -> CallOptions:
        if self.cache_all and self.cache is None:
            raise InputError("it needs --cache", where="--cache-all", remedy="Give both")
        now = datetime.now(UTC)
        until = read_option("--cache", partial(read_deadline, now=now), self.cache)
        return CallOptions(
            dedupe=self.dedupe,
            cache_ttl_s=None if until is None else (until - now).total_seconds(),
            cache_all=self.cache_all,
            on_content_filter=self.on_content_filter,
            on_unavailable=self.on_unavailable,
            patience_s=self.patience,
            **self.call_facts(models),
        )

    def validators(self) -> Validators | None:
        """Return the rules for answers, checked; None where there are none.

        Raises:
            InputError: A rule can't be applied.
        """
        choices = self.validate_choices
        rules = Validators(
            json_schema=_read_schema(self.validate_json_schema),
            regex=self.validate_regex,
            choices=None if choices is None else tuple(map(str.strip, choices.split(","))),
            not_empty=self.validate_not_empty,
            not_truncated=self.validate_not_truncated,
            repair=self.repair,
        )
        if rules == NO_RULES:
            return None
        from routoo.domain.answer_checks import check_rules

        check_rules(rules)
        return rules

    def limits(self) -> dict[str, str | None]:
        """Return the limits of jobs as they were typed, by their names in a row."""
        names = ("min_quality", "max_cost_usd", "max_latency_s", "deadline")
        texts: dict[str, str | None] = {name: getattr(self, name) for name in names}
        texts["allowed_models"] = _joined(self.allow_model, self.allow_models)
        texts["denied_models"] = _joined(self.deny_model, self.deny_models)
        return texts

    def _sla(self, models: Sequence[str]) -> SLA:
        return read_limits(
            self.limits(), models, datetime.now(UTC), option_label, self.validators()
        )


def _joined(repeated: Sequence[str] | None, listed: str | None) -> str | None:
    """Return names with commas: those of an option that is repeated, and of its old spelling."""
    names = [*(repeated or ()), *([] if listed is None else [listed])]
    return ",".join(names) if names else None


def _read_schema(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return schema_text(orjson.loads(path.read_bytes()))
    except (OSError, orjson.JSONDecodeError) as error:
        raise InputError(
            f"the JSON Schema can't be read: {error}",
            where=str(path),
            remedy="Give a file that holds one JSON Schema",
        ) from error


def _checked_text(option: str, value: str | None) -> str | None:
    """Refuse text that a terminal can pass and the database can't store."""
    if value is None or (value.strip() and value.isprintable()):
        return value
    raise InputError("this is no printable text", value=value, where=option, remedy="Give some")
