"""How many threads the CPU computes with: as many as a plan says, unless the user has chosen."""

from __future__ import annotations

import os

import torch

SETTING = "OMP_NUM_THREADS"
"""Who sets it has chosen."""


def use(count: int | None) -> None:
    """So many from now on; None leaves them as they are, and so does what the user has set."""
    if count and SETTING not in os.environ:
        torch.set_num_threads(count)
