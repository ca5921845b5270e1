"""The web application: joins the routes of all modules, behind the checks of who may ask."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware

from vllava_cli.server import metrics, page
from vllava_cli.server.life.gate import Gate
from vllava_cli.server.metrics import RequestCounter
from vllava_cli.server.openai import completions, file_routes, frame_pictures, models
from vllava_cli.server.openai.protocol_errors import HANDLERS
from vllava_cli.server.own import answer_routes, asking, interrupts, upkeep
from vllava_cli.server.service import Service

_PARTS = (models, completions, file_routes, frame_pictures, asking, answer_routes, interrupts, metrics, upkeep, page)


def make_app(service: Service) -> Starlette:
    """Makes the application of a service."""
    app = Starlette(
        routes=[route for part in _PARTS for route in part.routes(service)],
        exception_handlers=HANDLERS,
        middleware=[
            Middleware(RequestCounter, metrics=service.metrics),
            Middleware(Gate, service=service),
        ],
    )
    app.state.service = service
    return app
