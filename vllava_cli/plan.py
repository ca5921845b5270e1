"""plan(wishes, hardware, checkpoint) -> LoadPlan: the choices of `fit`, each with its reason as a sentence. Pure.

The rule, in order: the GPU with the most free memory in fp16, in 4bit, then the CPU in bf16 or fp32, in 4bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from vllava_cli.errors import MemoryShortError
from vllava_cli.fit import (
    FLASH_CAPABILITY,
    GIB,
    PIP_BITSANDBYTES,
    PIP_FLASH_ATTN,
    Attempt,
    Form,
    Processor,
    attempts,
    first_fit,
    flash_hurdle,
    free_gib,
    gib,
    is_tiny,
    needed_bytes,
    version,
)
from vllava_cli.nouns import Accelerator, Attention, Checkpoint, Hardware, LoadPlan, Quantisation, Wishes

FAST_FP16_CAPABILITY = (7, 0)

SYSTEM_SHARE = 0.15
"""The part of a memory that the system and a desktop keep when all other programs are closed."""


def plan(wishes: Wishes, hardware: Hardware, checkpoint: Checkpoint) -> LoadPlan:
    """Errors: WishError for a wish that can't be granted here, MemoryShortError where nothing fits."""
    tried = attempts(wishes, hardware, checkpoint)
    chosen = next((attempt for attempt in tried if attempt.fits), None)
    if chosen is None:
        raise MemoryShortError(_shortage(wishes, hardware, checkpoint))
    attention, attention_reason = _attention(chosen, wishes, hardware)
    is_short = chosen.form.context_tokens < checkpoint.context_tokens
    threads, threads_reason = _threads(chosen, hardware)
    return LoadPlan(
        device=chosen.processor.device,
        dtype=chosen.form.dtype,
        quantisation=chosen.form.quantisation,
        attention=attention,
        needed_bytes=chosen.needed_bytes,
        context_tokens=chosen.form.context_tokens if is_short else None,
        device_reason=_device_reason(chosen, tried, wishes, checkpoint),
        dtype_reason=_dtype_reason(chosen, wishes, hardware, checkpoint),
        quantisation_reason=_quantisation_reason(chosen, tried, wishes, checkpoint),
        attention_reason=attention_reason,
        threads=threads,
        threads_reason=threads_reason,
    )


