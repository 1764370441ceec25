"""Writes the site's reference from the code: settings, tables, metrics, errors and the HTTP API.

The pages are made whenever the site is built (`site_hook.py`) and stand in no repository, so they
can't be stale. `reference_commands.py` writes those of the commands.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from types import ModuleType
from typing import Any, cast

import reference_commands
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql
from sqlmodel import SQLModel

import routoo.console.run as statuses
from producer.gateway.app import create_app
from producer.gateway.options import GatewayOptions
from routoo import errors
from routoo.settings import Settings
from routoo.store import tables
from worker.metrics import described_families

_PUBLIC = frozenset(
    {"batches", "shards", "jobs", "predictions", "assignments", "attempts", "results"}
)


def pages() -> dict[str, str]:
    """Return every generated page, by its path in the site."""
    return {
        **reference_commands.pages(),
        "reference/settings.md": settings_page(),
        "reference/tables.md": tables_page(),
        "reference/prometheus.md": metrics_page(),
        "reference/errors.md": errors_page(),
        "reference/http-api.md": api_page(create_app(Settings(), "", GatewayOptions({}))),
    }


def settings_page() -> str:
    """Return the page of the `ROUTOO_*` variables, with types, defaults and meanings."""
    meanings = _attribute_docstrings(Settings)
    lines = [
        "# Settings\n",
        "Environment variables, read once when a program starts. A value that can't be used ends",
        "the program with exit status 2 and the variable's name.\n",
        "| variable | meaning | default |",
        "| --- | --- | --- |",
    ]
    for name, field in Settings.model_fields.items():
        kind = re.sub(r"<class '(.*)'>", r"\1", str(field.annotation))
        secret = SecretStr.__name__ in kind
        default = "unset" if field.default is None else f"`{field.default}`"
        if field.default_factory is not None:
            default = "below"
        elif name in {"pool", "checkpoint"}:
            default = f"`examples/{field.default.name}`"
        note = " Secret: never shown or stored." if secret else ""
        meaning = meanings.get(name, "Level of the log: DEBUG, INFO, WARNING or ERROR.")
        lines.append(f"| `ROUTOO_{name.upper()}` | {_cell(meaning)}{note} | {default} |")
    lines += [
        "\n`ROUTOO_HOME` is `/var/lib/routoo` for root, else `~/.local/share/routoo`",
        "(or under `XDG_DATA_HOME`).\n",
        "Two more variables belong to the example: `ROUTOO_DEMO=small` leaves out its largest",
        "model, and `ROUTOO_API_KEY` is the key with which Python programs use a gateway.",
        "Keys of model endpoints have the names that the pool file gives (`api_key_env`).",
    ]
    return "\n".join(lines) + "\n"


def _attribute_docstrings(cls: type) -> dict[str, str]:
    """Return the strings that stand below a class's attributes, by attribute."""
    body = cast("ast.ClassDef", ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]).body
    found = {}
    for before, after in pairwise(body):
        if (
            isinstance(before, ast.AnnAssign)
            and isinstance(before.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            found[before.target.id] = str(after.value.value)
    return found


def tables_page() -> str:
    """Return the page of tables and columns, with types and comments."""
    lines = [
        "# SQL tables\n",
        "PostgreSQL keeps everything. Public tables and the view `batch_results`",
        "([its columns](../producer.md#in-sql)) change by migration only, with notice; the others",
        'may change in any version. `routoo db query "SELECT ..."` reads them.\n',
    ]
    for module in _table_modules():
        found = [cls.__table__ for cls in _rows() if cls.__module__ == module.__name__]
        if found:
            title = _first_paragraph(inspect.getdoc(module)).removeprefix("Tables of ")
            lines.append(f"## {title[0].upper()}{title[1:].partition(':')[0].rstrip('.')}\n")
        for table in sorted(found, key=lambda table: table.name):
            lines += _table(table)
    return "\n".join(lines) + "\n"


def _table_modules() -> list[ModuleType]:
    names = [one.name for one in pkgutil.iter_modules(tables.__path__)]
    return [importlib.import_module(f"{tables.__name__}.{name}") for name in sorted(names)]


def _rows() -> list[Any]:
    return [cls for cls in SQLModel.__subclasses__() if hasattr(cls, "__table__")]


def _table(table: Table) -> Iterator[str]:
    public = " (public)" if table.name in _PUBLIC else ""
    yield f"### `{table.name}`{public}\n"
    yield f"{table.comment or ''}.\n"
    yield "| column | type | meaning |\n| --- | --- | --- |"
    dialect = postgresql.dialect()
    for column in table.columns:
        kind = column.type.compile(dialect).lower()
        null = "" if column.nullable or column.primary_key else " not null"
        key = " (key)" if column.primary_key else ""
        yield f"| `{column.name}` | {kind}{null}{key} | {_cell(column.comment or '')} |"
    yield ""


def metrics_page() -> str:
    """Return the page of the metrics that Prometheus scrapes."""
    lines = [
        "# Prometheus metrics\n",
        "With `ROUTOO_METRICS_PORT` the beat serves these at `/metrics`",
        "([why there](../architecture.md#metrics)). An open batch is being planned, in progress,",
        "paused or cancelling.\n",
        "| metric | type | labels | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for family in described_families():
        sample = next(iter(family.samples))
        labels = ", ".join(f"`{name}`" for name in sample.labels)
        lines.append(
            f"| `{sample.name}` | {family.type} | {labels} | {_cell(family.documentation)} |"
        )
    return "\n".join(lines) + "\n"


_STATUSES = {
    0: "The command did what was asked.",
    1: "An unexpected error, or the database refused a statement.",
    2: "Bad input: rows, options, settings, a pool file or a checkpoint.",
    3: "There is no such file, batch or job.",
    6: "An evaluation run is worse than the runs before it.",
}
"""Those that no constant of `routoo.console.run` names."""


def errors_page() -> str:
    """Return the page of exit statuses and errors."""
    named = _module_docstrings(statuses)
    meanings = _STATUSES | {getattr(statuses, name): text for name, text in named.items()}
    meanings[statuses.SYSTEM_ERROR] += " Also: the database, the broker or an embedded server."
    lines = [
        "# Errors and exit statuses\n",
        "Every message says what is wrong, where, and what to do.\n",
        "## Exit statuses\n",
        "| status | meaning |\n| --- | --- |",
        *(f"| {status} | {_cell(text)} |" for status, text in sorted(meanings.items())),
    ]
    lines += [
        "\n## Errors\n",
        "*Retried* says whether the same may succeed later; *code* is what `error_code` of a",
        "result or an attempt holds; *billed* says whether the provider may charge for the call,",
        "which then counts at its worst case.\n",
        "| error | meaning | exit status | retried | code | billed |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_error(one) for one in _tree(errors.RoutooError)]
    return "\n".join(lines) + "\n"


def _tree(cls: type[errors.RoutooError]) -> Iterator[type[errors.RoutooError]]:
    for one in cls.__subclasses__():
        if one.__module__ == errors.__name__:
            yield one
            yield from _tree(one)


def _error(one: type[errors.RoutooError]) -> str:
    called = issubclass(one, errors.EndpointError)
    code = f"`{one.code}`" if called else ""
    billed = ("maybe" if one.maybe_billed else "no") if called else ""
    cells = (
        f"`{one.__name__}`",
        _cell(_first_paragraph(inspect.getdoc(one))),
        str(one.exit_code),
        "yes" if one.retryable else "no",
        code,
        billed,
    )
    return f"| {' | '.join(cells)} |"


def _module_docstrings(module: object) -> dict[str, str]:
    body = ast.parse(inspect.getsource(module)).body  # type: ignore[arg-type]
    return {
        before.targets[0].id: str(after.value.value)  # type: ignore[attr-defined]
        for before, after in pairwise(body)
        if isinstance(before, ast.Assign)
        and isinstance(before.value, ast.Constant)
        and isinstance(before.value.value, int)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }


def api_page(app: FastAPI) -> str:
    """Return the page of the gateway's paths."""
    lines = [
        "# HTTP API\n",
        "`routoo-producer serve` serves OpenAI's API for files, batches and chat completions, and",
        "paths of its own; [gateway.md](../gateway.md) shows how to use it. A running gateway has",
        "the OpenAPI description at `/openapi.json` and shows it at `/docs`.\n",
    ]
    for path, operations_of in app.openapi()["paths"].items():
        for method, operation in operations_of.items():
            lines += [f"## `{method.upper()} {path}`\n", operation.get("description", ""), ""]
            lines += _parameters(operation)
    return "\n".join(lines) + "\n"


def _parameters(operation: dict[str, Any]) -> Iterator[str]:
    parameters = operation.get("parameters", [])
    if not parameters:
        return
    yield "| parameter | in | type | required |\n| --- | --- | --- | --- |"
    for one in parameters:
        schema = one.get("schema", {})
        kinds = [part.get("type", "") for part in schema.get("anyOf", [schema])]
        kind = " or ".join(kind for kind in kinds if kind not in {"", "null"})
        needed = "yes" if one.get("required") else "no"
        yield f"| `{one['name']}` | {one['in']} | {kind} | {needed} |"
    yield ""


def _first_paragraph(text: str | None) -> str:
    return (text or "").partition("\n\n")[0]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
