"""Measures a device: its speed and that of its memory, and the seconds and the memory that work on it takes."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from vllava_cli.engine.forward import free, memory_faults
from vllava_cli.nouns import Checkpoint, Hardware, LoadPlan, Speed, Wishes
from vllava_cli.plan import is_tiny, plan

CPU_SIDE, GPU_SIDE = 512, 4096
CPU_BYTES, GPU_BYTES = 64 << 20, 256 << 20
"""Larger than what a CPU's or a GPU's caches hold for one process."""


def measured(plan: LoadPlan, *, measure_s: float = 0.1) -> Speed:
    """Measures the speed of a plan's device, in the plan's dtype; the best of three, as a disturbance only slows it.

    Errors: MemoryShortError.
    """
    is_cpu = plan.device == "cpu"
    side, size_bytes = (CPU_SIDE, CPU_BYTES) if is_cpu else (GPU_SIDE, GPU_BYTES)
    with memory_faults(plan.device), torch.inference_mode():
        factor = torch.ones(side, side, dtype=getattr(torch, plan.dtype), device=plan.device)
        block, copy = (torch.ones(size_bytes, dtype=torch.uint8, device=plan.device) for _ in range(2))
        products = [_per_second(lambda: factor @ factor, measure_s, plan.device) for _ in range(3)]
        copies = [_per_second(lambda: copy.copy_(block), measure_s, plan.device) for _ in range(3)]
        return Speed(operations=2 * side**3 * max(products), bytes=2 * size_bytes * max(copies))


PREFILL_ROWS, PREFILL_SIDE = 64, 1024
STEP_WIDTHS = (2048, 8192)
"""A matrix of more bytes than a core's caches hold, as those of a large model are."""
PROMPT_TOKENS, ANSWER_TOKENS = 2070, 64
"""The tokens of a clip with a question, and of an answer: how much a prefill and the steps of decoding count."""


def bf16_gain(*, measure_s: float = 0.05) -> float:
    """Measures how many times as fast the CPU answers in bf16 as in fp32, by products of many rows and of one row."""
    return _answer_s(torch.float32, measure_s) / _answer_s(torch.bfloat16, measure_s)


def planned(wishes: Wishes, hardware: Hardware, checkpoint: Checkpoint) -> LoadPlan:
    """Makes a plan, and measures bf16 on the CPU first if the choice depends on it. Errors: those of `plan`."""
    chosen = plan(wishes, hardware, checkpoint)
    is_wished = wishes.precision in ("fp16", "bf16", "fp32")
    if chosen.device != "cpu" or is_wished or is_tiny(checkpoint) or hardware.cpu_bf16_gain is not None:
        return chosen
    return plan(wishes, replace(hardware, cpu_bf16_gain=bf16_gain()), checkpoint)


@torch.inference_mode()
def _answer_s(dtype: torch.dtype, measure_s: float) -> float:
    """Measures the time of an answer, in seconds per number in the model's matrices."""
    prompt = torch.ones(PREFILL_ROWS, PREFILL_SIDE, dtype=dtype)
    square = torch.ones(PREFILL_SIDE, PREFILL_SIDE, dtype=dtype)
    token, wide = torch.ones(1, STEP_WIDTHS[0], dtype=dtype), torch.ones(STEP_WIDTHS, dtype=dtype)
    row_s = 1 / _per_second(lambda: prompt @ square, measure_s) / PREFILL_ROWS / square.numel()
    step_s = 1 / _per_second(lambda: token @ wide, measure_s) / wide.numel()
    return PROMPT_TOKENS * row_s + ANSWER_TOKENS * step_s


def _per_second(work: Callable[[], Tensor], measure_s: float, device: str = "cpu") -> float:
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
