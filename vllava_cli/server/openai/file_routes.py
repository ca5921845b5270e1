"""The routes under /v1/files: clips are uploaded, listed, fetched back and deleted, as OpenAI's protocol has it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from vllava_cli.server.clips.uploads import MOST_FILES, Upload
from vllava_cli.server.openai.protocol_errors import AsciiJSONResponse, RequestError
from vllava_cli.server.openai.upload_form import read_form
from vllava_cli.server.service import Service


def routes(service: Service) -> list[BaseRoute]:
    """Returns the routes of uploads."""
    return [
        Route("/v1/files", partial(_create, service), methods=["POST"]),
        Route("/v1/files", partial(_list, service), methods=["GET"]),
        Route("/v1/files/{id}", partial(_show, service), methods=["GET"]),
        Route("/v1/files/{id}", partial(_delete, service), methods=["DELETE"]),
        Route("/v1/files/{id}/content", partial(_content, service), methods=["GET"]),
    ]


async def _create(service: Service, request: Request) -> Response:
    return AsciiJSONResponse(_object((await read_form(request, service.uploads)).upload))


async def _list(service: Service, request: Request) -> Response:
    wanted = request.query_params
    found = [each for each in service.uploads.all() if wanted.get("purpose") in (None, each.purpose)]
    if wanted.get("order") == "asc":
        found.reverse()
    ids = [each.id for each in found]
    if (after := wanted.get("after")) in ids:
        found = found[ids.index(after) + 1 :]
    most = int(limit) if (limit := wanted.get("limit", "")).isdecimal() and len(limit) < 6 else MOST_FILES
    return AsciiJSONResponse(_page(found[:most], has_more=len(found) > most))


async def _show(service: Service, request: Request) -> Response:
    return AsciiJSONResponse(_object(_found(service, request)))


async def _delete(service: Service, request: Request) -> Response:
    upload = _found(service, request)
    service.uploads.delete(upload.id)
    return AsciiJSONResponse({"id": upload.id, "object": "file", "deleted": True})


async def _content(service: Service, request: Request) -> Response:
    """Sends a file back; a browser saves it and never shows it, as nobody knows what is in it."""
    upload = _found(service, request)
    headers = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}
    return FileResponse(upload.path, media_type="application/octet-stream", filename=upload.name, headers=headers)


def _found(service: Service, request: Request) -> Upload:
    id = request.path_params["id"]
    upload = service.uploads.find(id)
    if upload is None:
        raise RequestError(f"There is no file {id[:100]!r}. Upload it to /v1/files.", param="id", status=404)
    return upload


def _object(upload: Upload) -> dict[str, Any]:
    return {
        "id": upload.id,
        "object": "file",
        "bytes": upload.bytes,
        "created_at": int(upload.created_at),
        "filename": upload.name,
        "purpose": upload.purpose,
        "status": "processed",
    }


def _page(uploads: Sequence[Upload], *, has_more: bool) -> dict[str, Any]:
    ends = {"first_id": uploads[0].id, "last_id": uploads[-1].id} if uploads else {"first_id": None, "last_id": None}
    return {"object": "list", "data": list(map(_object, uploads)), **ends, "has_more": has_more}
