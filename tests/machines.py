"""Machines and what `plan` must choose on each for the 7B model and for the demo, as one table; sizes in GiB."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from vllava_cli.machine import CpuSpeed, Hardware, Processor
from vllava_cli.nouns import (
    Attention,
    Checkpoint,
    Dtype,
    Quantisation,
    VideoRecipe,
)

GIB = 2**30
RECIPE = VideoRecipe(short_side=224, crop_height=224, crop_width=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

SEVEN_B = Checkpoint(
    model="LanguageBind/Video-LLaVA-7B-hf",
    revision=None,
    folder=Path("7b"),
    language_parameters=6_480_000_000,
    other_parameters=886_000_000,
    embedding_parameters=262_668_288,
    tower_parameters=303_000_000,
    cache_values_per_token=2 * 32 * 4096,
    context_tokens=4096,
    tokens_per_video=2056,
    tokens_per_image=256,
    video_recipe=RECIPE,
)
DEMO = Checkpoint(
    model="demo",
    revision=None,
    folder=Path("demo"),
    language_parameters=1_800_000,
    other_parameters=1_200_000,
    tower_parameters=400_000,
    cache_values_per_token=2 * 4 * 192,
    context_tokens=1024,
    tokens_per_video=136,
    tokens_per_image=16,
    video_recipe=RECIPE,
)


SPEED = CpuSpeed(
    operations={"float32": 140e9, "bfloat16": 21e9},
    weights={"fp16": 8.1e9, "bf16": 8.1e9, "8bit": 16.2e9, "4bit": 32.4e9},
    quantised={"8bit": 1.08e9, "4bit": 0.216e9},
    cache_bytes=2,
)
"""The 7B model's first word comes in 205 s; a token takes 0.87 s in 16 bits, 0.47 in 8bit, 0.27 in 4bit."""


def slower(**weights: float) -> CpuSpeed:
    """The usual speed with other weights a second: fp16=4e9."""
    return replace(SPEED, weights=SPEED.weights | weights)  # type: ignore[arg-type]


class Machine(NamedTuple):
    """A machine, and the plan for the 7B model and videos on it; `device` None means that nothing fits."""

    name: str
    hardware: Hardware
    device: str | None = None
    dtype: Dtype = "float16"
    quantisation: Quantisation | None = None
    attention: Attention = "sdpa"
    context_tokens: int | None = None


def gpu(
    name: str,
    total: float,
    free: float,
    capability: tuple[int, int] | None = None,
    *,
    index: int = 0,
    kind: Literal["cuda", "rocm", "mps", "xpu"] = "cuda",
) -> Processor:
    device = {"cuda": f"cuda:{index}", "rocm": f"cuda:{index}", "mps": "mps", "xpu": f"xpu:{index}"}[kind]
    return Processor(
        kind=kind,
        device=device,
        name=name,
        total_bytes=math.ceil(total * GIB),
        free_bytes=math.ceil(free * GIB),
        capability=capability,
    )


def box(
    *gpus: Processor, ram: float = 32, free: float = 26, bf16: bool = False, bnb: bool = True, flash: bool = False
) -> Hardware:
    return Hardware(
        accelerators=gpus,
        cpu_name="Test CPU",
        cpu_cores=8,
        ram_total_bytes=math.ceil(ram * GIB),
        ram_free_bytes=math.ceil(free * GIB),
        has_cpu_bf16=bf16,
        has_bitsandbytes=bnb,
        has_flash_attn=flash,
    )


H100 = gpu("NVIDIA H100 80GB HBM3", 79.6, 78.9, (9, 0))
T4 = gpu("Tesla T4", 14.6, 14.4, (7, 5))
RTX_4090 = gpu("NVIDIA GeForce RTX 4090", 24.0, 22.1, (8, 9))
BUSY_4090 = gpu("NVIDIA GeForce RTX 4090", 24.0, 3.2, (8, 9))
RTX_4080 = gpu("NVIDIA GeForce RTX 4080", 16.0, 14.7, (8, 9))
RTX_3090 = gpu("NVIDIA GeForce RTX 3090", 24.0, 22.8, (8, 6))
RTX_3060 = gpu("NVIDIA GeForce RTX 3060", 12.0, 10.9, (8, 6))
RTX_4060 = gpu("NVIDIA GeForce RTX 4060", 8.0, 7.6, (8, 9))
RTX_4060_DESKTOP = gpu("NVIDIA GeForce RTX 4060", 8.0, 6.7, (8, 9))
RTX_2060 = gpu("NVIDIA GeForce RTX 2060", 6.0, 5.5, (7, 5))
GTX_1080 = gpu("NVIDIA GeForce GTX 1080", 8.0, 7.6, (6, 1))
GTX_1050 = gpu("NVIDIA GeForce GTX 1050", 4.0, 3.6, (6, 1))
P40 = gpu("Tesla P40", 24.0, 23.6, (6, 1))
ARC = gpu("Intel(R) Arc(TM) A770 Graphics", 15.9, 15.5, kind="xpu")
RX_7900 = gpu("AMD Radeon RX 7900 XTX", 24.0, 23.1, kind="rocm")
RX_7600 = gpu("AMD Radeon RX 7600", 8.0, 7.0, kind="rocm")
M1_8 = gpu("Apple M1 GPU", 5.3, 3.9, kind="mps")
M2_16 = gpu("Apple M2 GPU", 10.7, 9.8, kind="mps")
M3_MAX = gpu("Apple M3 Max GPU", 48.0, 48.0, kind="mps")


