"""Says which model is served, and by which names a request may call it."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from vllava_cli.nouns import Wishes
from vllava_cli.server.openai.protocol_errors import AsciiJSONResponse, RequestError
from vllava_cli.server.service import Service


def routes(service: Service) -> list[BaseRoute]:
    """Returns the routes that say what is served, and that it is ready."""
    began = int(time.time())
    return [
        Route("/health", partial(_health, service)),
        Route("/v1/models", partial(_models, service, began)),
        Route("/v1/models/{name:path}", partial(_model, service, began)),
    ]


def names_of(wishes: Wishes) -> tuple[str, ...]:
    """Returns the names of a model, the one that is shown first. A folder isn't shown, as its path is the user's.

    "LanguageBind/Video-LLaVA-7B-hf" → that, "Video-LLaVA-7B-hf" · "/data/mine" → "mine", "/data/mine" ·
    "/data/mine" with the adapter "me/birds" → "mine+birds"
    """
    own = Path(wishes.model).name
    shown = own if Path(wishes.model).is_absolute() else wishes.model
    if wishes.adapter:
        return (f"{shown}+{Path(wishes.adapter).name}",)
    return tuple(dict.fromkeys((shown, own, wishes.model)))


def check_name(service: Service, name: str | None) -> None:
    """Raises a RequestError for the name of a model that isn't served; no name stands for the one that is."""
    names = names_of(service.state.wishes)
    if name is not None and name not in names:
        message = f"The model {name!r} isn't served here: ask for {names[0]!r}."
        raise RequestError(message, param="model", code="model_not_found", status=404)


async def _health(service: Service, _request: Request) -> Response:
    name = names_of(service.state.wishes)[0]
    return AsciiJSONResponse({"status": "ok", "model": name, "version": service.state.version})


async def _models(service: Service, began: int, _request: Request) -> Response:
    return AsciiJSONResponse({"object": "list", "data": [_described(service, began)]})


async def _model(service: Service, began: int, request: Request) -> Response:
    check_name(service, request.path_params["name"])
    return AsciiJSONResponse(_described(service, began))


def _described(service: Service, began: int) -> dict[str, Any]:
    return {
        "id": names_of(service.state.wishes)[0],
        "object": "model",
        "created": began,
        "owned_by": "vllava",
        "context_window": service.resident.tokens.context_tokens,
    }
