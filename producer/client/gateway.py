"""Runs the client's batches by a gateway, over its `/v1` API: OpenAI's, and what that lacks."""

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from decimal import Decimal
from os import PathLike
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import orjson
from pydantic import SecretStr

from producer.client.backend import BatchState, Plan, Result, Submitted
from producer.client.options import BatchOptions, Rows, as_texts, source_of
from producer.rows.check import default_id, is_request
from producer.rows.problems import RowProblem
from producer.rows.source import RowSource
from routoo.domain.job import BatchStatus, ResultStatus
from routoo.errors import ConfigError, InputError, NotFoundError, RoutooError

_POLL_S = 0.5
_ENDPOINT = "/v1/chat/completions"
_UNSUBMITTED = {"validating": BatchStatus.IN_PROGRESS, "expired": BatchStatus.CANCELLED}
"""States of a batch that is none yet, or of a plan that nobody submitted in time."""
_ERRORS: Mapping[int, type[RoutooError]] = {
    400: InputError,
    401: ConfigError,
    403: ConfigError,
    404: NotFoundError,
    409: InputError,
    413: InputError,
}
_PASSED = ("name", "on_unavailable", "patience_s", "max_completion_tokens")
_FLAGS = ("cascade", "dedupe", "ignore_model", "skip_invalid")
_IDS = ("custom_id", "item_id")
_NO_WEBHOOKS = "Wait for the batch, or submit it to the database: Client(database_url=...)"
_REFUSED = {
    "pool": "Name one of its pools as a text",
    "validate": "Put `validate` into the rows",
    "on_success": _NO_WEBHOOKS,
    "on_failure": _NO_WEBHOOKS,
}
"""What a gateway's batches can't have, and what to do instead."""
_FAILED_STATUS = 400
_UPLOAD = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=600)
"""An upload takes as long as it takes; its answer comes once the gateway has stored it."""
_FOLLOW = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=120)
"""Results come when they come; the gateway sends a sign of life more often than this."""
_MOST_LISTED = 100


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
        source = source_of(rows, options)
        metadata = _metadata(options)
        if plan_only:
            metadata["plan_only"] = "true"
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
        await self._await_check(batch, source.name)
        return Submitted(batch["id"])

    async def _await_check(self, batch: dict[str, Any], name: str) -> None:
        """Wait until the gateway has checked all rows.

        Raises:
            InputError: Some can't be used.
        """
        while batch["status"] == "validating":
            await asyncio.sleep(_POLL_S)
            batch = await self._batch(batch["id"])
        if batch["status"] == "failed":
            raise InputError(
                f"nothing was submitted: {_error_of(batch)}", where=name, value=batch["id"]
            )

    async def state(self, batch_id: str) -> BatchState:
        """Return the batch now."""
        batch = await self._batch(batch_id)
        if batch["routoo"] is None:
            return _unsubmitted_state(batch)
        return _state(batch, await self._call("GET", f"batches/{batch_id}/progress"))

    async def results(self, batch_id: str, *, in_order: bool) -> AsyncGenerator[Result, None]:
        """Yield every job's result, as it comes or in input order, until the batch is over."""
        seen = bytearray()
        while True:
            # Where the connection is lost, all of them come again.
            try:
                async with aclosing(self._results(batch_id, in_order=in_order)) as found:
                    async for result in found:
                        seen.extend(bytes(max(0, result.index + 1 - len(seen))))
                        if not seen[result.index]:
                            seen[result.index] = True
                            yield result
            except aiohttp.ClientPayloadError:
                await asyncio.sleep(_POLL_S)
            else:
                return

    async def cancel(self, batch_id: str) -> None:
        """End a batch; the answers so far are kept."""
        await self._call("POST", f"batches/{batch_id}/cancel")

    async def find(self, text: str | None) -> str:
        """Return the id of a batch named by id or name; of the latest one for None."""
        if text is not None and _is_id(text):
            return str((await self._batch(text))["id"])
        path = "batches?limit=1" if text is None else f"batches?limit={_MOST_LISTED}"
        page = await self._call("GET", path)
        while True:
            for batch in page["data"]:
                if text is None or (batch["metadata"] or {}).get("name") == text:
                    return str(batch["id"])
            if not page["has_more"]:
                break
            page = await self._call("GET", f"{path}&after={page['last_id']}")
        if text is None:
            raise NotFoundError("there are no batches yet", remedy="Submit one")
        raise NotFoundError("there is no such batch", value=text)

    async def recent(self, limit: int) -> list[str]:
        """Return the ids of the newest batches, newest first."""
        found = await self._call("GET", f"batches?limit={limit}")
        return [str(batch["id"]) for batch in found["data"]]

    async def plan(self, batch_id: str) -> Plan:
        """Return the plan of a batch, once it is made."""
        batch = await self._batch(batch_id)
        while batch["status"] == "validating" or _own(batch).get("status") == "planning":
            await asyncio.sleep(_POLL_S)
            batch = await self._batch(batch_id)
        if batch["status"] == "failed":
            raise RoutooError(f"planning failed: {_error_of(batch)}", where=f"batch {batch_id}")
        return Plan.of((await self._call("GET", f"batches/{batch_id}/plan"))["plan"])

    async def submit_plan(self, batch_id: str) -> None:
        """Run exactly what was planned."""
        await self._call("POST", f"batches/{batch_id}/submit")

    async def pause(self, batch_id: str) -> None:
        """Let no new call start."""
        await self._call("POST", f"batches/{batch_id}/pause")

    async def resume(self, batch_id: str, budget_usd: Decimal | None) -> None:
        """Let a paused batch go on, or give it another budget."""
        body = {} if budget_usd is None else {"budget_usd": str(budget_usd)}
        await self._call("POST", f"batches/{batch_id}/resume", json=body)

    async def retry(self, batch_id: str) -> None:
        """Open the jobs without an answer again."""
        await self._call("POST", f"batches/{batch_id}/retry")

    async def _upload(self, source: RowSource) -> dict[str, Any]:
        """Upload rows by a temporary file: they need not fit into memory."""
        with tempfile.TemporaryDirectory(prefix="routoo-") as folder:
            path = Path(folder) / "rows.jsonl"
            with source.rows() as (chunks, _), path.open("wb") as stream:
                stream.writelines(_lines_of(chunks, source.name))
            form = aiohttp.FormData()
            form.add_field("purpose", "batch")
            with path.open("rb") as stream:
                form.add_field("file", stream, filename=f"{source.stem}.jsonl")
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
        if data is not None:
            sent["timeout"] = _UPLOAD
        try:
            async with self._http.request(method, f"{self._url}/v1/{path}", **sent) as answer:
                content = await answer.read()
        except aiohttp.ClientError as error:
            raise self._away(error) from error
        if answer.status >= _FAILED_STATUS:
            raise self._refusal(answer.status, content)
        found: dict[str, Any] = orjson.loads(content)
        return found

    async def _results(self, batch_id: str, *, in_order: bool) -> AsyncGenerator[Result, None]:
        """Yield results one at a time: memory doesn't grow with the batch.

        Raises:
            aiohttp.ClientPayloadError: The connection was lost, and the gateway may be there.
        """
        url = f"{self._url}/v1/batches/{batch_id}/results"
        params = {"in_order": str(in_order).lower()}
        try:
            async with self._http.get(url, params=params, timeout=_FOLLOW) as answer:
                if answer.status >= _FAILED_STATUS:
                    raise self._refusal(answer.status, await answer.read())
                rest = b""
                async for piece in answer.content.iter_any():
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in lines:
                        if line:
                            yield _result(line)
        except aiohttp.ClientPayloadError:
            raise
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


