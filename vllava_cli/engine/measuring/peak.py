"""The most memory that a piece of work had in use: a GPU's own count, or the resident set of a process on Linux."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from vllava_cli.engine.measuring.turns import free

CLEAR_PEAK = "5"
"""What /proc/self/clear_refs takes to begin VmHWM anew."""


def peak_bytes(work: Callable[[], object], device: str, *, process: Path = Path("/proc/self")) -> int | None:
    """Of everything that the process holds meanwhile, its models included; None where it can't be known."""
    free(device)
    kind = device.partition(":")[0]
    if kind in ("cuda", "xpu"):
        accelerator = getattr(torch, kind)
        accelerator.reset_peak_memory_stats(device)
        work()
        return int(accelerator.max_memory_allocated(device))
    if kind != "cpu" or not _began_anew(process):
        return None
    work()
    return _resident_peak(process)


def _began_anew(process: Path) -> bool:
    """Gives freed memory back to the system first: the allocator would keep it, and it would count."""
    if sys.platform != "linux":
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
    try:
        (process / "clear_refs").write_text(CLEAR_PEAK)
    except OSError:
        return False
    return True


def _resident_peak(process: Path) -> int | None:
    """ "VmHWM:    1024 kB" → 1048576."""
    for line in (process / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * 1024
    return None