def second(card: Processor) -> Processor:
    return gpu(card.name, card.total_bytes / GIB, card.free_bytes / GIB, card.capability, index=1)


FLASH: Attention = "flash_attention_2"

MACHINES = (
    Machine("H100 80 GB, flash-attn", box(H100, ram=256, free=240, flash=True), "cuda:0", attention=FLASH),
    Machine("T4 16 GB", box(T4, ram=12.7, free=11.0), "cuda:0", quantisation="4bit"),
    Machine("RTX 4090 24 GB", box(RTX_4090), "cuda:0"),
    Machine("RTX 4090 24 GB, flash-attn", box(RTX_4090, flash=True), "cuda:0", attention=FLASH),
    Machine("RTX 4080 16 GB, flash-attn", box(RTX_4080, flash=True), "cuda:0", "float16", "4bit", FLASH),
    Machine("RTX 4080 16 GB, no bitsandbytes, bf16 CPU", box(RTX_4080, bf16=True, bnb=False), "cpu"),
    Machine("RTX 3060 12 GB", box(RTX_3060), "cuda:0", quantisation="4bit"),
    Machine("RTX 4060 8 GB, no display", box(RTX_4060), "cuda:0", quantisation="4bit"),
    Machine("RTX 4060 8 GB, a desktop", box(RTX_4060_DESKTOP, bf16=True), "cuda:0", "float16", "4bit", "sdpa", 2696),
    Machine("RTX 2060 6 GB, 16 GB RAM", box(RTX_2060, ram=16, free=12.5), "cpu", "float32", "8bit"),
    Machine("GTX 1080 8 GB", box(GTX_1080), "cuda:0", quantisation="4bit"),
    Machine("GTX 1050 4 GB", box(GTX_1050), "cpu"),
    Machine("Tesla P40 24 GB", box(P40), "cuda:0"),
    Machine("two RTX 4090, the first busy", box(BUSY_4090, second(RTX_4090)), "cuda:1"),
    Machine("T4 and RTX 3090, flash-attn", box(T4, second(RTX_3090), flash=True), "cuda:1", attention=FLASH),
    Machine("one RTX 4090, nearly full, bf16 CPU", box(BUSY_4090, ram=64, free=50, bf16=True), "cpu"),
    Machine("Mac M1 8 GB", box(M1_8, ram=8, free=3.9)),
    Machine("Mac M2 16 GB", box(M2_16, ram=16, free=9.8, bf16=True), "mps", quantisation="4bit"),
    Machine("Mac M2, no bitsandbytes", box(M2_16, ram=16, free=9.8, bf16=True, bnb=False), "cpu", "bfloat16", "4bit"),
    Machine("Mac M3 Max 64 GB, flash-attn flag", box(M3_MAX, ram=64, free=52, bf16=True, flash=True), "mps"),
    Machine("laptop 8 GB, bf16", box(ram=7.7, free=5.1, bf16=True)),
    Machine("laptop 16 GB, bf16", box(ram=15.5, free=11.2, bf16=True), "cpu", "bfloat16", "8bit"),
    Machine("laptop 16 GB", box(ram=15.5, free=11.2), "cpu", "float32", "4bit"),
    Machine("laptop 32 GB, bf16", box(ram=31.1, free=25.5, bf16=True), "cpu"),
    Machine("laptop 32 GB", box(ram=31.1, free=25.5), "cpu"),
    Machine("laptop 32 GB, no bitsandbytes", box(ram=31.1, free=25.5, bnb=False), "cpu"),
    Machine("server 64 GB", box(ram=62.5, free=58), "cpu"),
    Machine("container of 8 GiB, bf16", box(ram=8, free=7.8, bf16=True), "cpu", "bfloat16", "4bit", "sdpa", 3080),
    Machine("Intel Arc A770 16 GB", box(ARC), "xpu:0", quantisation="4bit"),
    Machine("Intel Arc A770 16 GB, no bitsandbytes", box(ARC, bnb=False, bf16=True), "xpu:0", context_tokens=2696),
    Machine("Radeon RX 7900 XTX 24 GB", box(RX_7900), "cuda:0"),
    Machine("Radeon RX 7600 8 GB, bf16 CPU", box(RX_7600, bf16=True), "cuda:0", "float16", "4bit", "sdpa", 3080),
)
