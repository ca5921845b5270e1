"""The seconds and the memory of work on a device, and measurements that alternate."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from vllava_cli.engine.forward import memory_faults
from vllava_cli.engine.measuring.figures import Measured
from vllava_cli.errors import VllavaError

SLOW_S = 10.0
"""A round that takes longer is repeated less often."""
SPENT_S = 50.0
"""About the time that all rounds of one measurement may take then."""
Faults = tuple[type[VllavaError], ...]


def seconds_of(work: Callable[[], object], device: str) -> float:
    """Runs `work` when nothing is under way any more, and reads the clock when the device has finished it."""
    finish(device)
    started_s = time.perf_counter()
    work()
    finish(device)
    return time.perf_counter() - started_s


def finish(device: str) -> None:
    """Waits until a device that computes on its own has done all that it was given."""
    if device != "cpu":
        torch.accelerator.synchronize(device)


def free(device: str) -> None:
    """Gives back the memory that nobody refers to any more."""
    gc.collect()
    if device.startswith(("cuda", "xpu")):
        torch.accelerator.empty_cache()


def peak_bytes(work: Callable[[], object], device: str, *, process: Path = Path("/proc/self")) -> int | None:
    """Returns the most memory in use while `work` ran, models included; None, without running it, if nothing says."""
    free(device)
    if device.startswith(("cuda", "xpu")):
        torch.accelerator.reset_peak_memory_stats(device)
        work()
        return int(torch.accelerator.max_memory_allocated(device))
    if device != "cpu" or not _restart_peak(process):
        return None
    work()
    status = (process / "status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:")), None)


def alternate(
    measures: Sequence[Callable[[], float]],
    *,
    device: str,
    repeat: int,
    is_interrupted: Callable[[], bool],
    faults: Faults,
) -> list[Measured | None]:
    """Runs A B A B …, so that a change of the machine's speed meets both; the first round warms up.

    Where that one took too long to be repeated, it is what counts. A measurement that fails by one of `faults` is left
    out from then on and gives None. Raises KeyboardInterrupt before or after a measurement; errors: other faults at
    once, and the last one's where all failed.
    """
    found: list[list[float]] = [[] for _ in measures]
    failed: dict[int, VllavaError] = {}

    def run_round() -> None:
        for number, measure in enumerate(measures):
            if is_interrupted():
                raise KeyboardInterrupt
            if number in failed:
                continue
            try:
                with memory_faults(device):
                    found[number].append(measure())
            except faults as exc:
                failed[number] = type(exc)(*exc.args)  # the error itself would hold all that was made
                free(device)
        if is_interrupted():
            raise KeyboardInterrupt

    started_s = time.perf_counter()
    run_round()
    for _ in range(repeats_of(time.perf_counter() - started_s, repeat)):
        run_round()
    if len(failed) == len(measures):
        raise failed[len(measures) - 1]
    values = (None if number in failed else each[1:] or each for number, each in enumerate(found))
    return [None if each is None else Measured(values=tuple(each)) for each in values]


def repeats_of(round_s: float, repeat: int) -> int:
    """Counts the rounds that follow a first one of so many seconds: (0.1, 5) → 5; (20, 5) → 2; (60, 5) → 0."""
    return repeat if round_s <= SLOW_S else min(repeat, int(SPENT_S / round_s))


def _restart_peak(process: Path) -> bool:
    """Restarts the process's peak on Linux. Freed memory goes to the system first, or it would count."""
    if sys.platform != "linux":
        return False
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    try:
        (process / "clear_refs").write_text("5")
    except OSError:
        return False
    return True
