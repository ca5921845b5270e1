"""How many threads the CPU computes with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vllava_cli.hardware import cpu_cores

SETTING = "OMP_NUM_THREADS"
"""Who sets it has chosen."""


def use(count: int | None) -> None:
    """So many from now on; None leaves them as they are, and so does what the user has set."""
    if count and SETTING not in os.environ:
        torch.set_num_threads(count)


@contextmanager
def all_cores() -> Iterator[None]:
    """One for each physical core, for passes of many rows; what it was before comes back."""
    before = torch.get_num_threads()
    use(cpu_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)
