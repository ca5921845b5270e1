"""Measures the speed of a device and of its memory, in a fraction of a second each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from vllava_cli.engine.forward import memory_faults
from vllava_cli.nouns import Checkpoint, Hardware, LoadPlan, Speed, Wishes
from vllava_cli.plan import is_tiny, plan

CPU_SIDE, GPU_SIDE = 512, 4096
CPU_BYTES, GPU_BYTES = 64 << 20, 256 << 20
"""Larger than what a CPU's or a GPU's caches hold for one process."""


def measured(plan: LoadPlan, *, measure_s: float = 0.1) -> Speed:
    """Measures the speed of a plan's device, in the plan's dtype. Errors: MemoryShortError."""
    is_cpu = plan.device == "cpu"
    side, size_bytes = (CPU_SIDE, CPU_BYTES) if is_cpu else (GPU_SIDE, GPU_BYTES)
    with memory_faults(plan.device), torch.inference_mode():
        factor = torch.ones(side, side, dtype=getattr(torch, plan.dtype), device=plan.device)
        block, copy = (torch.ones(size_bytes, dtype=torch.uint8, device=plan.device) for _ in range(2))
        return Speed(
            operations=2 * side**3 * _per_second(lambda: factor @ factor, measure_s),
            bytes=2 * size_bytes * _per_second(lambda: copy.copy_(block), measure_s),
        )


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
    """Measures the seconds that an answer takes for each number in a model's matrices."""
    prompt = torch.ones(PREFILL_ROWS, PREFILL_SIDE, dtype=dtype)
    square = torch.ones(PREFILL_SIDE, PREFILL_SIDE, dtype=dtype)
    token, wide = torch.ones(1, STEP_WIDTHS[0], dtype=dtype), torch.ones(STEP_WIDTHS, dtype=dtype)
    row_s = 1 / _per_second(lambda: prompt @ square, measure_s) / PREFILL_ROWS / square.numel()
    step_s = 1 / _per_second(lambda: token @ wide, measure_s) / wide.numel()
    return PROMPT_TOKENS * row_s + ANSWER_TOKENS * step_s


def _per_second(work: Callable[[], Tensor], measure_s: float) -> float:
    """Measures how often `work` can be done in a second; its first run doesn't count."""
    _finish(work())
    count, started_s = 0, time.perf_counter()
    while (took_s := time.perf_counter() - started_s) < measure_s or not count:
        _finish(work())
        count += 1
    return count / took_s


def _finish(result: Tensor) -> None:
    """Waits until a device has computed a result, by reading one number of it, which waits on every device."""
    result.view(-1)[:1].cpu()
