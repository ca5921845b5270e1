"""How fast a device computes and how fast its memory is, from two measurements of a fifth of a second each."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from vllava_cli.engine.forward import memory_faults
from vllava_cli.nouns import LoadPlan, Speed

MEASURE_S = 0.2
CPU_SIDE, GPU_SIDE = 512, 4096
CPU_BYTES, GPU_BYTES = 64 << 20, 256 << 20
"""Larger than what a CPU's or a GPU's caches hold for one process."""


def measured(plan: LoadPlan, *, measure_s: float = MEASURE_S) -> Speed:
    """Of the device and in the dtype of a plan. Errors: MemoryShortError."""
    is_cpu = plan.device == "cpu"
    side, size_bytes = (CPU_SIDE, CPU_BYTES) if is_cpu else (GPU_SIDE, GPU_BYTES)
    with memory_faults(plan.device), torch.inference_mode():
        factor = torch.ones(side, side, dtype=getattr(torch, plan.dtype), device=plan.device)
        block, copy = (torch.ones(size_bytes, dtype=torch.uint8, device=plan.device) for _ in range(2))
        return Speed(
            operations=2 * side**3 * _per_second(lambda: factor @ factor, measure_s),
            bytes=2 * size_bytes * _per_second(lambda: copy.copy_(block), measure_s),
        )


def _per_second(work: Callable[[], Tensor], measure_s: float) -> float:
    """How often it is done in a second, after a first time that doesn't count."""
    _finish(work())
    count, started_s = 0, time.perf_counter()
    while (took_s := time.perf_counter() - started_s) < measure_s or not count:
        _finish(work())
        count += 1
    return count / took_s


def _finish(result: Tensor) -> None:
    """Waits for a device that computes on its own; a look at one number does so everywhere."""
    result.view(-1)[:1].cpu()
