"""Token after token behind a prompt that the cache holds.

On CUDA the next step is under way before a token is read: the host learns of a token while the GPU works on the one
behind it, so that showing text costs no time. Elsewhere a step begins when the token in front of it was wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from vllava_cli.engine.cancel import CancelError
from vllava_cli.engine.cuda_graph import CudaRecorder, StaticSteps
from vllava_cli.engine.forward import step
from vllava_cli.engine.sampler import Chooser, checked

if TYPE_CHECKING:
    from transformers import DynamicCache

    from vllava_cli.engine.generate import Engine
    from vllava_cli.engine.llama import Llama
    from vllava_cli.engine.prompt_cache import Memory


class Steps(Protocol):
    """How a token is fed."""

    def step(self, token: Tensor, held: int) -> Tensor:
        """Feeds an id [1] behind `held` tokens and returns the logits [vocabulary] of the next."""
        ...

    def hold(self, length: int) -> None:
        """At the end: so many tokens are in the cache."""
        ...


class Reading:
    """An id on its way from the device to the host."""

    def __init__(self, token: Tensor) -> None:
        self._event: Any = None
        self._host = token
        if token.device.type == "cuda":
            self._host = torch.empty(1, dtype=token.dtype, pin_memory=True)
            self._host.copy_(token, non_blocking=True)
            cuda: Any = torch.cuda
            self._event = cuda.Event()
            self._event.record()

    def value(self) -> int:
        """Waits for the id, and for nothing that was begun after it. Errors: OverflowedError."""
        if self._event:
            self._event.synchronize()
        return checked(int(self._host))


def decoded(engine: Engine, memory: Memory, chooser: Chooser, logits: Tensor) -> Generator[int, None, None]:
    """Yields ids behind the prompt of which `logits` [vocabulary] are the last, until it is closed.

    The cache then holds all of them but the last; where the device runs ahead, the last as well. An interrupted step
    ends them. Errors: those of `Engine.passes`.
    """
    steps = engine.steps
    token = chooser.pick(logits)
    try:
        while True:
            reading, held = Reading(token), len(memory.ids)
            if engine.runs_ahead:  # the last token that the context holds is still read: there is room for it
                token = _next(engine, steps, chooser, token, held)
                number = reading.value()
                memory.ids.append(number)
                yield number
            else:
                number = reading.value()
                yield number
                token = _next(engine, steps, chooser, token, held)
                memory.ids.append(number)
    except CancelError:
        pass
    finally:
        if engine.memory is memory:
            steps.hold(len(memory.ids))


class GrowingSteps:
    """Steps over a cache that grows as it is fed."""

    def __init__(self, llama: Llama, cache: DynamicCache) -> None:
        self._llama, self._cache = llama, cache

    def step(self, token: Tensor, held: int) -> Tensor:
        return step(self._llama, token, self._cache, held)

    def hold(self, length: int) -> None:
        """It does already."""


def steps_over(
    llama: Llama, cache: DynamicCache, *, is_static: bool, is_captured: bool, notice: Callable[[str], object]
) -> Steps:
    """Chooses static or growing decode steps for this device."""
    if not is_static:
        return GrowingSteps(llama, cache)
    return StaticSteps(llama, cache.layers, record=CudaRecorder() if is_captured else None, notice=notice)


def _next(engine: Engine, steps: Steps, chooser: Chooser, token: Tensor, held: int) -> Tensor:
    with engine.passes():
        return chooser.pick(steps.step(token.clamp(min=0), held))  # OVERFLOWED may not be read yet
