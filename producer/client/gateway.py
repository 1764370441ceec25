"""Runs the client's batches by a gateway, over its `/v1` API, which is OpenAI's.

That API knows no plans, no pause and no retry, and results come once the batch is over.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from decimal import Decimal
from typing import Any, NoReturn

import aiohttp
import orjson
from pydantic import SecretStr

from producer.client.backend import Submitted
from producer.client.options import BatchOptions, Rows, as_texts, source_of
from producer.client.records import BatchState, Plan, Result
from producer.rows.problems import RowProblem
from producer.rows.source import RowSource
from routoo.domain.job import BatchStatus, ResultStatus
from routoo.domain.pool import Pool
from routoo.errors import ConfigError, InputError, NotFoundError, RoutooError

_POLL_S = 0.5
_ENDPOINT = "/v1/chat/completions"
_STATUSES = {
    "validating": BatchStatus.IN_PROGRESS,
    "finalizing": BatchStatus.IN_PROGRESS,
    "expired": BatchStatus.COMPLETED,
}
"""OpenAI's words for states that have another one here."""
_ERRORS: Mapping[int, type[RoutooError]] = {
    400: InputError,
    401: ConfigError,
    403: ConfigError,
    404: NotFoundError,
    413: InputError,
}
_PASSED = ("name", "on_unavailable")
_FLAGS = ("cascade", "dedupe", "ignore_model", "skip_invalid")
_DATABASE_ONLY = ("validate", "patience_s", "max_completion_tokens")
_FAILED = {str(status): status for status in ResultStatus}
_FAILED_STATUS = 400


