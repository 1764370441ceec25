"""Takes uploads in: a multipart form is parsed as it comes, and never whole in memory."""

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field

from fastapi import Request
from fastapi.responses import JSONResponse
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from producer.gateway.errors import ApiError

_MOST_FIELD_BYTES = 64 * 1024
"""Of a form's fields that are no file, together."""


@dataclass(slots=True)
class _Part:
    """A part of the form."""

    name: str = ""
    filename: str | None = None


@dataclass(slots=True)
class UploadForm:
    """A form with one file: iterate `file_data`, then read the fields.

    Fields that stand behind the file are known only when the file was read to its end.

    Attributes:
        fields: The form's fields that are no file.
        filename: Name of the file; None as long as, or where, there is none.
    """

    request: Request
    most_bytes: int
    """Largest file, in bytes."""
    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    _size_bytes: int = 0
    _field_bytes: int = 0
    _part: _Part = field(default_factory=_Part)
    _header: list[bytes] = field(default_factory=lambda: [b"", b""])
    _file_data: list[bytes] = field(default_factory=list)
    _values: dict[str, bytearray] = field(default_factory=dict)
    _ended: bool = False

    async def file_data(self) -> AsyncIterator[bytes]:
        """Yield the file's bytes as they come.

        Raises:
            ApiError: The request is no such form, breaks off, or holds a file that is too large.
        """
        parser = self._parser()
        async for chunk in self.request.stream():
            self._parse(parser, chunk)
            for data in self._file_data:
                yield data
            self._file_data.clear()
        if not self._ended:
            raise ApiError(400, "The form broke off before its end. Send it again.")
        self.fields = {name: _text(value) for name, value in self._values.items()}
        if self.filename is None:
            raise ApiError(400, "The form has no file. Send one in the field file.", param="file")

    def _parser(self) -> MultipartParser:
        kind, options = parse_options_header(self.request.headers.get("content-type"))
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise ApiError(400, "The request is no form. Send it as multipart/form-data.")
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_begin": self._begin_header,
                "on_header_field": self._add_header_name,
                "on_header_value": self._add_header_value,
                "on_header_end": self._end_header,
                "on_part_data": self._add_data,
                "on_end": self._end,
            },
        )

    def _parse(self, parser: MultipartParser, chunk: bytes) -> None:
        try:
            parser.write(chunk)
        except MultipartParseError as error:
            raise ApiError(400, f"The form can't be read: {error}.") from error

    def _begin_part(self) -> None:
        self._part = _Part()

    def _begin_header(self) -> None:
        self._header = [b"", b""]

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0] += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1] += data[start:end]

    def _end_header(self) -> None:
        name, value = self._header
        if name.lower() != b"content-disposition":
            return
        _, options = parse_options_header(value)
        self._part.name = _text(options.get(b"name", b""))
        if b"filename" in options:
            self._part.filename = _text(options[b"filename"])
            self._begin_file(self._part.filename)

    def _begin_file(self, filename: str) -> None:
        if self.filename is not None:
            raise ApiError(400, "The form has two files. Send one.", param="file")
        self.filename = filename or "file"

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._part.filename is not None:
            self._size_bytes += end - start
            if self._size_bytes > self.most_bytes:
                raise too_large(self.most_bytes, "file")
            self._file_data.append(data[start:end])
            return
        self._field_bytes += end - start
        if self._field_bytes > _MOST_FIELD_BYTES:
            raise too_large(_MOST_FIELD_BYTES, self._part.name)
        self._values.setdefault(self._part.name, bytearray()).extend(data[start:end])

    def _end(self) -> None:
        self._ended = True


class BodyLimit:
    """Refuses requests with a body over a limit; some paths have a limit of their own.

    Args:
        app: The application.
        most_bytes: Largest body.
        except_paths: Paths whose bodies are not looked at.
    """

    def __init__(self, app: ASGIApp, most_bytes: int, except_paths: Collection[str]) -> None:
        self._app, self._most_bytes, self._except = app, most_bytes, except_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or scope["path"].rstrip("/") in self._except:
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._most_bytes:
            error = too_large(self._most_bytes)
            await JSONResponse(error.body(), error.status)(scope, receive, send)
            return
        left = self._most_bytes

        async def receive_some() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise too_large(self._most_bytes)
            return message

        await self._app(scope, receive_some, send)


def too_large(most_bytes: int, param: str | None = None) -> ApiError:
    """Return the answer to a request that is larger than allowed."""
    message = f"It is larger than {most_bytes:,} bytes. Split it, or have the limit raised."
    return ApiError(413, message, code="request_too_large", param=param)


def _text(value: bytes | bytearray) -> str:
    return bytes(value).decode("utf-8", errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
