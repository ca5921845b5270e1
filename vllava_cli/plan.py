"""plan(wishes, hardware, checkpoint) -> LoadPlan: where and how a model is loaded, each choice with its reason. Pure.

`plan` tries each GPU, the one with the most free memory first, in fp16 and in 4bit; then the CPU in 16, 8 and 4 bits.
It takes the first with enough memory for weights, KV cache, activations and the libraries; on a CPU that was measured,
a less exact form only if it is much faster. A wish that can't be granted is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from vllava_cli.cpu_time import HASTE, Expected, expected, wide_dtype
from vllava_cli.errors import MemoryShortError, WishError
from vllava_cli.machine import CpuSpeed, Hardware, Processor
from vllava_cli.memory import GIB, free_gib, gib, held_bytes, needed_bytes
from vllava_cli.nouns import (
    SHORT_NAMES,
    Attention,
    Checkpoint,
    Dtype,
    LoadPlan,
    Precision,
    Quantisation,
    Wishes,
)

TINY_PARAMETERS = 100_000_000
"""With a smaller model the CPU has answered before a GPU has started."""

SHORT_CONTEXTS_EXTRA_TOKENS = (1024, 640)
"""Context besides one video, for its questions and answers, where memory is short: enough for a few of them, or for one
with the longest answer that the default allows."""

SYSTEM_SHARE = 0.15
"""The part of a memory that the system and a desktop keep when all other programs are closed."""

HELD_FORMS: tuple[Quantisation, ...] = ("8bit", "4bit")
"""The forms that a CPU may hold the weights in besides 16 bits, the most exact first."""

FAST_FP16_CAPABILITY = (7, 0)
FLASH_CAPABILITY = (8, 0)
BF16_CAPABILITY = (8, 0)
"""Below it CUDA emulates bf16 and cuDNN has no bf16 convolution, which the towers begin with."""

PIP_BITSANDBYTES = "pip install -U bitsandbytes"
PIP_FLASH_ATTN = "pip install flash-attn --no-build-isolation"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A processor, a precision and a context that a model may be loaded for; `fits` says if the memory is enough."""

    checkpoint: Checkpoint
    processor: Processor
    dtype: Dtype
    dtype_reason: str
    quantisation: Quantisation | None = None
    wide_dtype: Dtype = "float32"
    context_tokens: int
    is_eager: bool
    speed: CpuSpeed | None = None

    @property
    def precision(self) -> Precision:
        return self.quantisation or SHORT_NAMES[self.dtype]

    @property
    def is_short(self) -> bool:
        return self.context_tokens < self.checkpoint.context_tokens

    @property
    def is_held(self) -> bool:
        """True if the CPU holds the weights in fewer than 32 bits."""
        return not self.processor.is_gpu and self.precision != "fp32"

    @property
    def needed_bytes(self) -> int:
        if self.is_held:
            cache_bytes = self.speed.cache_bytes if self.speed else 2
            return held_bytes(
                self.checkpoint, self.quantisation, self.wide_dtype, self.context_tokens, cache_bytes, self.is_eager
            )
        return needed_bytes(self.checkpoint, self.dtype, self.quantisation, self.context_tokens, is_eager=self.is_eager)

    @property
    def expected(self) -> Expected | None:
        """How long an answer takes, if the attempt is for a CPU that was measured."""
        return expected(self.checkpoint, self.precision, self.speed) if self.speed else None

    @property
    def fits(self) -> bool:
        return self.needed_bytes <= self.processor.free_bytes

    @property
    def need(self) -> str:
        """A clause of a message: "4bit needs 7.4 GiB with a context of 3080 tokens"."""
        context = f" with a context of {self.context_tokens} tokens" if self.is_short else ""
        return f"{self.precision} needs {gib(self.needed_bytes)}{context}"

    @property
    def need_and_free(self) -> str:
        """A clause of a message: "4bit needs 8.4 GiB and 15.2 of 15.6 GiB are free on Tesla T4"."""
        return f"{self.need} and {_free_text(self.processor)}"

    @property
    def need_and_total(self) -> str:
        """A clause of a message: "4bit needs 8.4 GiB and fits into the 15.6 GiB of Tesla T4"."""
        owner = self.processor.name if self.processor.is_gpu else "RAM"
        return f"{self.need} and fits into the {self.processor.total_bytes / GIB:.1f} GiB of {owner}"


