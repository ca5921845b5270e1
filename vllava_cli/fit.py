"""Finds the first processor and form whose memory is enough for a model. Pure, like `plan`.

A wish that a processor can't grant is refused here, with the remedy. A form takes memory for its weights, KV cache and
activations, and for the libraries themselves.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from vllava_cli.errors import WishError
from vllava_cli.nouns import SHORT_NAMES, Accelerator, Checkpoint, Dtype, Hardware, Precision, Quantisation, Wishes

GIB = 2**30

NF4_BYTES = 0.5625
"""Per parameter: half a byte, and one fp32 scale for each block of 64."""

ACTIVATIONS_PER_CACHE = 0.25
"""A prefill's activations against the cache that it fills. The 7B model holds 4 * 4096 + 3 * 11008 values a token, in
one layer at a time, which is 0.19 of the cache of its 32 layers; the towers' eight frames take less."""

EAGER_ACTIVATIONS_PER_CACHE = 1.0
"""Eager attention also holds the scores of every pair of tokens, and their softmax in fp32: 2 GiB for the 7B model."""

RUNTIME_BYTES = GIB // 2
"""Kernels, workspaces, and what an allocator can't reuse."""

TINY_PARAMETERS = 100_000_000
"""A smaller model is answered on the CPU before a GPU has started."""

SHORT_CONTEXTS_EXTRA_TOKENS = (1024, 640)
"""Context beside one video, for its questions and answers, where memory is short: enough for a few of them, or for
one with the longest answer that is given unasked."""

FLASH_CAPABILITY = (8, 0)
BF16_CAPABILITY = (8, 0)
"""Below it CUDA emulates bf16 and cuDNN has no bf16 convolution, which the towers begin with."""

PIP_BITSANDBYTES = "pip install -U bitsandbytes"
PIP_FLASH_ATTN = "pip install flash-attn --no-build-isolation"


@dataclass(frozen=True, kw_only=True)
class Form:
    """One way to hold a model in memory."""

    dtype: Dtype
    quantisation: Quantisation | None = None
    context_tokens: int

    @property
    def precision(self) -> Precision:
        """The form's name in --precision."""
        return self.quantisation or SHORT_NAMES[self.dtype]


@dataclass(frozen=True, kw_only=True)
class Processor:
    """A GPU, or the CPU with its RAM."""

    device: str
    name: str
    total_bytes: int
    free_bytes: int
    gpu: Accelerator | None = None

    @property
    def free_text(self) -> str:
        """ "22.1 of 24.0 GiB are free on NVIDIA GeForce RTX 4090"."""
        where = f"are free on {self.name}" if self.gpu else "of RAM are free"
        return f"{free_gib(self.free_bytes)} of {self.total_bytes / GIB:.1f} GiB {where}"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A form of the model on a processor, whether it fits or not."""

    processor: Processor
    form: Form
    needed_bytes: int

    @property
    def fits(self) -> bool:
        return self.needed_bytes <= self.processor.free_bytes


def first_fit(wishes: Wishes, hardware: Hardware, checkpoint: Checkpoint) -> Attempt | None:
    """Find the best form for these wishes on this machine; None where memory is short. Errors: WishError."""
    return next((attempt for attempt in attempts(wishes, hardware, checkpoint) if attempt.fits), None)


def attempts(wishes: Wishes, hardware: Hardware, checkpoint: Checkpoint) -> tuple[Attempt, ...]:
    """List the processors and forms to try, best first. Errors: WishError."""
    is_eager = wishes.attention == "eager"
    return tuple(
        Attempt(processor=processor, form=form, needed_bytes=needed_bytes(checkpoint, form, is_eager=is_eager))
        for processor in _processors(wishes, hardware, checkpoint)
        for form in _forms(processor, wishes, hardware, checkpoint)
    )


def is_tiny(checkpoint: Checkpoint) -> bool:
    return checkpoint.parameters < TINY_PARAMETERS


def flash_hurdle(processor: Processor, hardware: Hardware) -> str | None:
    """Say at the end of a sentence why flash-attn can't be used there; None where it can."""
    if processor.gpu is None or processor.gpu.kind not in ("cuda", "rocm"):
        return f"flash-attn runs on NVIDIA and AMD GPUs, not on {processor.name if processor.gpu else 'the CPU'}"
    capability = processor.gpu.capability
    if capability and capability < FLASH_CAPABILITY:
        return f"flash-attn needs compute capability 8.0 and {processor.name} has {version(capability)}"
    if not hardware.has_flash_attn:
        return "flash-attn is not installed"
    return None


