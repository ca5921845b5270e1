"""What the tests of the server share: the demo model, served in this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.engines import engine_of
from tests.server.serving import Served, served
from vllava_cli import demo


@pytest.fixture(scope="session")
def demo_served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The demo's model behind a socket and a port, with nothing allowed."""
    with served(engine_of(demo.CHECKPOINT), tmp_path_factory.mktemp("served")) as running:
        yield running
