"""Says errors as OpenAI's API does: `{"error": {"message", "type", "param", "code"}}`."""

import math
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from routoo.errors import (
    BrokerUnavailableError,
    CheckpointError,
    ConfigError,
    DatabaseUnavailableError,
    EndpointClosedError,
    EndpointError,
    EndpointTimeoutError,
    EndpointUnavailableError,
    InfeasibleError,
    InputError,
    NotFoundError,
    RateLimitedError,
    RequestRejectedError,
    RoutooError,
)

_log = structlog.get_logger(__name__)
_SERVER_ERROR = 500
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_STATUSES: dict[type[RoutooError], int] = {
    InputError: 400,
    ConfigError: 400,
    CheckpointError: 400,
    InfeasibleError: 400,
    NotFoundError: 404,
    DatabaseUnavailableError: 503,
    BrokerUnavailableError: 503,
    RateLimitedError: 429,
    RequestRejectedError: 400,
    EndpointTimeoutError: 504,
    EndpointClosedError: 503,
    EndpointUnavailableError: 503,
    EndpointError: 502,
}
"""The first class that fits counts."""


class ApiError(Exception):
    """A request is answered with an error.

    Args:
        status: HTTP status.
        message: What is wrong and what to do, whole sentences.
        code: OpenAI's word for it, where there is one.
        param: The field of the request that is wrong.
        kind: OpenAI's `type`; follows from the status where unset.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.status, self.message, self.code, self.param = status, message, code, param
        self.kind, self.headers = kind or error_type(status), headers
        super().__init__(message)

    def body(self) -> dict[str, Any]:
        """Return the answer's body."""
        fields = {"message": self.message, "type": self.kind, "param": self.param}
        return {"error": {**fields, "code": self.code}}


def error_type(status: int) -> str:
    """Return OpenAI's `type` of an HTTP status."""
    kind = "server_error" if status >= _SERVER_ERROR else "invalid_request_error"
    return _TYPES.get(status, kind)


def api_error(error: RoutooError) -> ApiError:
    """Return the answer to a request that raised an error of ours."""
    status = next((s for kind, s in _STATUSES.items() if isinstance(error, kind)), _SERVER_ERROR)
    if not isinstance(error, EndpointError):
        return ApiError(status, str(error))
    # Without `where`: an endpoint's address is nobody's business.
    message = f"{error.what}. {error.remedy or ''}".strip()
    wait_s = error.retry_after_s
    headers = None if wait_s is None else {"Retry-After": f"{math.ceil(wait_s)}"}
    return ApiError(status, message, code=error.code, headers=headers)


def add_error_handlers(app: FastAPI) -> None:
    """Have every error that a route raises answered in OpenAI's words."""
    app.exception_handler(ApiError)(_answer_api_error)
    app.exception_handler(RoutooError)(_answer_routoo_error)
    app.exception_handler(HTTPException)(_answer_http_exception)
    app.exception_handler(RequestValidationError)(_answer_invalid)
    app.exception_handler(Exception)(_answer_unexpected)


def _response(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body(), error.status, headers=error.headers)


async def _answer_api_error(_request: Request, error: ApiError) -> JSONResponse:
    return _response(error)


async def _answer_routoo_error(request: Request, error: RoutooError) -> JSONResponse:
    answer = api_error(error)
    if answer.status >= _SERVER_ERROR:
        _log.error("gateway.failed", path=request.url.path, reason=str(error))
    return _response(answer)


async def _answer_http_exception(_request: Request, error: HTTPException) -> JSONResponse:
    headers = dict(error.headers) if error.headers else None
    return _response(ApiError(error.status_code, str(error.detail), headers=headers))


async def _answer_invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:]) or None
    return _response(ApiError(400, f"{first['msg']}.", param=param))


async def _answer_unexpected(request: Request, error: Exception) -> JSONResponse:
    """Answer without details, which may hold secrets; the log has them."""
    _log.error("gateway.failed", path=request.url.path, reason=repr(error), exc_info=error)
    return _response(ApiError(_SERVER_ERROR, "The gateway failed; its log says more."))