def version(capability: tuple[int, int]) -> str:
    """(8, 9) → "8.9"."""
    return f"{capability[0]}.{capability[1]}"


def _processors(wishes: Wishes, hardware: Hardware, checkpoint: Checkpoint) -> tuple[Processor, ...]:
    """List the processors that can grant the wishes, best first.

    A wish that no GPU here can grant is refused rather than granted by the CPU: who asks for bf16 with a GPU in the
    machine doesn't expect the slowest way to get it.
    """
    candidates = _named(wishes.device, hardware) if wishes.device else _ranked(wishes, hardware, checkpoint)
    hurdles = [_hurdle(processor, wishes, hardware) for processor in candidates]
    able = tuple(processor for processor, hurdle in zip(candidates, hurdles, strict=True) if hurdle is None)
    if hurdles[0] and (not able or (candidates[0].gpu and not able[0].gpu)):
        raise WishError(hurdles[0])
    return able


def _ranked(wishes: Wishes, hardware: Hardware, checkpoint: Checkpoint) -> tuple[Processor, ...]:
    """List the GPUs, the one with the most free memory first, then the CPU; a tiny model prefers the CPU.

    A wish for flash asks for a GPU, and its refusal should speak of the GPU.
    """
    if is_tiny(checkpoint) and wishes.attention != "flash_attention_2":
        return (_cpu(hardware), *_gpus(hardware))
    return (*_gpus(hardware), _cpu(hardware))


def _named(device: str, hardware: Hardware) -> tuple[Processor, ...]:
    """List the processors that a device's name fits: "cuda" is every CUDA or ROCm GPU, "cuda:1" is one."""
    everywhere = (*_gpus(hardware), _cpu(hardware))
    found = tuple(
        processor for processor in everywhere if device in (processor.device, processor.device.partition(":")[0])
    )
    if found:
        return found
    here = ", ".join(f"{gpu.device} ({gpu.name})" for gpu in hardware.accelerators)
    has = f"{here} and cpu" if here else "only cpu"
    if not re.fullmatch(r"cpu|mps|(cuda|xpu)(:\d+)?", device):
        raise WishError(f'--device "{device}" is not the name of a device; this machine has {has}.')
    raise WishError(" ".join((f"--device {device} is not here; this machine has {has}.", *hardware.faults)))


def _gpus(hardware: Hardware) -> list[Processor]:
    by_free_memory = sorted(hardware.accelerators, key=lambda gpu: gpu.free_bytes, reverse=True)
    return [
        Processor(device=gpu.device, name=gpu.name, total_bytes=gpu.total_bytes, free_bytes=gpu.free_bytes, gpu=gpu)
        for gpu in by_free_memory
    ]


def _cpu(hardware: Hardware) -> Processor:
    return Processor(
        device="cpu",
        name=hardware.cpu_name,
        total_bytes=hardware.ram_total_bytes,
        free_bytes=hardware.ram_free_bytes,
    )


def _hurdle(processor: Processor, wishes: Wishes, hardware: Hardware) -> str | None:
    """Say why a processor can't grant the wishes, with the remedy; None where it can."""
    return _precision_hurdle(processor, wishes, hardware) or _attention_hurdle(processor, wishes, hardware)