def plan(wishes: Wishes, hardware: Hardware, checkpoint: Checkpoint) -> LoadPlan:
    """Chooses the first attempt that fits. Errors: WishError for a wish that can't be granted, MemoryShortError."""
    tried = attempts(wishes, hardware, checkpoint)
    fitting = [attempt for attempt in tried if attempt.fits]
    if not fitting:
        raise MemoryShortError(_shortage(tried, wishes, hardware, checkpoint))
    chosen = _most_exact(fitting)
    attention, attention_reason = _attention(chosen, wishes, hardware)
    is_cpu = not chosen.processor.is_gpu
    return LoadPlan(
        device=chosen.processor.device,
        dtype=chosen.dtype,
        quantisation=chosen.quantisation,
        attention=attention,
        needed_bytes=chosen.needed_bytes,
        context_tokens=chosen.context_tokens if chosen.is_short else None,
        device_reason=f"{_device_reason(chosen, tried, wishes)}.",
        dtype_reason=f"{chosen.dtype_reason}; {chosen.need_and_free}.",
        forms=tuple((each.precision, _form(each)) for each in tried if each.expected and not each.is_short),
        is_held=chosen.is_held,
        wide_dtype=chosen.wide_dtype,
        quantisation_reason=f"{_quantisation_reason(chosen, tried, wishes)}{chosen.need_and_free}{_time(chosen)}.",
        attention_reason=attention_reason,
        # Hyper-threads share the units that products of matrices keep busy, so physical cores count.
        threads=hardware.cpu_cores if is_cpu else None,
        threads_reason=(
            "One for each physical core that this process may use; OMP_NUM_THREADS overrides it." if is_cpu else ""
        ),
    )


def _most_exact(fitting: list[Attempt]) -> Attempt:
    """Returns the first attempt; on a measured CPU, the first that takes little more time than the fastest."""
    first = fitting[0]
    rivals = [each for each in fitting if each.processor == first.processor and each.is_short == first.is_short]
    times = [(each, each.expected.answer_s) for each in rivals if each.expected]
    if first.expected is None or not times:
        return first
    least_s = min(answer_s for _, answer_s in times)
    return next(each for each, answer_s in times if answer_s <= HASTE * least_s)