def _is_id(text: str) -> bool:
    try:
        UUID(text.removeprefix("batch_"))
    except ValueError:
        return False
    return True


def _metadata(options: BatchOptions) -> dict[str, str]:
    """Return the options as the gateway reads them."""
    given: Mapping[str, object] = dict(options)
    pool = options.get("pool")
    for name, remedy in _REFUSED.items():
        if given.get(name) and not (name == "pool" and isinstance(pool, str | PathLike)):
            raise InputError("the gateway can't be given this option", value=name, remedy=remedy)
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
            fields = row.fields
            if not is_request(fields) and all(fields.get(name) is None for name in _IDS):
                fields = fields | {"custom_id": default_id(row)}  # a table's lines count from 2
            yield orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


def _own(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what OpenAI's API has no field for; nothing before the batch was submitted."""
    return batch["routoo"] or {}


def _unsubmitted_state(batch: Mapping[str, Any]) -> BatchState:
    """Return the state of a batch whose rows are not read yet, or can't be used."""
    metadata = batch["metadata"] or {}
    budget_usd = metadata.get("budget_usd")
    return BatchState(
        id=batch["id"],
        name=metadata.get("name", ""),
        status=_UNSUBMITTED.get(batch["status"]) or BatchStatus(batch["status"]),
        jobs=0,
        answered=0,
        failed=0,
        downgraded=0,
        spent_usd=Decimal(0),
        budget_usd=None if budget_usd is None else Decimal(budget_usd),
        error=_error_of(batch),
    )


def _state(batch: Mapping[str, Any], now: Mapping[str, Any]) -> BatchState:
    """Return the state of a batch by its description and its progress."""
    waits = now["waits_for"]
    return BatchState(
        id=batch["id"],
        name=now["name"],
        status=BatchStatus(now["status"]),
        jobs=now["jobs"],
        answered=now["answered"],
        failed=now["ended"] - now["answered"],
        downgraded=now["deviations"]["downgrades"],
        spent_usd=_usd(now["spent_usd"]),
        budget_usd=None if now["budget_usd"] is None else _usd(now["budget_usd"]),
        stage=now["stage"],
        left_s=now["eta_s"],
        waits_for=None if waits is None or waits["is_served"] else waits["role"],
        error=now["error"],
    )


def _usd(number: float) -> Decimal:
    return Decimal(str(number))


def _error_of(batch: Mapping[str, Any]) -> str | None:
    errors = batch["errors"]
    return "; ".join(one["message"] for one in errors["data"]) if errors else None


def _result(line: bytes) -> Result:
    found: dict[str, Any] = orjson.loads(line)
    body = (found["response"] or {}).get("body") or {}
    error, usage = found["error"] or {}, body.get("usage") or {}
    return Result(
        index=int(found["id"].rpartition("_")[2]),
        custom_id=found["custom_id"],
        status=ResultStatus(found["status"]),
        answer=_answer(body),
        model=found["model"],
        cost_usd=_usd(found["cost_usd"]),
        expected_quality=found["expected_quality"],
        planned_model=found["planned_model"],
        reason=found["reason"],
        decision=found["decision"],
        latency_s=found["latency_s"],
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
