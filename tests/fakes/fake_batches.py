"""The Files and Batches routes of a fake endpoint, as OpenAI documents them, with a log.

The script's `batches` says how they behave:
    latency_s       from creation to the end
    status          how a batch ends: completed, failed, expired
    create_delay_s  the answer to a creation comes this late; the batch exists at once
    lose_creates    the first N creations are lost: accepted by nobody, answered with 503
    refuse_creates  the first creations are answered with these: {"status", "json"}
    fail_first      the first batches fail as a whole, with these values of `errors`
    wrap            answers about a batch or a file stand under this key
    prefix          this text stands before the output file's first line
    row_status      the status_code of answered rows instead of 200
    text_bodies     the bodies of answered rows are JSON in a text
A row whose prompt holds FAIL fails with status 400, REFUSE by the content filter, EXPIRE expires,
DROP is in no file, with NOUSAGE it is answered without usage, with CUT the filter cuts it, and with
DEEP the answer has a field too deep to be kept.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.fakes.fake_answers import completion_of, error_response, prompt_of, refusal_of
from tests.fakes.fake_script import ModelScript


@dataclass
class FakeBatch:
    """A batch at the provider."""

    id: str
    endpoint: str
    input_file_id: str
    metadata: dict[str, str]
    created_at: float
    ends_at: float
    window: str
    status: str = "in_progress"
    output_file_id: str | None = None
    error_file_id: str | None = None
    ended_at: float | None = None
    rows: int = 0
    billed_tokens: int = 0
    errors: Any = None
    """Why it failed, in the form that the script gave."""

    def shown(self) -> dict[str, Any]:
        """Return it as the API shows it."""
        ended = {f"{self.status}_at": self.ended_at} if self.ended_at else {}
        errors = {"object": "list", "data": [{"code": "invalid", "message": "a line is bad"}]}
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "input_file_id": self.input_file_id,
            "completion_window": self.window,
            "status": self.status,
            "errors": (self.errors or errors) if self.status == "failed" else None,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": int(self.created_at),
            "metadata": self.metadata,
            **ended,
        }


@dataclass
class FakeBatches:
    """Files and batches of one fake endpoint."""

    script: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, ModelScript] = field(default_factory=dict)
    """How the models answer the rows; their latencies and faults are of single calls only."""
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, FakeBatch] = field(default_factory=dict)
    creates: int = 0
    """Requests to create a batch, lost ones too."""

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/v1/files", self._upload)
        app.router.add_get("/v1/files/{id}/content", self._content)
        app.router.add_post("/v1/batches", self._create)
        app.router.add_get("/v1/batches", self._list)
        app.router.add_get("/v1/batches/{id}", self._get)
        app.router.add_post("/v1/batches/{id}/cancel", self._cancel)
        app.router.add_get("/log/batches", self._log)

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        if form.get("purpose") != "batch" or not isinstance(form.get("file"), web.FileField):
            return error_response(400, "purpose or file is missing", None)
        file_id = f"file-{len(self.files) + 1}"
        self.files[file_id] = form["file"].file.read()
        return self._shown({"id": file_id, "object": "file", "purpose": "batch"})

    def _shown(self, answer: dict[str, Any]) -> web.Response:
        wrapper = self.script.get("wrap")
        return web.json_response({"code": 0, wrapper: answer} if wrapper else answer)

    async def _content(self, request: web.Request) -> web.Response:
        content = self.files.get(request.match_info["id"])
        if content is None:
            return error_response(404, "no such file", None)
        return web.Response(body=content)

    async def _create(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        self.creates += 1
        if self.creates <= self.script.get("lose_creates", 0):
            return error_response(503, "overloaded", None)
        refusals = self.script.get("refuse_creates", ())
        if self.creates <= len(refusals):
            refusal = refusals[self.creates - 1]
            return web.json_response(refusal["json"], status=refusal["status"])
        rows = self.files[wanted["input_file_id"]].splitlines()
        if any(json.loads(row)["url"] != wanted["endpoint"] for row in rows):
            return error_response(400, "a row's url is not the batch's endpoint", None)
        now = time.time()
        batch = FakeBatch(
            id=f"batch_{len(self.batches) + 1}",
            endpoint=wanted["endpoint"],
            input_file_id=wanted["input_file_id"],
            metadata=wanted.get("metadata") or {},
            created_at=now,
            ends_at=now + self.script.get("latency_s", 0.0),
            window=wanted["completion_window"],
            rows=len(rows),
            errors=next(iter(self.script.get("fail_first", ())[len(self.batches) :]), None),
        )
        self.batches[batch.id] = batch
        await asyncio.sleep(self.script.get("create_delay_s", 0.0))
        return self._shown(batch.shown())

    async def _list(self, request: web.Request) -> web.Response:
        newest = list(reversed(self.batches.values()))
        after = request.query.get("after")
        if after:
            newest = newest[[batch.id for batch in newest].index(after) + 1 :]
        page = newest[: int(request.query.get("limit", "20"))]
        shown = [batch.shown() for batch in page]
        return web.json_response({"data": shown, "has_more": len(newest) > len(page)})

    async def _get(self, request: web.Request) -> web.Response:
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return error_response(404, "no such batch", None)
        if batch.status == "cancelling":
            self._end(batch, "cancelled", share=0.5)
        elif batch.status == "in_progress" and time.time() >= batch.ends_at:
            self._end(batch, "failed" if batch.errors else self.script.get("status", "completed"))
        return self._shown(batch.shown())

    async def _cancel(self, request: web.Request) -> web.Response:
        batch = self.batches[request.match_info["id"]]
        if batch.status != "in_progress":
            return error_response(400, f"the batch is {batch.status}", None)
        batch.status = "cancelling"
        return web.json_response(batch.shown())

    def _end(self, batch: FakeBatch, status: str, share: float = 1.0) -> None:
        batch.status, batch.ended_at = status, time.time()
        if status == "failed":
            return
        rows = [json.loads(row) for row in self.files[batch.input_file_id].splitlines()]
        done = int(len(rows) * share)
        answered, failed = [], []
        for number, row in enumerate(rows):
            prompt = prompt_of(row["body"])
            if "DROP" in prompt:
                continue
            if number >= done or "EXPIRE" in prompt:
                code = "batch_expired" if status == "expired" else "batch_cancelled"
                failed.append({**_line(row), "error": {"code": code, "message": "too late"}})
            elif "FAIL" in prompt or "REFUSE" in prompt:
                code = "content_filter" if "REFUSE" in prompt else None
                error = {"error": {"message": "bad row", "code": code}}
                failed.append({**_line(row), "response": {"status_code": 400, "body": error}})
            elif (refusal := self._refusal(row)) is not None:
                failed.append({**_line(row), "response": refusal})
            else:
                answered.append({**_line(row), "response": self._answer(batch, row)})
        batch.output_file_id = self._keep(f"{batch.id}-output", answered)
        batch.error_file_id = self._keep(f"{batch.id}-errors", failed)

    def _script_of(self, body: Mapping[str, Any]) -> ModelScript:
        models = self.models
        return models.get(str(body.get("model"))) or models.get("*") or ModelScript()

    def _refusal(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the response to a row that has a field which its model refuses."""
        refused = refusal_of(row["body"], self._script_of(row["body"]))
        if refused is None:
            return None
        return {"status_code": refused.status, "body": json.loads(str(refused.text))}

    def _answer(self, batch: FakeBatch, row: Mapping[str, Any]) -> dict[str, Any]:
        body = completion_of(row["body"]["model"], row["body"], self._script_of(row["body"]))
        batch.billed_tokens += body["usage"]["total_tokens"]
        if "NOUSAGE" in prompt_of(row["body"]):
            del body["usage"]
        if "CUT" in prompt_of(row["body"]):
            body["choices"][0]["finish_reason"] = "content_filter"
        if "DEEP" in prompt_of(row["body"]):
            body["extra"] = json.loads("[" * 300 + "]" * 300)
        status = self.script.get("row_status", 200)
        sent = json.dumps(body) if self.script.get("text_bodies") else body
        return {"status_code": status, "request_id": "req", "body": sent}

    def _keep(self, file_id: str, lines: list[dict[str, Any]]) -> str | None:
        if not lines:
            return None
        text = "".join(json.dumps(line) + "\n" for line in lines)
        self.files[file_id] = (self.script.get("prefix", "") + text).encode()
        return file_id

    async def _log(self, _request: web.Request) -> web.Response:
        rows = [{"rows": b.rows, "billed_tokens": b.billed_tokens} for b in self.batches.values()]
        return web.json_response({"batches": rows, "creates": self.creates})


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": "row", "custom_id": row["custom_id"], "response": None, "error": None}
