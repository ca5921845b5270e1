"""Routes by which this user looks at the server, lets it stay for longer, and ends it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from vllava_cli.errors import UsageError
from vllava_cli.server.openai.protocol_errors import AsciiJSONResponse
from vllava_cli.server.service import Service
from vllava_cli.storage.fields import Fields, parsed_object


def routes(service: Service) -> list[BaseRoute]:
    """Returns the routes of the status, of the end, and of a later end."""

    async def status(_request: Request) -> Response:
        return AsciiJSONResponse(facts(service))

    async def stop(_request: Request) -> Response:
        service.life.end()
        return AsciiJSONResponse({"is_ending": True})

    async def keep(request: Request) -> Response:
        try:
            wish = Fields(parsed_object(await request.body()), "The request", error=UsageError)
        except ValueError as exc:
            raise UsageError(f"The request is not a JSON object: {exc}.") from exc
        service.keep(wish.seconds("least_s"))
        return AsciiJSONResponse({"idle_s": service.settings.idle_s})

    return [
        Route("/vllava/status", status),
        Route("/vllava/stop", stop, methods=["POST"]),
        Route("/vllava/keep", keep, methods=["POST"]),
    ]


def facts(service: Service) -> dict[str, Any]:
    """Returns the facts about a running server; no token is among them."""
    state, figures = service.state, service.resident.figures
    return {
        "pid": state.pid,
        "version": state.version,
        "model": state.wishes.model,
        "revision": state.revision,
        "adapter": state.wishes.adapter,
        "device": state.device,
        "precision": state.precision,
        "attention": state.attention,
        "socket": state.socket,
        "url": state.url,
        "began": state.began,
        "is_ending": service.life.is_ending,
        "requests": service.life.running,
        "running": figures.running,
        "waiting": figures.waiting,
        "answers": figures.answers,
        "memory_bytes": memory_bytes(),
        "gpu_bytes": service.resident.engine.used_bytes,
    }


def memory_bytes() -> int | None:
    """Returns the RAM that this process has now; None where the system doesn't tell."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None
