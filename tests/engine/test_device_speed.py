"""What a device does in a second is measured, and each form of the weights on a CPU where a plan depends on it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.engine.engines import EXACT, available
from tests.machines import DEMO, RTX_4090, SEVEN_B, SPEED, box, slower
from vllava_cli.engine import device_speed
from vllava_cli.engine.cpu.products import CompiledProducts, Products, TorchProducts
from vllava_cli.engine.forward import memory_faults
from vllava_cli.engine.load import THREADS_SETTING
from vllava_cli.errors import MemoryShortError
from vllava_cli.machine import Hardware
from vllava_cli.nouns import Checkpoint, LoadPlan, Wishes
from vllava_cli.plan import plan


def test_a_measurement_gives_something_above_zero() -> None:
    speed = device_speed.measured(plan(Wishes(model="demo"), box(), DEMO), measure_s=0.001)
    assert min(speed.operations, speed.bytes) > 0


@pytest.mark.parametrize("products", [CompiledProducts, TorchProducts])
def test_each_form_of_a_cpu_is_measured_with_either_products(
    products: type[Products], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = available(products)
    monkeypatch.setattr(device_speed, "products", lambda: found)
    monkeypatch.setattr(device_speed, "HELD_BYTES", 4 << 20)
    speed = device_speed.cpu_speed(measure_s=0.001)
    assert list(speed.operations) == ["float32", "bfloat16"]
    assert list(speed.weights) == ["fp16", "bf16", "8bit", "4bit"]
    assert list(speed.quantised) == ["8bit", "4bit"]
    assert min(*speed.operations.values(), *speed.weights.values(), *speed.quantised.values()) > 0
    assert speed.cache_bytes == (2 if products is CompiledProducts else 4)


@pytest.mark.parametrize(
    ("wishes", "hardware", "checkpoint", "is_measured"),
    [
        (Wishes(), box(ram=64, free=60), SEVEN_B, True),
        (Wishes(precision="4bit"), box(ram=64, free=60), SEVEN_B, True),
        (Wishes(precision="bf16"), box(ram=64, free=60), SEVEN_B, True),
        (Wishes(device="cpu"), box(RTX_4090, ram=64, free=60), SEVEN_B, True),
        (Wishes(precision="fp32"), box(ram=64, free=60), SEVEN_B, False),
        (Wishes(), box(RTX_4090, ram=64, free=60), SEVEN_B, False),
        (Wishes(model="demo"), box(), DEMO, False),
        (Wishes(), replace(box(ram=64, free=60), cpu_speed=slower(fp16=1e9)), SEVEN_B, False),
    ],
    ids=["a CPU", "4bit on it", "bf16", "asked for", "fp32", "a GPU", "a tiny model", "measured before"],
)
def test_a_cpu_is_measured_where_the_plan_depends_on_it(
    wishes: Wishes, hardware: Hardware, checkpoint: Checkpoint, is_measured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    monkeypatch.delenv(THREADS_SETTING, raising=False)
    monkeypatch.setattr(device_speed, "cpu_speed", lambda: threads.append(torch.get_num_threads()) or SPEED)
    before = torch.get_num_threads()
    made = device_speed.planned(wishes, hardware, checkpoint)
    seen = replace(hardware, cpu_speed=SPEED) if is_measured else hardware
    assert made == plan(wishes, seen, checkpoint)
    assert (threads, torch.get_num_threads()) == ([hardware.cpu_cores] * is_measured, before)


def test_a_cpu_is_measured_with_the_threads_that_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setenv(THREADS_SETTING, "1")
    monkeypatch.setattr(device_speed, "cpu_speed", lambda: threads.append(torch.get_num_threads()) or SPEED)
    device_speed.planned(Wishes(), replace(box(ram=64, free=60), cpu_cores=7), SEVEN_B)
    assert threads == [torch.get_num_threads()]


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
