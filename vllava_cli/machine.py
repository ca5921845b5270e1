"""Describes a machine by dataclasses: its processors, its memory, and the speeds that were measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vllava_cli.nouns import Dtype, Precision


@dataclass(frozen=True, kw_only=True)
class Processor:
    """A GPU with its memory, or the CPU with the RAM. `device` is torch's name: "cuda:0", "mps", "xpu:0" or "cpu"."""

    kind: Literal["cuda", "rocm", "mps", "xpu", "cpu"]
    device: str
    name: str
    total_bytes: int
    free_bytes: int
    capability: tuple[int, int] | None = None
    """CUDA compute capability, (8, 9) for an RTX 4090; None elsewhere."""

    @property
    def is_gpu(self) -> bool:
        return self.kind != "cpu"


@dataclass(frozen=True, kw_only=True)
class CpuSpeed:
    """The speed of this CPU, measured with as many threads as a model then gets."""

    operations: dict[Dtype, float]
    """Multiplications and additions a second in large products, in float32 and bfloat16."""
    weights: dict[Precision, float]
    """Weights a second that are multiplied by one row, for each form in which they can be held."""
    quantised: dict[Precision, float]
    """Weights a second that are quantised to 8bit and 4bit."""
    cache_bytes: int
    """The bytes of a number in the KV cache."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The hardware of this machine; the GPUs come in torch's order."""

    accelerators: tuple[Processor, ...] = ()
    cpu_name: str
    cpu_cores: int
    """Physical cores that this process may use."""
    ram_total_bytes: int
    ram_free_bytes: int
    has_cpu_bf16: bool = False
    """avx512_bf16 or amx_bf16 on x86, bf16 on Arm."""
    cpu_speed: CpuSpeed | None = None
    """What was measured of the CPU; None where it wasn't."""
    has_bitsandbytes: bool = False
    has_flash_attn: bool = False
    faults: tuple[str, ...] = ()
    """GPUs that are here but that torch can't use, a sentence each: what is wrong and the remedy."""

    @property
    def cpu(self) -> Processor:
        return Processor(
            kind="cpu",
            device="cpu",
            name=self.cpu_name,
            total_bytes=self.ram_total_bytes,
            free_bytes=self.ram_free_bytes,
        )


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The measured speed of a device: operations and bytes per second."""

    operations: float
    """Multiplications and additions, in a large product of matrices."""
    bytes: float
    """Read and written, in a large copy."""
