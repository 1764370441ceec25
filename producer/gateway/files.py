"""`/v1/files`: uploads, and the output and error files of batches, written as they are read."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse

from producer.gateway.access import require
from producer.gateway.errors import ApiError
from producer.gateway.ids import FileId, FileKind, read_file_id
from producer.gateway.output_files import (
    OUTPUT_PURPOSE,
    ResultFile,
    find_result_file,
    known_size,
    list_result_files,
    result_lines,
    size_of,
)
from producer.gateway.state import Gateway, GatewayDep
from producer.gateway.uploads import UploadForm, too_large
from routoo.domain.caller import Caller, Scope
from routoo.store import api_batches, files
from routoo.store.files import FileRecord, FileWriter

UPLOAD_PATH = "/v1/files"
"""Takes larger bodies than other paths do."""
_PURPOSES = ("batch", "user_data")
_FORM_BYTES = 2**16
"""What a form may hold beside its file."""
_MOST_LISTED = 10_000
router = APIRouter(prefix="/v1", tags=["Files"])
Reader = Annotated[Caller, Depends(require(Scope.READ))]
Submitter = Annotated[Caller, Depends(require(Scope.SUBMIT))]

_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(_PURPOSES)},
                    },
                }
            }
        },
    }
}


@router.post("/files", openapi_extra=_FORM)
async def upload(request: Request, gateway: GatewayDep, caller: Submitter) -> dict[str, Any]:
    """Upload a file of rows; it is written to the database as it comes."""
    most_bytes = gateway.options.max_file_bytes
    if int(request.headers.get("content-length") or 0) > most_bytes + _FORM_BYTES:
        raise too_large(most_bytes, "file")
    form = UploadForm(request, most_bytes)
    writer = FileWriter(gateway.database, caller.key_id)
    begun = False
    try:
        async for data in form.file_data():
            if not begun:
                await writer.begin(form.filename or "file", _PURPOSES[0])
                begun = True
            await writer.write(data)
        _check_form(form.fields.get("purpose"), is_empty=not begun)
        return _upload_json(await writer.finish())
    except BaseException:
        if begun:
            await writer.discard()
        raise


@router.get("/files")
async def list_files(
    gateway: GatewayDep,
    caller: Reader,
    purpose: str | None = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=_MOST_LISTED)] = _MOST_LISTED,
    order: Annotated[str, Query(pattern="^(asc|desc)$")] = "desc",
) -> dict[str, Any]:
    """List files, uploads and those of batches, the newest first unless `order` is asc.

    The size of a batch's file is 0 until it was described by itself: only then is it counted.
    """
    found: list[tuple[datetime, dict[str, Any]]] = []
    if purpose in {None, *_PURPOSES}:
        async with gateway.database.transaction() as conn:
            uploads = await files.list_of(conn, caller.key_id, all_keys=caller.is_admin)
        found += [(one.created_at, _upload_json(one)) for one in uploads]
    if purpose in {None, OUTPUT_PURPOSE}:
        found += await _result_files(gateway, caller)
    found.sort(key=lambda one: (one[0], one[1]["id"]), reverse=order == "desc")
    left = _behind([one for _, one in found], after)
    return list_json(left[:limit], has_more=len(left) > limit)


async def _result_files(gateway: Gateway, caller: Caller) -> list[tuple[datetime, dict[str, Any]]]:
    """Return the files of batches' results, each with its time."""
    return [
        (one.created_at, _result_json(one, known_size(one, gateway.sizes)))
        for one in await list_result_files(gateway.database, caller)
    ]


@router.get("/files/{file_id}")
async def retrieve(file_id: str, gateway: GatewayDep, caller: Reader) -> dict[str, Any]:
    """Describe a file."""
    found = read_file_id(file_id)
    if found.kind is FileKind.UPLOAD:
        return _upload_json(await _find_upload(gateway, caller, found))
    result_file = await find_result_file(gateway.database, caller, found)
    async with gateway.downloads:
        size = await size_of(gateway.database, result_file, gateway.sizes)
    return _result_json(result_file, size)