def _precision_hurdle(processor: Processor, wishes: Wishes, hardware: Hardware) -> str | None:
    precision, capability = wishes.precision, processor.gpu.capability if processor.gpu else None
    if precision == "fp16" and not processor.gpu:
        better = "bf16" if hardware.has_cpu_bf16 else "fp32"
        # Measured: a prefill of 256 tokens took 4014 ms in fp16, 1104 ms in fp32 and 532 ms in bf16.
        slow = f"--precision fp16 is refused on the CPU, where fp16 is slower than fp32; use --precision {better}."
        return " ".join((slow, *hardware.faults))
    if precision == "bf16" and capability and capability < BF16_CAPABILITY:
        return (
            f"--precision bf16 needs compute capability 8.0 and {processor.name} has {version(capability)}; "
            "use --precision fp16."
        )
    if precision in ("4bit", "8bit") and not hardware.has_bitsandbytes:
        return f"--precision {precision} needs bitsandbytes, which is not installed; {PIP_BITSANDBYTES}."
    return None


def _attention_hurdle(processor: Processor, wishes: Wishes, hardware: Hardware) -> str | None:
    if wishes.attention != "flash_attention_2":
        return None
    hurdle = flash_hurdle(processor, hardware)
    if hurdle and processor.gpu and "installed" in hurdle:
        return f"--attention flash is refused: {hurdle}; {PIP_FLASH_ATTN}, or use --attention sdpa."
    if hurdle:
        return f"--attention flash is refused: {hurdle}; use --attention sdpa."
    if wishes.precision == "fp32":
        return "--attention flash is refused: flash-attn has no fp32; use --precision fp16 or --attention sdpa."
    return None


def _forms(processor: Processor, wishes: Wishes, hardware: Hardware, checkpoint: Checkpoint) -> tuple[Form, ...]:
    """List the forms to try on a processor, best first; the last one is tried again with shorter contexts."""
    whole = Form(dtype=_dtype(processor, wishes, hardware, checkpoint), context_tokens=checkpoint.context_tokens)
    if wishes.precision == "4bit" or wishes.precision == "8bit":
        tried = [replace(whole, quantisation=wishes.precision)]
    elif wishes.precision or not hardware.has_bitsandbytes:
        tried = [whole]
    else:
        tried = [whole, replace(whole, quantisation="4bit")]
    shorts = (min(whole.context_tokens, checkpoint.tokens_per_video + extra) for extra in SHORT_CONTEXTS_EXTRA_TOKENS)
    return (*tried, *(replace(tried[-1], context_tokens=tokens) for tokens in shorts))


def _dtype(processor: Processor, wishes: Wishes, hardware: Hardware, checkpoint: Checkpoint) -> Dtype:
    """Choose the dtype: the wished one, else the checkpoint's own on a GPU, else the fastest on this CPU."""
    if wishes.precision == "bf16":
        return "bfloat16"
    if wishes.precision == "fp32":
        return "float32"
    if processor.gpu:
        return "float16"
    return "bfloat16" if hardware.is_cpu_bf16_faster and not is_tiny(checkpoint) else "float32"


def needed_bytes(checkpoint: Checkpoint, form: Form, *, is_eager: bool = False) -> int:
    """Count all bytes that one device must hold for a conversation of `form.context_tokens`."""
    cache = checkpoint.cache_values_per_token * form.context_tokens * _value_bytes(form.dtype)
    activations = cache * (EAGER_ACTIVATIONS_PER_CACHE if is_eager else ACTIVATIONS_PER_CACHE)
    return int(weight_bytes(checkpoint, form) + cache + activations) + RUNTIME_BYTES


def weight_bytes(checkpoint: Checkpoint, form: Form) -> float:
    """Count the bytes of all weights in memory."""
    value_bytes = _value_bytes(form.dtype)
    matrix_bytes = {"4bit": NF4_BYTES, "8bit": 1.0, None: value_bytes}[form.quantisation]
    return checkpoint.language_parameters * matrix_bytes + checkpoint.other_parameters * value_bytes


def gib(size_bytes: float) -> str:
    """Rounded up, so that what is needed never looks smaller than what is free: 17_968_398_336 → "16.8 GiB"."""
    return f"{math.ceil(size_bytes / GIB * 10) / 10:.1f} GiB"


def free_gib(size_bytes: float) -> str:
    """Rounded down, without the unit: 17_968_398_336 → "16.7"."""
    return f"{math.floor(size_bytes / GIB * 10) / 10:.1f}"


def _value_bytes(dtype: Dtype) -> int:
    return 4 if dtype == "float32" else 2
