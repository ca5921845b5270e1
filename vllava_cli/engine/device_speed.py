"""Measures a device: its speed and that of its memory, and the seconds and the memory that work on it takes."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from vllava_cli.engine.cpu.products import CompiledProducts, Form, Matrix, Products, products
from vllava_cli.engine.forward import free, memory_faults
from vllava_cli.engine.load import THREADS_SETTING
from vllava_cli.machine import CpuSpeed, Hardware, Speed
from vllava_cli.nouns import (
    Checkpoint,
    Dtype,
    LoadPlan,
    Precision,
    Wishes,
)
from vllava_cli.plan import is_tiny, plan

CPU_SIDE, GPU_SIDE = 512, 4096
CPU_BYTES, GPU_BYTES = 64 << 20, 256 << 20
"""Larger than what a CPU's or a GPU's caches hold for one process."""


HELD: dict[Precision, Form] = {"fp16": "fp16", "bf16": "bf16", "8bit": "int8", "4bit": "int4"}
"""The forms in which a CPU holds weights, with the names that --precision has for them."""


def measured(plan: LoadPlan, *, measure_s: float = 0.1) -> Speed:
    """Measures the speed of a plan's device, in the plan's dtype; the best of three, as a disturbance only slows it.

    Errors: MemoryShortError.
    """
    is_cpu = plan.device == "cpu"
    side, size_bytes = (CPU_SIDE, CPU_BYTES) if is_cpu else (GPU_SIDE, GPU_BYTES)
    with memory_faults(plan.device), torch.inference_mode():
        dtype = getattr(torch, plan.wide_dtype if plan.is_held else plan.dtype)
        factor = torch.ones(side, side, dtype=dtype, device=plan.device)
        block, copy = (torch.ones(size_bytes, dtype=torch.uint8, device=plan.device) for _ in range(2))
        products = [_per_second(lambda: factor @ factor, measure_s, plan.device) for _ in range(3)]
        copies = [_per_second(lambda: copy.copy_(block), measure_s, plan.device) for _ in range(3)]
        return Speed(operations=2 * side**3 * max(products), bytes=2 * size_bytes * max(copies))


MANY_ROWS, WIDTH = 256, 4096
"""A large product's rows, and the width of the matrices."""
HELD_BYTES = 64 << 20
"""The bytes of a matrix that is multiplied by one row: more than a CPU's caches hold."""
QUANTISED_ROWS = 512


def planned(wishes: Wishes, hardware: Hardware, checkpoint: Checkpoint) -> LoadPlan:
    """Makes a plan, and measures the CPU first if the model is to run there. Errors: those of `plan`."""
    chosen = plan(wishes, hardware, checkpoint)
    if not chosen.is_held or is_tiny(checkpoint) or hardware.cpu_speed is not None:
        return chosen
    threads = torch.get_num_threads()
    if chosen.threads and THREADS_SETTING not in os.environ:  # as `load` does
        torch.set_num_threads(chosen.threads)
    try:
        return plan(wishes, replace(hardware, cpu_speed=cpu_speed()), checkpoint)
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def cpu_speed(*, measure_s: float = 0.02) -> CpuSpeed:
    """Measures how fast this CPU multiplies many rows and one row, for each form of the weights, and quantises."""
    found = products()
    operations: dict[Dtype, float] = {}
    for name in ("float32", "bfloat16"):
        rows = torch.ones(MANY_ROWS, WIDTH, dtype=getattr(torch, name))
        square = torch.ones(WIDTH // 4, WIDTH, dtype=rows.dtype)
        per_second = max(_per_second(lambda: rows @ square.t(), measure_s) for _ in range(2))  # noqa: B023
        operations[name] = 2 * MANY_ROWS * square.numel() * per_second
    held = torch.ones(HELD_BYTES, dtype=torch.uint8)
    sample = torch.ones(QUANTISED_ROWS, WIDTH, dtype=torch.float16)
    x, weights, quantised = torch.ones(1, WIDTH), dict[Precision, float](), dict[Precision, float]()
    for precision, form in HELD.items():
        matrix = _matrix(form, held, found, sample)
        y = torch.empty(1, matrix.outputs)
        per_second = max(_per_second(lambda: found.few(matrix, x, y), measure_s) for _ in range(2))  # noqa: B023
        weights[precision] = per_second * matrix.outputs * WIDTH
        if form in ("int8", "int4"):
            seconds = min(seconds_of(lambda: found.quantised(sample, form), "cpu") for _ in range(2))  # noqa: B023
            quantised[precision] = sample.numel() / seconds
    is_compiled = isinstance(found, CompiledProducts)
    return CpuSpeed(operations=operations, weights=weights, quantised=quantised, cache_bytes=2 if is_compiled else 4)


def _matrix(form: Form, held: Tensor, found: Products, sample: Tensor) -> Matrix:
    """Makes a matrix of WIDTH columns from the bytes `held`, laid out as the products have it."""
    if form in ("int8", "int4"):
        small = found.quantised(sample, form)
        times = HELD_BYTES // small.values.nbytes
        values = held[: times * small.values.nbytes].view(small.values.dtype)
        scales = small.scales.repeat(1, times, 1) if small.scales.dim() == 3 else torch.cat([small.scales] * times)
        shape = (times * small.values.shape[0], *small.values.shape[1:])
        return Matrix(form=form, values=values.view(shape), scales=scales, outputs=times * len(sample), inputs=WIDTH)
    values = held.view(torch.float16 if form == "fp16" else torch.bfloat16).view(-1, WIDTH)
    return Matrix(form=form, values=values, scales=torch.empty(0), outputs=len(values), inputs=WIDTH)


def _per_second(work: Callable[[], object], measure_s: float, device: str = "cpu") -> float:
    """Measures how often `work` can be done in a second; its first run doesn't count."""
    work()
    count, took_s = 0, 0.0
    while took_s < measure_s:
        took_s += seconds_of(work, device)
        count += 1
    return count / took_s


def seconds_of(work: Callable[[], object], device: str) -> float:
    """Runs `work` on an idle device, and returns the seconds until the device has finished it."""
    finish(device)
    started_s = time.perf_counter()
    work()
    finish(device)
    return time.perf_counter() - started_s


def finish(device: str) -> None:
    """Waits until a GPU has done all its work. Calls on the CPU return only when their work is done."""
    if device != "cpu":
        torch.accelerator.synchronize(device)


def peak_bytes(work: Callable[[], object], device: str) -> int | None:
    """Runs `work` and returns the peak memory, models included. Without a way to measure it, just returns None."""
    free(device)
    if device.startswith(("cuda", "xpu")):
        torch.accelerator.reset_peak_memory_stats(device)
        work()
        return int(torch.accelerator.max_memory_allocated(device))
    if device != "cpu" or sys.platform != "linux":
        return None
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)  # memory that was freed would count until the system has it back
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the process's peak begins anew
    except OSError:
        return None
    work()
    status = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:")), None)