@router.get("/files/{file_id}/content")
async def content(file_id: str, gateway: GatewayDep, caller: Reader) -> StreamingResponse:
    """Stream a file."""
    found = read_file_id(file_id)
    if found.kind is FileKind.UPLOAD:
        record = await _find_upload(gateway, caller, found)
        headers = {"Content-Length": str(record.size_bytes)}
        body = files.parts(gateway.database, record.id)
        return StreamingResponse(body, media_type="application/octet-stream", headers=headers)
    result_file = await find_result_file(gateway.database, caller, found)
    return StreamingResponse(_limited(gateway, result_file), media_type="application/octet-stream")


@router.delete("/files/{file_id}")
async def delete(file_id: str, gateway: GatewayDep, caller: Submitter) -> dict[str, Any]:
    """Delete a file; the results of a batch stay in the database, only its file is gone."""
    found = read_file_id(file_id)
    if found.kind is FileKind.UPLOAD:
        record = await _find_upload(gateway, caller, found)
        async with gateway.database.transaction() as conn:
            await files.delete(conn, record.id)
    else:
        result_file = await find_result_file(gateway.database, caller, found)
        async with gateway.database.transaction() as conn:
            await api_batches.delete_file(conn, result_file.batch.id, str(found.kind))
    return {"id": str(found), "object": "file", "deleted": True}


def list_json(data: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """Return a page of a list in OpenAI's form."""
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {
        "object": "list",
        "data": data,
        "first_id": first,
        "last_id": last,
        "has_more": has_more,
    }


def _behind(found: list[dict[str, Any]], after: str | None) -> list[dict[str, Any]]:
    """Return the files of a list that stand behind one."""
    if after is None:
        return found
    ids = [one["id"] for one in found]
    if after not in ids:
        raise ApiError(404, f"No such file: {after[:80]!r}.", param="after")
    return found[ids.index(after) + 1 :]


def _check_form(purpose: str | None, *, is_empty: bool) -> None:
    if is_empty:
        raise ApiError(400, "The file is empty. Give it at least one row.", param="file")
    if purpose not in _PURPOSES:
        names = " or ".join(_PURPOSES)
        raise ApiError(400, f"The purpose must be {names}, not {purpose!r}.", param="purpose")


async def _find_upload(gateway: Gateway, caller: Caller, file_id: FileId) -> FileRecord:
    """Return an upload; one of another key is not there."""
    async with gateway.database.transaction() as conn:
        record = await files.get(conn, file_id.id)
    if not caller.is_admin and record.key_id != caller.key_id:
        raise ApiError(404, f"No such file: {str(file_id)!r}.")
    return record


async def _limited(gateway: Gateway, result_file: ResultFile) -> AsyncIterator[bytes]:
    """Yield a file's lines; few such downloads run at once, for each holds a connection."""
    async with gateway.downloads:
        async for block in result_lines(gateway.database, result_file):
            yield block


def _result_json(result_file: ResultFile, size_bytes: int) -> dict[str, Any]:
    return _file_json(
        result_file.id,
        result_file.filename,
        OUTPUT_PURPOSE,
        size_bytes,
        int(result_file.created_at.timestamp()),
    )


def _upload_json(record: FileRecord) -> dict[str, Any]:
    return _file_json(
        FileId(FileKind.UPLOAD, record.id),
        record.filename,
        record.purpose,
        record.size_bytes,
        int(record.created_at.timestamp()),
    )


def _file_json(
    file_id: FileId, filename: str, purpose: str, size_bytes: int, created_at: int
) -> dict[str, Any]:
    return {
        "id": str(file_id),
        "object": "file",
        "bytes": size_bytes,
        "created_at": created_at,
        "expires_at": None,
        "filename": filename,
        "purpose": purpose,
        "status": "processed",
        "status_details": None,
    }