def advise(plan: LoadPlan, hardware: Hardware, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Returns sentences that say what would make this plan faster or more exact; empty if nothing would."""
    if is_tiny(checkpoint):
        return ()
    advice = []
    if plan.device == "cpu":
        advice += [*hardware.faults, _gpu_advice(hardware, checkpoint)]
        return tuple(advice)
    gpu = next(gpu for gpu in hardware.accelerators if gpu.device == plan.device)
    fp16_bytes = needed_bytes(checkpoint, "float16")
    if plan.quantisation and fp16_bytes <= gpu.free_bytes:
        sizes = f"it needs {gib(fp16_bytes)} and {free_gib(gpu.free_bytes)} GiB are free"
        advice.append(f"--precision fp16 is more exact, and fits: {sizes}.")
    elif plan.quantisation and fp16_bytes <= gpu.total_bytes * (1 - SYSTEM_SHARE):
        fits = f"with {gib(fp16_bytes)} free, fp16 fits, which is more exact"
        advice.append(f"Close other programs that use {gpu.name}: {fits}.")
    can_flash = gpu.kind == "cuda" and gpu.capability is not None and gpu.capability >= FLASH_CAPABILITY
    if can_flash and not hardware.has_flash_attn and plan.dtype != "float32":
        advice.append(
            f"Install flash-attn ({PIP_FLASH_ATTN}; it needs nvcc): it may shorten the time to the first token."
        )
    return tuple(advice)


def attempts(wishes: Wishes, hardware: Hardware, checkpoint: Checkpoint) -> tuple[Attempt, ...]:
    """Lists what to try, best first. On each processor the last precision is tried again with shorter contexts.

    Errors: WishError.
    """
    found: list[Attempt] = []
    for processor in _processors(wishes, hardware, checkpoint):
        dtype, reason = _dtype(processor, wishes, checkpoint)
        speed = None if processor.is_gpu else hardware.cpu_speed
        usual: Dtype = "bfloat16" if hardware.has_cpu_bf16 else "float32"
        whole = Attempt(
            checkpoint=checkpoint,
            processor=processor,
            dtype=dtype,
            dtype_reason=reason,
            wide_dtype=wide_dtype(speed) if speed else usual,
            speed=speed,
            context_tokens=checkpoint.context_tokens,
            is_eager=wishes.attention == "eager",
        )
        computes = f"The CPU computes in {SHORT_NAMES[whole.wide_dtype]}, into which it unpacks the weights"
        quantised = whole if processor.is_gpu else replace(whole, dtype=whole.wide_dtype, dtype_reason=computes)
        if wishes.precision == "4bit" or wishes.precision == "8bit":
            found.append(replace(quantised, quantisation=wishes.precision))
        elif wishes.precision or (processor.is_gpu and not hardware.has_bitsandbytes):
            found.append(whole)
        elif processor.is_gpu or whole.precision == "fp32":
            found += [whole, replace(quantised, quantisation="4bit")]
        else:
            found += [whole, *(replace(quantised, quantisation=each) for each in HELD_FORMS)]
        contexts = [checkpoint.tokens_per_video + extra for extra in SHORT_CONTEXTS_EXTRA_TOKENS]
        found += [replace(found[-1], context_tokens=min(whole.context_tokens, tokens)) for tokens in contexts]
    return tuple(found)


def is_tiny(checkpoint: Checkpoint) -> bool:
    return checkpoint.parameters < TINY_PARAMETERS


def _processors(wishes: Wishes, hardware: Hardware, checkpoint: Checkpoint) -> list[Processor]:
    """Lists the processors that can grant the wishes, best first: GPUs by free memory, then the CPU.

    For a tiny model the CPU comes first. If there is a GPU but only the CPU can grant the precision or the attention,
    the wish is refused: a user who asks for bf16 on a machine with a GPU doesn't expect the slowest way to get it.
    Errors: WishError with the reason of the best processor.
    """
    gpus = sorted(hardware.accelerators, key=lambda gpu: gpu.free_bytes, reverse=True)
    candidates = [*gpus, hardware.cpu]
    if wishes.device:
        candidates = _named(wishes.device, candidates, hardware)
    elif is_tiny(checkpoint) and wishes.attention != "flash_attention_2":
        candidates = [hardware.cpu, *gpus]
    hurdles = [_hurdle(each, wishes, hardware) for each in candidates]
    able = [processor for processor, hurdle in zip(candidates, hurdles, strict=True) if hurdle is None]
    if hurdles[0] and (not able or (candidates[0].is_gpu and not able[0].is_gpu)):
        raise WishError(hurdles[0])
    return able


def _named(device: str, processors: list[Processor], hardware: Hardware) -> list[Processor]:
    """Lists the processors of this name: "cuda" is every CUDA or ROCm GPU, "cuda:1" is one. Errors: WishError."""
    if found := [each for each in processors if device in (each.device, each.device.partition(":")[0])]:
        return found
    here = ", ".join(f"{gpu.device} ({gpu.name})" for gpu in hardware.accelerators)
    has = f"{here} and cpu" if here else "only cpu"
    if not re.fullmatch(r"cpu|mps|(cuda|xpu)(:\d+)?", device):
        raise WishError(f'--device "{device}" is not the name of a device; this machine has {has}.')
    raise WishError(" ".join((f"--device {device} is not available; this machine has {has}.", *hardware.faults)))


def _hurdle(processor: Processor, wishes: Wishes, hardware: Hardware) -> str | None:
    """Says in a sentence why a processor can't grant precision and attention, with the remedy; None if it can."""
    precision, capability = wishes.precision, processor.capability
    if precision == "bf16" and capability and capability < BF16_CAPABILITY:
        needs = f"--precision bf16 needs compute capability 8.0 and {processor.name} has {_version(capability)}"
        return f"{needs}; use --precision fp16."
    if precision in ("4bit", "8bit") and processor.is_gpu and not hardware.has_bitsandbytes:
        return f"--precision {precision} needs bitsandbytes, which is not installed; {PIP_BITSANDBYTES}."
    if wishes.attention != "flash_attention_2":
        return None
    hurdle, remedy = _flash_hurdle(processor, hardware, is_fp32=precision == "fp32")
    return f"--attention flash is refused: {hurdle}; {remedy} --attention sdpa." if hurdle else None


def _flash_hurdle(processor: Processor, hardware: Hardware, *, is_fp32: bool) -> tuple[str, str]:
    """Returns a clause that says why flash-attn can't be used here, "" if it can, and the remedy besides sdpa."""
    capability = processor.capability
    if processor.kind not in ("cuda", "rocm"):
        name = processor.name if processor.is_gpu else "the CPU"
        return f"flash-attn runs on NVIDIA and AMD GPUs, not on {name}", "use"
    if capability and capability < FLASH_CAPABILITY:
        return f"flash-attn needs compute capability 8.0 and {processor.name} has {_version(capability)}", "use"
    if not hardware.has_flash_attn:
        return "flash-attn is not installed", f"{PIP_FLASH_ATTN}, or use"
    return ("flash-attn has no fp32", "use --precision fp16 or") if is_fp32 else ("", "")


def _dtype(processor: Processor, wishes: Wishes, checkpoint: Checkpoint) -> tuple[Dtype, str]:
    """Chooses the dtype, and says why: the wished one, else float16 on a GPU, else 16 bits on the CPU."""
    capability, precision = processor.capability, wishes.precision
    if precision in ("fp16", "bf16", "fp32"):
        wished = next(dtype for dtype, name in SHORT_NAMES.items() if name == precision)
        return wished, f"--precision {precision} was asked for"
    if processor.is_gpu:
        slow = "computes it no faster than fp32, but in half the memory"
        is_old = capability is not None and capability < FAST_FP16_CAPABILITY
        old = f" and compute capability {_version(capability)} {slow}" if capability and is_old else ""
        return "float16", f"The checkpoint was released in fp16{old}"
    if is_tiny(checkpoint):
        millions = checkpoint.parameters / 1e6
        return "float32", f"With {millions:.1f} million parameters 16 bits gain nothing and fp32 is exact"
    held = checkpoint.dtype if checkpoint.dtype != "float32" else "bfloat16"
    return held, "The CPU holds the weights in 16 bits and unpacks them as it computes"


def _device_reason(chosen: Attempt, tried: tuple[Attempt, ...], wishes: Wishes) -> str:
    processor, first = chosen.processor, tried[0].processor
    free = _free_text(processor)
    if wishes.device:
        return f"--device {wishes.device} was asked for; {free}"
    if processor.is_gpu:
        rivals = {attempt.processor.device for attempt in tried if attempt.processor.is_gpu}
        return f"A GPU is the fastest device; {free}{' and no other GPU has more' if len(rivals) > 1 else ''}"
    if is_tiny(chosen.checkpoint):
        return f"The model is so small that a GPU would take longer to start than the CPU to answer; {free}"
    if first.is_gpu:
        least = [attempt for attempt in tried if attempt.processor == first][-1]
        return f"No GPU has room: {least.need_and_free}; the CPU is much slower"
    return f"There is no GPU that torch can use; {free}"


def _quantisation_reason(chosen: Attempt, tried: tuple[Attempt, ...], wishes: Wishes) -> str:
    if chosen.quantisation is None:
        return "None is needed: "
    if wishes.precision:
        return f"--precision {wishes.precision} was asked for; "
    whole = next(attempt for attempt in tried if attempt.processor == chosen.processor)
    if whole.fits and whole.expected:
        return f"{whole.precision} would take longer ({whole.expected.text}); "
    return f"The memory is too small for {whole.precision}: {whole.need}, "


def _time(chosen: Attempt) -> str:
    """A clause of a message: "; measured here: first word in about 4 min, then 0.5 s a token"."""
    return f"; measured here: {chosen.expected.text}" if chosen.expected else ""


def _form(attempt: Attempt) -> str:
    """A clause of a message: "10.7 GiB, first word in about 4 min, then 0.5 s a token"."""
    time = f", {attempt.expected.text}" if attempt.expected and attempt.fits else ""
    return f"{gib(attempt.needed_bytes)}{time or ', more than is free'}"


def _attention(chosen: Attempt, wishes: Wishes, hardware: Hardware) -> tuple[Attention, str]:
    if wishes.attention:
        return wishes.attention, f"--attention {wishes.attention.partition('_')[0]} was asked for."
    hurdle, _ = _flash_hurdle(chosen.processor, hardware, is_fp32=chosen.dtype == "float32")
    capability = chosen.processor.capability
    if not hurdle and capability:
        reason = f"Flash-attn is installed and the GPU's compute capability is {_version(capability)}."
        return "flash_attention_2", reason
    # On AMD GPUs whether flash-attn works depends on how it was built, which can't be seen from here.
    return "sdpa", f"PyTorch's own attention: {hurdle or 'on AMD GPUs flash-attn is used only when it is asked for'}."


def _free_text(processor: Processor) -> str:
    """A clause of a message: "22.1 of 24.0 GiB are free on NVIDIA GeForce RTX 4090"."""
    where = f"are free on {processor.name}" if processor.is_gpu else "of RAM are free"
    return f"{free_gib(processor.free_bytes)} of {processor.total_bytes / GIB:.1f} GiB {where}"


def _version(capability: tuple[int, int]) -> str:
    """Writes a compute capability: (8, 9) → "8.9"."""
    return f"{capability[0]}.{capability[1]}"


def _shortage(tried: tuple[Attempt, ...], wishes: Wishes, hardware: Hardware, checkpoint: Checkpoint) -> str:
    """Writes what the model needs at least on each processor, the first change with which it fits, and GPUs' faults."""
    least = {attempt.processor.device: attempt.need_and_free for attempt in tried}
    fitting = _fitting(_changes(wishes, hardware), checkpoint)
    remedy = next(
        (f"{words}: {found.need_and_total}." for words, found in fitting),
        "A machine with more memory is needed; --model demo runs on any.",
    )
    shorts = "; ".join(least.values())
    return " ".join((f"There is not enough memory for {checkpoint.model}: {shorts}. {remedy}", *hardware.faults))


_Change = tuple[str, Wishes, Hardware]
"""Words for something that a user can do, and what it makes of the wishes and the machine."""


def _changes(wishes: Wishes, hardware: Hardware) -> Iterator[_Change]:
    """Yields changes, the easiest first: fewer wishes, then bitsandbytes, then closed programs, then both."""
    anything = replace(wishes, device=None, precision=None)
    has_more = replace(hardware, has_bitsandbytes=True)
    if wishes.precision:
        yield "Leave --precision out", replace(wishes, precision=None), hardware
    if wishes.device:
        yield f"Leave --device{' and --precision' if wishes.precision else ''} out", anything, hardware
    if not hardware.has_bitsandbytes:
        yield f"Install bitsandbytes ({PIP_BITSANDBYTES})", anything, has_more
    yield "Close other programs", anything, _emptied(hardware)
    if not hardware.has_bitsandbytes:
        yield f"Close other programs and install bitsandbytes ({PIP_BITSANDBYTES})", anything, _emptied(has_more)


def _fitting(changes: Iterator[_Change], checkpoint: Checkpoint) -> Iterator[tuple[str, Attempt]]:
    """Yields each change with which the model fits, as its words and the attempt that fits. Errors: WishError."""
    for words, wishes, hardware in changes:
        found = next((attempt for attempt in attempts(wishes, hardware, checkpoint) if attempt.fits), None)
        if found:
            yield words, found


def _emptied(hardware: Hardware) -> Hardware:
    """Returns the hardware as if other programs were closed; free memory is never less than now."""
    processors = [*hardware.accelerators, hardware.cpu]
    free = [max(each.free_bytes, int(each.total_bytes * (1 - SYSTEM_SHARE))) for each in processors]
    gpus = tuple(replace(gpu, free_bytes=size) for gpu, size in zip(hardware.accelerators, free, strict=False))
    return replace(hardware, accelerators=gpus, ram_free_bytes=free[-1])


def _gpu_advice(hardware: Hardware, checkpoint: Checkpoint) -> str:
    """Says what a user must change so that the model runs on a GPU instead of the CPU."""
    now: _Change = ("Leave --device and --precision out", Wishes(), hardware)
    for words, found in _fitting(iter([now, *_changes(Wishes(), hardware)]), checkpoint):
        if found.processor.is_gpu:
            return f"{words}: {found.need_and_total}, which is much faster than the CPU."
    nf4, fp16 = gib(needed_bytes(checkpoint, "float16", "4bit")), gib(needed_bytes(checkpoint, "float16"))
    return f"A GPU with {nf4} of free memory (4bit) or {fp16} (fp16) is much faster than the CPU."
