"""The demo model's engine, loaded once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.engine.engines import engine_of
from vllava_cli import demo
from vllava_cli.engine.generate import Engine


@pytest.fixture(scope="package")
def engine() -> Iterator[Engine]:
    """On one thread: several wait for each other most of the time of so small a model."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield engine_of(demo.CHECKPOINT)
    torch.set_num_threads(before)