def advise(plan: LoadPlan, hardware: Hardware, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Suggest in sentences what would make this plan faster or more exact; empty where nothing would."""
    if is_tiny(checkpoint):
        return ()
    if plan.device == "cpu":
        return (*hardware.faults, _gpu_advice(hardware, checkpoint), *_cpu_advice(plan, hardware, checkpoint))
    gpu = next(gpu for gpu in hardware.accelerators if gpu.device == plan.device)
    return (*_exactness_advice(plan, gpu, checkpoint), *_flash_advice(plan, gpu, hardware))


def _device_reason(chosen: Attempt, tried: tuple[Attempt, ...], wishes: Wishes, checkpoint: Checkpoint) -> str:
    processor = chosen.processor
    free = processor.free_text
    if wishes.device:
        return f"--device {wishes.device} was asked for; {free}."
    if processor.gpu:
        rivals = {attempt.processor.device for attempt in tried if attempt.processor.gpu}
        most = " and no other GPU has more" if len(rivals) > 1 else ""
        return f"A GPU is the fastest place; {free}{most}."
    if is_tiny(checkpoint):
        return f"The model is so small that a GPU would take longer to start than the CPU to answer; {free}."
    if tried[0].processor.gpu:
        least = [attempt for attempt in tried if attempt.processor == tried[0].processor][-1]
        return f"No GPU has room: {_need(least, checkpoint)} and {least.processor.free_text}; the CPU is much slower."
    return f"There is no GPU that torch can use; {free}."


def _dtype_reason(chosen: Attempt, wishes: Wishes, hardware: Hardware, checkpoint: Checkpoint) -> str:
    if wishes.precision in ("fp16", "bf16", "fp32"):
        slow = chosen.processor.gpu is None and wishes.precision == "bf16" and not hardware.has_cpu_bf16
        but = ", though this CPU has no instructions for it, which makes it slow" if slow else ""
        return f"--precision {wishes.precision} was asked for{but}; {_fit_text(chosen, checkpoint)}."
    if chosen.processor.gpu:
        return f"The checkpoint was released in fp16{_old_gpu(chosen.processor)}; {_fit_text(chosen, checkpoint)}."
    if is_tiny(checkpoint):
        millions = checkpoint.parameters / 1e6
        few = f"With {millions:.1f} million parameters 16 bits gain nothing and fp32 is exact"
        return f"{few}; {_fit_text(chosen, checkpoint)}."
    if hardware.cpu_bf16_gain is not None:
        share = 1 / hardware.cpu_bf16_gain
        return f"In bf16 this CPU was measured to take {share:.2f} of fp32's time; {_fit_text(chosen, checkpoint)}."
    if hardware.has_cpu_bf16:
        return f"This CPU has bf16 instructions, which are faster than fp32; {_fit_text(chosen, checkpoint)}."
    return f"This CPU has no bf16 instructions, so fp32 is its fastest; {_fit_text(chosen, checkpoint)}."


def _quantisation_reason(chosen: Attempt, tried: tuple[Attempt, ...], wishes: Wishes, checkpoint: Checkpoint) -> str:
    if chosen.form.quantisation is None:
        return f"None is needed: {_fit_text(chosen, checkpoint)}."
    if wishes.precision:
        return f"--precision {wishes.precision} was asked for; {_fit_text(chosen, checkpoint)}."
    whole = next(attempt for attempt in tried if attempt.processor == chosen.processor)
    return f"There is no room for {whole.form.precision}: {_need(whole, checkpoint)}, {_fit_text(chosen, checkpoint)}."


def _attention(chosen: Attempt, wishes: Wishes, hardware: Hardware) -> tuple[Attention, str]:
    if wishes.attention:
        word = "flash" if wishes.attention == "flash_attention_2" else wishes.attention
        return wishes.attention, f"--attention {word} was asked for."
    hurdle = flash_hurdle(chosen.processor, hardware)
    if hurdle is None and chosen.form.dtype == "float32":
        hurdle = "flash-attn has no fp32"
    capability = chosen.processor.gpu.capability if chosen.processor.gpu else None
    if hurdle is None and capability:
        return (
            "flash_attention_2",
            f"Flash-attn is installed and the GPU's compute capability is {version(capability)}.",
        )
    # On AMD GPUs whether flash-attn works depends on how it was built, which can't be seen from here.
    return "sdpa", f"PyTorch's own attention: {hurdle or 'on AMD GPUs flash-attn is used only when it is asked for'}."


def _threads(chosen: Attempt, hardware: Hardware) -> tuple[int | None, str]:
    """Hyper-threads share the units that products of matrices keep busy, so physical cores count."""
    if chosen.processor.gpu:
        return None, ""
    return hardware.cpu_cores, "One for each physical core that this process may use; OMP_NUM_THREADS overrides it."


def _old_gpu(processor: Processor) -> str:
    """Explain fp16 on a GPU before Volta: it isn't faster than fp32 there, but takes half the memory."""
    capability = processor.gpu.capability if processor.gpu else None
    if capability is None or capability >= FAST_FP16_CAPABILITY:
        return ""
    return f" and compute capability {version(capability)} computes it no faster than fp32, but in half the memory"


def _need(attempt: Attempt, checkpoint: Checkpoint) -> str:
    """ "4bit needs 7.4 GiB with a context of 3080 tokens"."""
    is_short = attempt.form.context_tokens < checkpoint.context_tokens
    context = f" with a context of {attempt.form.context_tokens} tokens" if is_short else ""
    return f"{attempt.form.precision} needs {gib(attempt.needed_bytes)}{context}"


def _fit_text(attempt: Attempt, checkpoint: Checkpoint) -> str:
    """ "4bit needs 8.4 GiB and 15.2 of 15.6 GiB are free on Tesla T4"."""
    return f"{_need(attempt, checkpoint)} and {attempt.processor.free_text}"


def _room_text(attempt: Attempt, checkpoint: Checkpoint) -> str:
    """ "4bit needs 8.4 GiB and fits into the 15.6 GiB of Tesla T4"."""
    owner = attempt.processor.name if attempt.processor.gpu else "RAM"
    return f"{_need(attempt, checkpoint)} and fits into the {attempt.processor.total_bytes / GIB:.1f} GiB of {owner}"


def _shortage(wishes: Wishes, hardware: Hardware, checkpoint: Checkpoint) -> str:
    """Say what the model needs at least on each processor, the first change that would make it fit, and broken GPUs."""
    least = {attempt.processor.device: attempt for attempt in attempts(wishes, hardware, checkpoint)}
    shorts = "; ".join(_fit_text(attempt, checkpoint) for attempt in least.values())
    remedy = "A machine with more memory is needed; --model demo runs on any."
    for change in _changes(wishes, hardware):
        found = first_fit(change.wishes, change.hardware, checkpoint)
        if found:
            remedy = f"{change.words}: {_room_text(found, checkpoint)}."
            break
    return " ".join((f"There is not enough memory for {checkpoint.model}: {shorts}. {remedy}", *hardware.faults))


@dataclass(frozen=True, kw_only=True)
class _Change:
    """Something that a user can do, and what it makes of the wishes and the machine."""

    words: str
    wishes: Wishes
    hardware: Hardware


def _changes(wishes: Wishes, hardware: Hardware) -> Iterator[_Change]:
    """Yield changes from the easiest on: fewer wishes, then bitsandbytes, then closed programs, then both."""
    anything = replace(wishes, device=None, precision=None)
    has_more = replace(hardware, has_bitsandbytes=True)
    if wishes.precision:
        yield _Change(words="Leave --precision out", wishes=replace(wishes, precision=None), hardware=hardware)
    if wishes.device:
        flags = "--device and --precision" if wishes.precision else "--device"
        yield _Change(words=f"Leave {flags} out", wishes=anything, hardware=hardware)
    if not hardware.has_bitsandbytes:
        yield _Change(words=f"Install bitsandbytes ({PIP_BITSANDBYTES})", wishes=anything, hardware=has_more)
    yield _Change(words="Close other programs", wishes=anything, hardware=_emptied(hardware))
    if not hardware.has_bitsandbytes:
        both = f"Close other programs and install bitsandbytes ({PIP_BITSANDBYTES})"
        yield _Change(words=both, wishes=anything, hardware=_emptied(has_more))


def _emptied(hardware: Hardware) -> Hardware:
    """Empty the machine of other programs; never less memory is free than now."""

    def free(total_bytes: int, free_bytes: int) -> int:
        return max(free_bytes, int(total_bytes * (1 - SYSTEM_SHARE)))

    gpus = (replace(gpu, free_bytes=free(gpu.total_bytes, gpu.free_bytes)) for gpu in hardware.accelerators)
    ram_free_bytes = free(hardware.ram_total_bytes, hardware.ram_free_bytes)
    return replace(hardware, accelerators=tuple(gpus), ram_free_bytes=ram_free_bytes)


def _gpu_advice(hardware: Hardware, checkpoint: Checkpoint) -> str:
    """Say how the model would come from the CPU to a GPU."""
    now = _Change(words="Leave --device and --precision out", wishes=Wishes(), hardware=hardware)
    for change in (now, *_changes(Wishes(), hardware)):
        found = first_fit(change.wishes, change.hardware, checkpoint)
        if found and found.processor.gpu:
            return f"{change.words}: {_room_text(found, checkpoint)}, which is much faster than the CPU."
    nf4, fp16 = gib(_gpu_bytes(checkpoint, quantisation="4bit")), gib(_gpu_bytes(checkpoint, quantisation=None))
    return f"A GPU with {nf4} of free memory (4bit) or {fp16} (fp16) is much faster than the CPU."


def _cpu_advice(plan: LoadPlan, hardware: Hardware, checkpoint: Checkpoint) -> Iterator[str]:
    """Suggest 4bit for fp32, where a token takes as long as it takes to read the weights."""
    if plan.dtype == "float32" and plan.quantisation is None:
        form = Form(dtype=plan.dtype, quantisation="4bit", context_tokens=checkpoint.context_tokens)
        install = "" if hardware.has_bitsandbytes else f" after {PIP_BITSANDBYTES}"
        sizes = f"{gib(needed_bytes(checkpoint, form))} instead of {gib(plan.needed_bytes)}"
        yield f"--precision 4bit{install} may be faster, as it needs {sizes}, but it is less exact."


def _exactness_advice(plan: LoadPlan, gpu: Accelerator, checkpoint: Checkpoint) -> Iterator[str]:
    fp16_bytes = _gpu_bytes(checkpoint, quantisation=None)
    if plan.quantisation is None:
        return
    if fp16_bytes <= gpu.free_bytes:
        sizes = f"it needs {gib(fp16_bytes)} and {free_gib(gpu.free_bytes)} GiB are free"
        yield f"--precision fp16 is more exact, and fits: {sizes}."
    elif fp16_bytes <= gpu.total_bytes * (1 - SYSTEM_SHARE):
        yield f"Close other programs that use {gpu.name}: with {gib(fp16_bytes)} free, fp16 fits, which is more exact."


def _flash_advice(plan: LoadPlan, gpu: Accelerator, hardware: Hardware) -> Iterator[str]:
    can_flash = gpu.kind == "cuda" and gpu.capability is not None and gpu.capability >= FLASH_CAPABILITY
    if can_flash and not hardware.has_flash_attn and plan.dtype != "float32":
        yield f"Install flash-attn ({PIP_FLASH_ATTN}; it needs nvcc): it may shorten the time to the first token."


def _gpu_bytes(checkpoint: Checkpoint, *, quantisation: Quantisation | None) -> int:
    form = Form(dtype="float16", quantisation=quantisation, context_tokens=checkpoint.context_tokens)
    return needed_bytes(checkpoint, form)
