"""What is said when memory runs out: what was counted, what there is, and nothing that the run does already."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.engine.engines import EXACT
from vllava_cli.engine.forward import memory_faults
from vllava_cli.errors import MemoryShortError
from vllava_cli.nouns import LoadPlan

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


def test_other_errors_stay_what_they_are() -> None:
    for error in (RuntimeError("shape mismatch"), OSError(13, "Permission denied")):
        with pytest.raises(type(error)) as caught, memory_faults("cpu", FULL):
            raise error
        assert caught.value is error
