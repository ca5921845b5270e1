"""The web application: joins the routes of all modules, behind the checks of who may ask."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from vllava_cli.server import completions, files, frame_pictures, metrics, models, upkeep
from vllava_cli.server.access import Access
from vllava_cli.server.metrics import RequestCounter
from vllava_cli.server.protocol_errors import HANDLERS
from vllava_cli.server.service import Service


def make_app(service: Service) -> Starlette:
    """Makes the application of a service."""
    routes: list[BaseRoute] = [
        *models.routes(service),
        *completions.routes(service),
        *files.routes(service),
        *frame_pictures.routes(service),
        *metrics.routes(service),
        *upkeep.routes(service),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers=HANDLERS,
        middleware=[
            Middleware(RequestCounter, metrics=service.metrics),
            Middleware(Access, service=service),
        ],
    )
    app.state.service = service
    return app
