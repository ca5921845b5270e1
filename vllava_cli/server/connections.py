"""The web server behind the application: bounds its connections, their heads, and how long a client may take."""

from __future__ import annotations

import logging

import uvicorn

from vllava_cli.server.app import make_app
from vllava_cli.server.service import Service

MOST_HEAD_BYTES = 32 << 10


def web_server(service: Service, *, grace_s: float) -> uvicorn.Server:
    """Makes the web server of a service; once it is to end, requests have `grace_s` before they are cut off."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # the application reports its own faults
    config = uvicorn.Config(
        make_app(service),
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MOST_HEAD_BYTES,
        timeout_graceful_shutdown=int(grace_s),
    )
    return uvicorn.Server(config)