class GatewayBackend:
    """Implements `Backend` by a gateway.

    Args:
        base_url: Of the gateway, with or without `/v1`.
        api_key: Its key; ROUTOO_API_KEY where None.
    """

    def __init__(self, base_url: str, api_key: str | None) -> None:
        self._url = base_url.rstrip("/").removesuffix("/v1")
        self._key = SecretStr(api_key or os.environ.get("ROUTOO_API_KEY", ""))

    async def open(self) -> None:
        """Make the session; nothing is asked yet."""
        key = self._key.get_secret_value()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = aiohttp.ClientSession(headers=headers)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    async def submit(self, rows: Rows, options: BatchOptions, *, plan_only: bool) -> Submitted:
        """Upload rows and ask for a batch of them; returns once the gateway has checked all."""
        if plan_only:
            _refuse("plans")
        source = source_of(rows)
        metadata = _metadata(options)
        file_id = (await self._upload(source))["id"]
        key = options.get("idempotency_key")
        batch = await self._call(
            "POST",
            "batches",
            json={
                "input_file_id": file_id,
                "endpoint": _ENDPOINT,
                "completion_window": "24h",
                "metadata": {"name": source.stem, **metadata},
            },
            headers={} if key is None else {"Idempotency-Key": key},
        )
        while batch["status"] == "validating":
            await asyncio.sleep(_POLL_S)
            batch = await self._batch(batch["id"])
        if batch["status"] == "failed":
            raise InputError(
                f"nothing was submitted: {_error_of(batch)}", where=source.name, value=batch["id"]
            )
        return Submitted(batch["id"])

    async def state(self, batch_id: str) -> BatchState:
        """Return the batch now."""
        batch = await self._batch(batch_id)
        counts, metadata = batch["request_counts"], batch["metadata"] or {}
        budget_usd = metadata.get("budget_usd")
        return BatchState(
            id=batch["id"],
            name=metadata.get("name", ""),
            status=_STATUSES.get(batch["status"]) or BatchStatus(batch["status"]),
            jobs=counts["total"],
            answered=counts["completed"],
            failed=counts["failed"],
            downgraded=None,
            spent_usd=None,
            budget_usd=None if budget_usd is None else Decimal(budget_usd),
            error=_error_of(batch),
        )

    async def results(self, batch_id: str, *, in_order: bool) -> AsyncGenerator[Result, None]:
        """Yield the results once the batch is over: in input order, or the answers first."""
        state = await self.state(batch_id)
        while not state.is_over:
            await asyncio.sleep(_POLL_S)
            state = await self.state(batch_id)
        batch = await self._batch(batch_id)
        names = ("output_file_id", "error_file_id")
        found = [self._lines(batch[name]) for name in names if batch[name] is not None]
        if in_order:
            everything = [result async for lines in _chained(found) for result in lines]
            for result in sorted(everything, key=lambda one: one.index):
                yield result
            return
        async for lines in _chained(found):
            for result in lines:
                yield result

    async def cancel(self, batch_id: str) -> None:
        """End a batch; the answers so far are kept."""
        await self._call("POST", f"batches/{batch_id}/cancel")

    async def find(self, text: str | None) -> str:
        """Return the id of a batch, of the latest one for None."""
        if text is not None:
            return str((await self._batch(text))["id"])
        found = await self.recent(1)
        if not found:
            raise NotFoundError("there are no batches yet", remedy="Submit one")
        return found[0]

    async def recent(self, limit: int) -> list[str]:
        """Return the ids of the newest batches, newest first."""
        found = await self._call("GET", f"batches?limit={limit}")
        return [str(batch["id"]) for batch in found["data"]]

    async def plan(self, _batch_id: str) -> Plan:
        """Refuse: the API has no plans."""
        _refuse("plans")

    async def submit_plan(self, _batch_id: str) -> None:
        """Refuse: the API has no plans."""
        _refuse("plans")

    async def pause(self, _batch_id: str) -> None:
        """Refuse: the API has no pause."""
        _refuse("pause")

    async def resume(self, _batch_id: str, _budget_usd: Decimal | None) -> None:
        """Refuse: the API can't resume."""
        _refuse("resume")

    async def retry(self, _batch_id: str) -> None:
        """Refuse: the API has no retry."""
        _refuse("retry")

    async def _upload(self, source: RowSource) -> dict[str, Any]:
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        with source.rows() as (chunks, _):
            content = b"".join(_lines_of(chunks, source.name))
        form.add_field("file", content, filename=f"{source.stem}.jsonl")
        return await self._call("POST", "files", data=form)

    async def _batch(self, batch_id: str) -> dict[str, Any]:
        return await self._call("GET", f"batches/{batch_id}")

    async def _call(
        self,
        method: str,
        path: str,
        *,
        data: aiohttp.FormData | None = None,
        json: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        sent: dict[str, Any] = {"data": data, "json": json, "headers": headers}
        try:
            async with self._http.request(method, f"{self._url}/v1/{path}", **sent) as answer:
                content = await answer.read()
        except aiohttp.ClientError as error:
            raise self._away(error) from error
        if answer.status >= _FAILED_STATUS:
            raise self._refusal(answer.status, content)
        found: dict[str, Any] = orjson.loads(content)
        return found

    async def _lines(self, file_id: str) -> AsyncIterator[list[Result]]:
        """Yield a file's results, one at a time: memory doesn't grow with the file."""
        url = f"{self._url}/v1/files/{file_id}/content"
        try:
            async with self._http.get(url, timeout=aiohttp.ClientTimeout(total=None)) as answer:
                if answer.status >= _FAILED_STATUS:
                    raise self._refusal(answer.status, await answer.read())
                rest = b""
                async for piece in answer.content.iter_any():
                    *lines, rest = (rest + piece).split(b"\n")
                    yield [result for line in lines if (result := _result(line)) is not None]
        except aiohttp.ClientError as error:
            raise self._away(error) from error

    def _refusal(self, status: int, content: bytes) -> RoutooError:
        try:
            message = str(orjson.loads(content)["error"]["message"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            message = f"HTTP status {status}"
        return _ERRORS.get(status, RoutooError)(message.rstrip("."), where=self._url)

    def _away(self, error: aiohttp.ClientError) -> RoutooError:
        return RoutooError(
            f"the gateway can't be reached: {error}",
            where=self._url,
            remedy="Start one with `routoo-producer serve`, or correct base_url",
        )


def _refuse(what: str) -> NoReturn:
    raise InputError(
        f"the gateway's API has no {what}",
        remedy="Use a client of the database: Client() or Client(database_url=...)",
    )


def _metadata(options: BatchOptions) -> dict[str, str]:
    """Return the options as the gateway reads them."""
    given: Mapping[str, object] = dict(options)
    refused = [name for name in _DATABASE_ONLY if given.get(name) is not None]
    pool = options.get("pool")
    if isinstance(pool, Pool):
        refused.append("pool")
    if refused:
        raise InputError(
            "the gateway can't be given this option",
            value=refused[0],
            remedy="Name one of its pools as a text, put limits into the rows, or use the database",
        )
    texts = as_texts(options)
    texts |= {name: str(given[name]) for name in _PASSED if given.get(name) is not None}
    texts |= {name: str(given[name]).lower() for name in _FLAGS if given.get(name) is not None}
    return texts if pool is None else {**texts, "pool": str(pool)}


def _lines_of(chunks: Iterator[list[Any]], where: str) -> Iterator[bytes]:
    """Yield rows as lines of JSON; the gateway checks what they say."""
    for chunk in chunks:
        for row in chunk:
            if isinstance(row.fields, RowProblem):
                raise InputError(str(row.fields), where=f"{where}:{row.line}")
            yield orjson.dumps(row.fields, option=orjson.OPT_APPEND_NEWLINE)


async def _chained(files: list[AsyncIterator[list[Result]]]) -> AsyncIterator[list[Result]]:
    for file in files:
        async for lines in file:
            yield lines


def _error_of(batch: Mapping[str, Any]) -> str | None:
    errors = batch["errors"]
    return "; ".join(one["message"] for one in errors["data"]) if errors else None


def _result(line: bytes) -> Result | None:
    """Return the result that a line holds; None for a row that was left out of the batch."""
    if not line.strip():
        return None
    found: dict[str, Any] = orjson.loads(line)
    number = str(found["id"]).rpartition("_")[2]
    if "_line_" in found["id"] or not number.isdigit():
        return None
    body = (found["response"] or {}).get("body") or {}
    error, usage = found["error"] or {}, body.get("usage") or {}
    return Result(
        index=int(number),
        custom_id=found["custom_id"],
        status=_FAILED.get(str(error.get("code")), ResultStatus.FAILED)
        if error
        else ResultStatus.SUCCEEDED,
        answer=_answer(body),
        model=body.get("model"),
        cost_usd=None,
        expected_quality=None,
        planned_model=found.get("planned_model"),
        reason=found.get("reason"),
        decision=found.get("decision", "direct"),
        latency_s=None,
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=usage.get("completion_tokens"),
        error_code=error.get("code"),
        error_message=error.get("message"),
        response=body or None,
    )


def _answer(body: Mapping[str, Any]) -> str | None:
    choices = body.get("choices") or [{}]
    answer = (choices[0].get("message") or {}).get("content", choices[0].get("text"))
    return answer if isinstance(answer, str) else None
