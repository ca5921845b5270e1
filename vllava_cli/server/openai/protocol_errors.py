"""Tells failures in the form of OpenAI's protocol, whatever failed: a request, a clip, the model or this server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from vllava_cli.errors import (
    BusyError,
    ContextError,
    ForbiddenError,
    MediaError,
    MemoryShortError,
    ServerError,
    TooLargeError,
    UsageError,
    VllavaError,
)
from vllava_cli.storage.jsonl import json_of, readable

RETRY_AFTER_S = 1
BUG = "This is a bug in vllava: please report it with the server's message on stderr."
_WORDS = {
    404: "There is nothing at {path}. The protocol is at /v1/chat/completions and /v1/models.",
    405: "{path} can't be asked by {method}. Use {allowed}.",
}


class RequestError(UsageError):
    """A request that can't be carried out as it was written; `param` is the field that is wrong."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


@dataclass(frozen=True, kw_only=True)
class _Form:
    status: int
    type: str
    code: str | None = None


_FORMS: tuple[tuple[type[VllavaError], _Form], ...] = (
    (ContextError, _Form(status=400, type="invalid_request_error", code="context_length_exceeded")),
    (ForbiddenError, _Form(status=403, type="invalid_request_error", code="forbidden_media")),
    (TooLargeError, _Form(status=413, type="invalid_request_error", code="media_too_large")),
    (MediaError, _Form(status=400, type="invalid_request_error", code="invalid_media")),
    (UsageError, _Form(status=400, type="invalid_request_error")),
    (BusyError, _Form(status=429, type="rate_limit_error", code="rate_limit_exceeded")),
    (ServerError, _Form(status=503, type="server_error", code="unavailable")),
    (MemoryShortError, _Form(status=503, type="server_error", code="out_of_memory")),
)
_OTHER = _Form(status=500, type="server_error")
_BUG = _Form(status=500, type="server_error", code="bug")


class AsciiJSONResponse(Response):
    """A response with a JSON object as ASCII, so that no text in it can fail to be sent."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json_of(content).encode("ascii")


def error_object(error: Exception) -> dict[str, Any]:
    """Returns {"error": {…}} for a failure; one of our own bugs is named without its details."""
    form = _form(error)
    is_told = isinstance(error, VllavaError | HTTPException)
    message = readable(str(error)) if is_told else BUG
    return {"error": {"message": message, "type": form.type, "param": getattr(error, "param", None), "code": form.code}}


def status_of(error: Exception) -> int:
    return _form(error).status


def error_response(error: Exception) -> Response:
    """Returns the response that tells a failure."""
    headers = {"Retry-After": str(RETRY_AFTER_S)} if isinstance(error, BusyError) else None
    return AsciiJSONResponse(error_object(error), status_code=status_of(error), headers=headers)


async def on_failure(_request: Request, error: Exception) -> Response:
    """Answers a request during which a VllavaError or one of our own bugs was raised."""
    return error_response(error)


async def on_http_failure(request: Request, error: Exception) -> Response:
    """Answers a request that starlette refused: an unknown path, a wrong method, a body that is too large."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    words = _WORDS.get(error.status_code, "{detail}.")
    message = words.format(
        path=request.url.path, method=request.method, allowed=headers.get("Allow", ""), detail=error.detail.rstrip(".")
    )
    told = RequestError(message, status=error.status_code)
    response = error_response(told)
    response.headers.update(headers)
    return response


HANDLERS: dict[Any, Any] = {HTTPException: on_http_failure, VllavaError: on_failure, Exception: on_failure}


def _form(error: Exception) -> _Form:
    if isinstance(error, RequestError):
        kind = "invalid_request_error" if error.status < 500 else "server_error"
        return _Form(status=error.status, type=kind, code=error.code)
    return next(
        (form for kind, form in _FORMS if isinstance(error, kind)), _OTHER if isinstance(error, VllavaError) else _BUG
    )
