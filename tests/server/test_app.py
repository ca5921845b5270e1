"""The server tells over its socket and its port that it is well."""

from __future__ import annotations

import httpx

from tests.server.serving import Served


def test_it_is_well(demo_served: Served) -> None:
    assert httpx.get(f"{demo_served.url}/health").json() == {"status": "ok"}
    with httpx.Client(transport=httpx.HTTPTransport(uds=demo_served.socket)) as client:
        assert client.get("http://localhost/health").json() == {"status": "ok"}
