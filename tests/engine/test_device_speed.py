"""What a device does in a second is measured, and bf16 on a CPU where a plan depends on it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.engine.engines import EXACT
from tests.machines import DEMO, RTX_4090, SEVEN_B, box
from vllava_cli.engine import device_speed
from vllava_cli.engine.forward import memory_faults
from vllava_cli.errors import MemoryShortError
from vllava_cli.nouns import Checkpoint, Hardware, LoadPlan, Wishes
from vllava_cli.plan import plan


def test_a_measurement_gives_something_above_zero() -> None:
    assert device_speed.bf16_gain(measure_s=0.001) > 0
    speed = device_speed.measured(plan(Wishes(model="demo"), box(), DEMO), measure_s=0.001)
    assert min(speed.operations, speed.bytes) > 0


@pytest.mark.parametrize(
    ("gain", "has_instructions", "dtype", "reason"),
    [
        (1.6, True, "bfloat16", "In bf16 this CPU was measured to take 0.62 of fp32's time; bf16 needs "),
        (1.2, False, "bfloat16", "In bf16 this CPU was measured to take 0.83 of fp32's time; bf16 needs "),
        (0.8, True, "float32", "In bf16 this CPU was measured to take 1.25 of fp32's time; fp32 needs "),
        (None, True, "bfloat16", "This CPU has bf16 instructions, which are faster than fp32; bf16 needs "),
        (None, False, "float32", "This CPU has no bf16 instructions, so fp32 is its fastest; fp32 needs "),
    ],
)
def test_what_was_measured_decides_over_what_instructions_suggest(
    gain: float | None, has_instructions: bool, dtype: str, reason: str
) -> None:
    made = plan(Wishes(), replace(box(ram=64, free=60, bf16=has_instructions), cpu_bf16_gain=gain), SEVEN_B)
    assert made.dtype == dtype
    assert made.dtype_reason.startswith(reason)


MEASURED = "In bf16 this CPU was measured"


@pytest.mark.parametrize(
    ("wishes", "hardware", "checkpoint", "is_measured"),
    [
        (Wishes(), box(ram=64, free=60), SEVEN_B, True),
        (Wishes(precision="4bit"), box(ram=64, free=60), SEVEN_B, True),
        (Wishes(device="cpu"), box(RTX_4090, ram=64, free=60), SEVEN_B, True),
        (Wishes(precision="fp32"), box(ram=64, free=60), SEVEN_B, False),
        (Wishes(), box(RTX_4090, ram=64, free=60), SEVEN_B, False),
        (Wishes(model="demo"), box(), DEMO, False),
    ],
    ids=["a CPU", "4bit on it", "asked for", "a wish for fp32", "a GPU", "a tiny model"],
)
def test_it_is_measured_where_the_plan_depends_on_it(
    wishes: Wishes, hardware: Hardware, checkpoint: Checkpoint, is_measured: bool
) -> None:
    made = device_speed.planned(wishes, hardware, checkpoint)
    assert made.dtype_reason.startswith(MEASURED) == is_measured
    if not is_measured:
        assert made == plan(wishes, hardware, checkpoint)


FULL = replace(EXACT, needed_bytes=9 << 30, quantisation="4bit", context_tokens=2696)
WHOLE = replace(EXACT, needed_bytes=9 << 30)
TOLD = {
    "4bit": (FULL, "9.0 GiB for 4bit in float32 with a context of 2696 tokens", "close other programs."),
    "fp32": (WHOLE, "9.0 GiB for float32", "close other programs, or try --precision 4bit."),
}
ERRORS = (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    OSError(12, "Cannot allocate memory"),
    OSError("Cannot allocate memory (os error 12)"),
)


@pytest.mark.parametrize(("plan", "counted", "remedy"), TOLD.values(), ids=TOLD)
@pytest.mark.parametrize("error", ERRORS)
def test_it_says_what_was_counted_and_what_there_is(
    error: Exception, plan: LoadPlan, counted: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllava_cli.engine.forward.free_ram_bytes", lambda: 3 << 30)
    with pytest.raises(MemoryShortError) as caught, memory_faults("cpu", plan):
        raise error
    assert str(caught.value) == (
        f"The memory of cpu ran out while the model worked; the plan counted {counted}, "
        f"and 3.0 GiB are free now: {remedy}"
    )


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), OSError(13, "Permission denied")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, memory_faults("cpu", FULL):
        raise error
    assert caught.value is error
