"""The web application: joins the routes of all modules, behind the checks of who may ask."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from vllava_cli.server import upkeep
from vllava_cli.server.gate import Gate
from vllava_cli.server.service import Service


def make_app(service: Service) -> Starlette:
    """Makes the application of a service."""
    routes: list[BaseRoute] = [Route("/health", health)]
    routes += upkeep.routes(service)
    app = Starlette(routes=routes, middleware=[Middleware(Gate, service=service)])
    app.state.service = service
    return app


async def health(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})
