"""What is chosen on which machine, what is refused with which words, and what holds on every machine."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.machines import (
    BUSY_4090,
    DEMO,
    GIB,
    GTX_1050,
    H100,
    M2_16,
    MACHINES,
    RTX_2060,
    RTX_3060,
    RTX_4060,
    RTX_4060_DESKTOP,
    RTX_4080,
    RTX_4090,
    RX_7600,
    RX_7900,
    SEVEN_B,
    T4,
    Machine,
    box,
    gpu,
    second,
)
from tests.refusals import refused
from vllava_cli.errors import MemoryShortError, WishError
from vllava_cli.machine import Hardware, Processor
from vllava_cli.memory import free_gib, gib, held_bytes, needed_bytes
from vllava_cli.nouns import (
    Attention,
    Checkpoint,
    LoadPlan,
    MediaKind,
    Precision,
    Wishes,
)
from vllava_cli.plan import advise, plan

VIDEOS = SEVEN_B.seeing(["video"])


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_the_7b_model_on_each_machine(machine: Machine) -> None:
    if machine.device is None:
        with pytest.raises(MemoryShortError, match=r"There is not enough memory for LanguageBind/Video-LLaVA-7B-hf: "):
            plan(Wishes(), machine.hardware, VIDEOS)
        return
    made = plan(Wishes(), machine.hardware, VIDEOS)
    chosen = (made.device, made.dtype, made.quantisation, made.attention, made.context_tokens)
    assert chosen == machine[2:]


@pytest.mark.parametrize(
    ("card", "kinds", "device", "context_tokens"),
    [
        (RTX_4060, ("video",), "cuda:0", None),
        (RTX_4060, ("video", "image"), "cuda:0", 3080),
        (RTX_4060_DESKTOP, ("video",), "cuda:0", 2696),
        (RTX_4060_DESKTOP, ("image",), "cuda:0", 2696),
        (RTX_4060_DESKTOP, ("video", "image"), "cpu", None),
        (RTX_4060_DESKTOP, (), "cuda:0", 3080),
        (RX_7600, ("video",), "cuda:0", 3080),
    ],
)
def test_a_tower_that_is_not_loaded_leaves_room_on_a_small_card(
    card: Processor, kinds: tuple[MediaKind, ...], device: str, context_tokens: int | None
) -> None:
    made = plan(Wishes(), box(card, bf16=True), SEVEN_B.seeing(kinds))
    assert (made.device, made.context_tokens) == (device, context_tokens)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_the_demo_runs_on_every_cpu_in_fp32(machine: Machine) -> None:
    made = plan(Wishes(model="demo"), machine.hardware, DEMO)
    assert (made.device, made.dtype, made.quantisation, made.attention) == ("cpu", "float32", None, "sdpa")
    assert advise(made, machine.hardware, DEMO) == ()


@pytest.mark.parametrize(
    ("wishes", "hardware", "chosen"),
    [
        # device alone
        (Wishes(device="cpu"), box(RTX_4090, bf16=True), ("cpu", "float16", None, "sdpa")),
        (Wishes(device="cuda"), box(RTX_3060, second(RTX_4090)), ("cuda:1", "float16", None, "sdpa")),
        (Wishes(device="cuda:0"), box(RTX_3060, second(RTX_4090)), ("cuda:0", "float16", "4bit", "sdpa")),
        (Wishes(device="cuda"), box(RX_7900), ("cuda:0", "float16", None, "sdpa")),
        (Wishes(device="mps"), box(M2_16), ("mps", "float16", "4bit", "sdpa")),
        # precision alone: the best place that has room for it
        (Wishes(precision="4bit"), box(H100, flash=True), ("cuda:0", "float16", "4bit", "flash_attention_2")),
        (Wishes(precision="8bit"), box(RTX_4080), ("cuda:0", "float16", "8bit", "sdpa")),
        (Wishes(precision="bf16"), box(H100), ("cuda:0", "bfloat16", None, "sdpa")),
        (Wishes(precision="fp32"), box(H100, flash=True), ("cuda:0", "float32", None, "sdpa")),
        (Wishes(precision="fp32"), box(RTX_4090, ram=64, free=58), ("cpu", "float32", None, "sdpa")),
        (Wishes(precision="bf16"), box(T4, second(H100)), ("cuda:1", "bfloat16", None, "sdpa")),
        (Wishes(precision="bf16"), box(ram=32, free=26), ("cpu", "bfloat16", None, "sdpa")),
        (Wishes(precision="8bit"), box(ram=16, free=14.5, bnb=False), ("cpu", "float32", "8bit", "sdpa")),
        (Wishes(precision="fp16"), box(bf16=True), ("cpu", "float16", None, "sdpa")),
        (Wishes(precision="fp16", device="cpu"), box(RTX_4090), ("cpu", "float16", None, "sdpa")),
        # attention alone
        (Wishes(attention="eager"), box(RTX_4090, flash=True), ("cuda:0", "float16", None, "eager")),
        (Wishes(attention="sdpa"), box(RTX_4090, flash=True), ("cuda:0", "float16", None, "sdpa")),
        (
            Wishes(attention="flash_attention_2"),
            box(RX_7900, flash=True),
            ("cuda:0", "float16", None, "flash_attention_2"),
        ),
        # several at once
        (Wishes(device="cpu", precision="4bit"), box(H100, bf16=True), ("cpu", "bfloat16", "4bit", "sdpa")),
        (Wishes(device="cuda:1", precision="8bit"), box(H100, second(RTX_3060)), ("cuda:1", "float16", "8bit", "sdpa")),
        # for the demo, which reaches a GPU only where a wish needs one
        *(
            (replace(wish, model="demo"), box(RTX_4090, bf16=True, flash=True), chosen)
            for wish, chosen in {
                Wishes(device="cuda"): ("cuda:0", "float16", None, "flash_attention_2"),
                Wishes(precision="fp16"): ("cpu", "float16", None, "sdpa"),
                Wishes(attention="flash_attention_2"): ("cuda:0", "float16", None, "flash_attention_2"),
                Wishes(precision="bf16"): ("cpu", "bfloat16", None, "sdpa"),
                Wishes(precision="4bit"): ("cpu", "bfloat16", "4bit", "sdpa"),
            }.items()
        ),
    ],
)
def test_wishes_are_obeyed(wishes: Wishes, hardware: Hardware, chosen: tuple[str | None, ...]) -> None:
    made = plan(wishes, hardware, DEMO if wishes.model == "demo" else SEVEN_B)
    assert (made.device, made.dtype, made.quantisation, made.attention) == chosen


FLASH = Wishes(attention="flash_attention_2")
NO_FLASH = "--attention flash is refused: {}; use --attention sdpa."
OLD_DRIVER = "CUDA initialization: the NVIDIA driver on your system is too old."


@pytest.mark.parametrize(
    ("wishes", "hardware", "message"),
    [
        (
            Wishes(device="banana"),
            box(),
            '--device "banana" is not the name of a device; this machine has only cpu.',
        ),
        (
            Wishes(device="cuda"),
            replace(box(), faults=(OLD_DRIVER,)),
            f"--device cuda is not available; this machine has only cpu. {OLD_DRIVER}",
        ),
        (
            Wishes(device="cuda:3"),
            box(T4, second(RTX_4090)),
            "--device cuda:3 is not available; "
            "this machine has cuda:0 (Tesla T4), cuda:1 (NVIDIA GeForce RTX 4090) and cpu.",
        ),
        (
            Wishes(precision="bf16"),
            box(T4, bf16=True),
            "--precision bf16 needs compute capability 8.0 and Tesla T4 has 7.5; use --precision fp16.",
        ),
        (
            Wishes(precision="4bit"),
            box(T4, bnb=False),
            "--precision 4bit needs bitsandbytes, which is not installed; pip install -U bitsandbytes.",
        ),
        (FLASH, box(flash=True), NO_FLASH.format("flash-attn runs on NVIDIA and AMD GPUs, not on the CPU")),
        (FLASH, box(M2_16, flash=True), NO_FLASH.format("flash-attn runs on NVIDIA and AMD GPUs, not on Apple M2 GPU")),
        (FLASH, box(T4, flash=True), NO_FLASH.format("flash-attn needs compute capability 8.0 and Tesla T4 has 7.5")),
        (
            FLASH,
            box(H100),
            "--attention flash is refused: flash-attn is not installed; "
            "pip install flash-attn --no-build-isolation, or use --attention sdpa.",
        ),
        (
            replace(FLASH, precision="fp32"),
            box(H100, flash=True),
            "--attention flash is refused: flash-attn has no fp32; use --precision fp16 or --attention sdpa.",
        ),
    ],
)
def test_an_impossible_wish_is_refused_with_the_remedy(wishes: Wishes, hardware: Hardware, message: str) -> None:
    assert refused(WishError, plan, wishes, hardware, SEVEN_B) == message


SHORT = "There is not enough memory for LanguageBind/Video-LLaVA-7B-hf: "


@pytest.mark.parametrize(
    ("wishes", "hardware", "message"),
    [
        (
            Wishes(precision="fp16"),
            box(T4, ram=16, free=12),
            "fp16 needs 15.9 GiB with a context of 2696 tokens and 14.4 of 14.6 GiB are free on Tesla T4; "
            "fp16 needs 17.4 GiB with a context of 2696 tokens and 12.0 of 16.0 GiB of RAM are free. "
            "Leave --precision out: 4bit needs 8.1 GiB and fits into the 14.6 GiB of Tesla T4.",
        ),
        (
            Wishes(device="cuda"),
            box(GTX_1050, bf16=True),
            "4bit needs 7.2 GiB with a context of 2696 tokens and 3.6 of 4.0 GiB are free on NVIDIA GeForce GTX 1050. "
            "Leave --device out: fp16 needs 17.3 GiB and fits into the 32.0 GiB of RAM.",
        ),
        (
            Wishes(),
            box(T4, ram=8, free=6, bnb=False),
            "fp16 needs 15.9 GiB with a context of 2696 tokens and 14.4 of 14.6 GiB are free on Tesla T4; "
            "4bit needs 8.7 GiB with a context of 2696 tokens and 6.0 of 8.0 GiB of RAM are free. "
            "Install bitsandbytes (pip install -U bitsandbytes): "
            "4bit needs 8.1 GiB and fits into the 14.6 GiB of Tesla T4.",
        ),
        (
            Wishes(),
            box(ram=16, free=4, bf16=True),
            "4bit needs 7.6 GiB with a context of 2696 tokens and 4.0 of 16.0 GiB of RAM are free. "
            "Close other programs: 8bit needs 11.2 GiB and fits into the 16.0 GiB of RAM.",
        ),
        (
            Wishes(),
            box(gpu("GPU", 12, 3), ram=8, free=4, bnb=False),
            "fp16 needs 15.9 GiB with a context of 2696 tokens and 3.0 of 12.0 GiB are free on GPU; "
            "4bit needs 8.7 GiB with a context of 2696 tokens and 4.0 of 8.0 GiB of RAM are free. "
            "Close other programs and install bitsandbytes (pip install -U bitsandbytes): "
            "4bit needs 8.1 GiB and fits into the 12.0 GiB of GPU.",
        ),
        (
            Wishes(),
            replace(box(ram=4, free=3), faults=(OLD_DRIVER,)),
            "4bit needs 8.7 GiB with a context of 2696 tokens and 3.0 of 4.0 GiB of RAM are free. "
            f"A machine with more memory is needed; --model demo runs on any. {OLD_DRIVER}",
        ),
    ],
)
def test_memory_that_is_short_is_told_with_numbers_and_a_way_out(
    wishes: Wishes, hardware: Hardware, message: str
) -> None:
    assert refused(MemoryShortError, plan, wishes, hardware, SEVEN_B) == SHORT + message


def test_each_choice_on_a_roomy_gpu_has_its_reason() -> None:
    assert plan(Wishes(), box(RTX_4090, flash=True), SEVEN_B) == LoadPlan(
        device="cuda:0",
        dtype="float16",
        quantisation=None,
        attention="flash_attention_2",
        needed_bytes=2 * 7_366_000_000 + 5 * GIB // 2 + GIB // 2,
        device_reason="A GPU is the fastest device; 22.1 of 24.0 GiB are free on NVIDIA GeForce RTX 4090.",
        dtype_reason="The checkpoint was released in fp16; "
        "fp16 needs 16.8 GiB and 22.1 of 24.0 GiB are free on NVIDIA GeForce RTX 4090.",
        quantisation_reason="None is needed: "
        "fp16 needs 16.8 GiB and 22.1 of 24.0 GiB are free on NVIDIA GeForce RTX 4090.",
        attention_reason="Flash-attn is installed and the GPU's compute capability is 8.9.",
    )


REASONS: tuple[tuple[str, Wishes, Hardware, Checkpoint, tuple[str, ...]], ...] = (
    (
        "a small GPU beside a CPU without bf16",
        Wishes(),
        box(RTX_2060, ram=16, free=12.5),
        SEVEN_B,
        (
            "No GPU has room: 4bit needs 7.2 GiB with a context of 2696 tokens and 5.5 of 6.0 GiB are free on "
            "NVIDIA GeForce RTX 2060; the CPU is much slower.",
            "The CPU computes in fp32, into which it unpacks the weights; "
            "8bit needs 12.4 GiB and 12.5 of 16.0 GiB of RAM are free.",
            "The memory is too small for fp16: fp16 needs 18.4 GiB, "
            "8bit needs 12.4 GiB and 12.5 of 16.0 GiB of RAM are free.",
            "PyTorch's own attention: flash-attn runs on NVIDIA and AMD GPUs, not on the CPU.",
            "One for each physical core that this process may use; OMP_NUM_THREADS overrides it.",
        ),
    ),
    (
        "an old GPU beside a newer one",
        Wishes(),
        box(BUSY_4090, gpu("Tesla P40", 24, 23.5, (6, 1), index=1)),
        SEVEN_B,
        (
            "A GPU is the fastest device; 23.5 of 24.0 GiB are free on Tesla P40 and no other GPU has more.",
            "The checkpoint was released in fp16 and compute capability 6.1 computes it no faster than fp32, "
            "but in half the memory; fp16 needs 16.8 GiB and 23.5 of 24.0 GiB are free on Tesla P40.",
            "None is needed: fp16 needs 16.8 GiB and 23.5 of 24.0 GiB are free on Tesla P40.",
            "PyTorch's own attention: flash-attn needs compute capability 8.0 and Tesla P40 has 6.1.",
        ),
    ),
    (
        "three wishes",
        Wishes(device="cuda", precision="8bit", attention="flash_attention_2"),
        box(RTX_3060, flash=True),
        SEVEN_B,
        (
            "--device cuda was asked for; 10.9 of 12.0 GiB are free on NVIDIA GeForce RTX 3060.",
            "The checkpoint was released in fp16; "
            "8bit needs 10.7 GiB and 10.9 of 12.0 GiB are free on NVIDIA GeForce RTX 3060.",
            "--precision 8bit was asked for; "
            "8bit needs 10.7 GiB and 10.9 of 12.0 GiB are free on NVIDIA GeForce RTX 3060.",
            "--attention flash was asked for.",
        ),
    ),
    (
        "16 bits on a CPU",
        Wishes(),
        box(),
        SEVEN_B,
        (
            "There is no GPU that torch can use; 26.0 of 32.0 GiB of RAM are free.",
            "The CPU holds the weights in 16 bits and unpacks them as it computes; "
            "fp16 needs 18.4 GiB and 26.0 of 32.0 GiB of RAM are free.",
            "None is needed: fp16 needs 18.4 GiB and 26.0 of 32.0 GiB of RAM are free.",
            "PyTorch's own attention: flash-attn runs on NVIDIA and AMD GPUs, not on the CPU.",
            "One for each physical core that this process may use; OMP_NUM_THREADS overrides it.",
        ),
    ),
    (
        "the demo beside a GPU",
        Wishes(model="demo"),
        box(RTX_4090, bf16=True),
        DEMO,
        (
            "The model is so small that a GPU would take longer to start than the CPU to answer; "
            "26.0 of 32.0 GiB of RAM are free.",
            "With 3.0 million parameters 16 bits gain nothing and fp32 is exact; "
            "fp32 needs 0.6 GiB and 26.0 of 32.0 GiB of RAM are free.",
            "None is needed: fp32 needs 0.6 GiB and 26.0 of 32.0 GiB of RAM are free.",
            "PyTorch's own attention: flash-attn runs on NVIDIA and AMD GPUs, not on the CPU.",
            "One for each physical core that this process may use; OMP_NUM_THREADS overrides it.",
        ),
    ),
)


@pytest.mark.parametrize(
    ("wishes", "hardware", "checkpoint", "reasons"), [each[1:] for each in REASONS], ids=[each[0] for each in REASONS]
)
def test_reasons_word_for_word(
    wishes: Wishes, hardware: Hardware, checkpoint: Checkpoint, reasons: tuple[str, ...]
) -> None:
    assert tuple(reason for _, _, reason in plan(wishes, hardware, checkpoint).reasons) == reasons


@pytest.mark.parametrize(
    ("wishes", "hardware", "advice"),
    [
        (Wishes(), box(H100, flash=True), ""),
        (Wishes(), box(T4), ""),
        (
            Wishes(),
            box(H100),
            "Install flash-attn (pip install flash-attn --no-build-isolation; it needs nvcc): "
            "it may shorten the time to the first token.",
        ),
        (
            Wishes(precision="4bit"),
            box(H100, flash=True),
            "--precision fp16 is more exact, and fits: it needs 16.8 GiB and 78.9 GiB are free.",
        ),
        (
            Wishes(),
            box(gpu("NVIDIA GeForce RTX 4090", 24, 12, (8, 9)), flash=True),
            "Close other programs that use NVIDIA GeForce RTX 4090: with 16.8 GiB free, fp16 fits, "
            "which is more exact.",
        ),
        (
            Wishes(),
            box(T4, bf16=True, bnb=False),
            "Install bitsandbytes (pip install -U bitsandbytes): 4bit needs 8.1 GiB and fits into the "
            "14.6 GiB of Tesla T4, which is much faster than the CPU.",
        ),
        (
            Wishes(),
            box(BUSY_4090, bf16=True),
            "Close other programs: fp16 needs 16.8 GiB and fits into the 24.0 GiB of NVIDIA GeForce RTX 4090, "
            "which is much faster than the CPU.",
        ),
        (
            Wishes(device="cpu"),
            box(H100, bf16=True),
            "Leave --device and --precision out: fp16 needs 16.8 GiB and fits into the 79.6 GiB "
            "of NVIDIA H100 80GB HBM3, which is much faster than the CPU.",
        ),
        (
            Wishes(),
            replace(box(ram=64, free=58), faults=(OLD_DRIVER,)),
            f"{OLD_DRIVER} A GPU with 8.1 GiB of free memory (4bit) or 16.8 GiB (fp16) is much faster than the CPU.",
        ),
    ],
)
def test_advice_names_what_would_help_and_nothing_else(wishes: Wishes, hardware: Hardware, advice: str) -> None:
    assert " ".join(advise(plan(wishes, hardware, SEVEN_B), hardware, SEVEN_B)) == advice


def test_the_estimate_counts_weights_cache_activations_and_the_runtime() -> None:
    weights = 6_480_000_000 * 0.5625 + 886_000_000 * 2
    cache = 1000 * 2 * 32 * 4096 * 2
    assert needed_bytes(SEVEN_B, "float16", "4bit", context_tokens=1000) == weights + cache * 1.25 + GIB // 2
    eager = needed_bytes(SEVEN_B, "float16", "4bit", context_tokens=1000, is_eager=True)
    assert eager == weights + cache * 2 + GIB // 2
    assert needed_bytes(SEVEN_B, "float32", context_tokens=1000) == 7_366_000_000 * 4 + cache * 2 * 1.25 + GIB // 2


def test_the_estimate_for_a_cpu_counts_towers_in_the_dtype_that_it_computes_in() -> None:
    cache, words, rest = 1000 * 2 * 32 * 4096, 262_668_288 * 2, 886_000_000 - 262_668_288
    for quantisation, bits in ((None, 16), ("8bit", 8), ("4bit", 4.5)):
        weights = 6_480_000_000 * bits / 8 + words
        wide = weights + rest * 4 + cache * 2 + cache * 4 * 0.25 + GIB // 2
        assert held_bytes(SEVEN_B, quantisation, "float32", 1000) == wide
        assert held_bytes(SEVEN_B, quantisation, "bfloat16", 1000, cache_bytes=4) == wide - rest * 2 + cache * 2
    assert held_bytes(SEVEN_B, "4bit", "float32", 1000, is_eager=True) == wide + cache * 4 * 0.75


def test_what_is_needed_is_rounded_up_and_what_is_free_down() -> None:
    assert (gib(7.41 * GIB), free_gib(7.49 * GIB)) == ("7.5 GiB", "7.4")


sizes = st.floats(0.1, 200.0)
kinds: st.SearchStrategy[Literal["cuda", "rocm", "mps", "xpu"]] = st.sampled_from(["cuda", "rocm", "mps", "xpu"])
capabilities = st.sampled_from([(5, 0), (6, 1), (7, 5), (8, 0), (8, 9), (12, 0)])


@st.composite
def hardware_of_any_kind(draw: st.DrawFn) -> Hardware:
    cards: list[Processor] = []
    for index in range(draw(st.integers(0, 3))):
        total, kind = draw(sizes), draw(kinds)
        if kind == "mps" and any(card.kind == "mps" for card in cards):
            continue  # a Mac has one GPU
        capability = draw(capabilities) if kind == "cuda" else None
        cards.append(gpu(f"GPU {index}", total, total * draw(st.floats(0, 1)), capability, index=index, kind=kind))
    ram = draw(sizes)
    return box(
        *cards,
        ram=ram,
        free=ram * draw(st.floats(0, 1)),
        bf16=draw(st.booleans()),
        bnb=draw(st.booleans()),
        flash=draw(st.booleans()),
    )


devices = st.sampled_from([None, "cpu", "cuda", "cuda:0", "cuda:1", "mps", "xpu", "xpu:0"])
precisions: st.SearchStrategy[Precision | None] = st.sampled_from([None, "fp16", "bf16", "fp32", "8bit", "4bit"])
attentions: st.SearchStrategy[Attention | None] = st.sampled_from([None, "flash_attention_2", "sdpa", "eager"])
any_wishes = st.builds(Wishes, device=devices, precision=precisions, attention=attentions)


@given(any_wishes, hardware_of_any_kind(), st.sampled_from([SEVEN_B, DEMO]))
def test_a_plan_fits_is_possible_and_is_what_was_asked_for(
    wishes: Wishes, hardware: Hardware, checkpoint: Checkpoint
) -> None:
    try:
        made = plan(wishes, hardware, checkpoint)
    except (WishError, MemoryShortError) as exc:
        assert str(exc).endswith(".")
        return
    for sentence in (*(reason for _, _, reason in made.reasons), *advise(made, hardware, checkpoint)):
        assert re.fullmatch(r"(--[a-z]+ |[A-Z])[^\n]*[^.\s]\.", sentence), sentence
    card = next((each for each in hardware.accelerators if each.device == made.device), None)
    assert card or made.device == "cpu"
    assert made.needed_bytes <= (card.free_bytes if card else hardware.ram_free_bytes)
    assert hardware.has_bitsandbytes or made.quantisation is None or not card
    assert made.is_held == (not card and (made.quantisation is not None or made.dtype != "float32"))
    if made.attention == "flash_attention_2":
        assert hardware.has_flash_attn and card and card.kind in ("cuda", "rocm") and made.dtype != "float32"
        assert card.capability is None or card.capability >= (8, 0)
    if card and card.capability and card.capability < (8, 0):
        assert made.dtype != "bfloat16"
    assert wishes.device is None or made.device.startswith(wishes.device)
    assert wishes.attention is None or made.attention == wishes.attention
    asked = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "8bit": "8bit", "4bit": "4bit"}
    assert wishes.precision is None or asked[wishes.precision] in (made.dtype, made.quantisation)
