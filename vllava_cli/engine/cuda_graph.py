"""Steps of decoding over a cache that doesn't move, so that a GPU can be told a whole step at once.

On CUDA a step is captured as a graph, once for each length of cache in parts of `PART_TOKENS`: what takes the host a
thousand calls takes one then. Where capturing isn't possible, and on other devices, the same step runs call by call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vllava_cli.engine.attention import PART_TOKENS, in_parts
from vllava_cli.engine.kv_cache import RoomyLayer
from vllava_cli.engine.llama import Llama

Replay = Callable[[], object]
"""Runs a recorded step once more."""
Recorder = Callable[[Callable[[], Tensor]], tuple[Replay, Tensor]]
"""Records what a function does: gives the step, and where it leaves its result."""
ROUNDINGS = 64
"""How many roundings of the largest logit a captured step may differ by from the plain one."""


@dataclass(kw_only=True)
class _Fixed:
    """A layer's room as far as a step looks: what is appended goes to a position that only the device knows."""

    keys: Tensor
    """[1, kv heads, L, size], of which the positions behind `position` hold nothing yet."""
    values: Tensor
    position: Tensor

    def update(self, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]:
        self.keys.index_copy_(2, self.position, key_states)
        self.values.index_copy_(2, self.position, value_states)
        return self.keys, self.values


class StaticSteps:
    """One token after another over the rooms of one row's layers, which must stay where they are.

    The layers don't notice what is fed: `hold` tells them at the end.
    """

    def __init__(
        self,
        llama: Llama,
        layers: Sequence[RoomyLayer],
        *,
        record: Recorder | None,
        notice: Callable[[str], object] = str,
    ) -> None:
        self._llama, self._layers = llama, layers
        self._record, self._notice = record, notice
        self._token = torch.zeros(1, dtype=torch.long, device=llama.device)
        self._position = torch.zeros(1, dtype=torch.long, device=llama.device)
        self._graphs: dict[int, tuple[Replay, Tensor]] = {}
        """By the length that is looked at: a step, and where it leaves the logits."""
        self._is_compared = False
        self.fault: str | None = None
        """Why steps aren't captured: in torch's own words, or because they gave other logits."""

    @property
    def room_tokens(self) -> int:
        return self._layers[0].room_tokens

    @property
    def captured_lengths(self) -> tuple[int, ...]:
        """The lengths of cache for which a graph is there."""
        return tuple(self._graphs)

    @torch.inference_mode()
    def step(self, token: Tensor, held: int) -> Tensor:
        """Feeds an id [1] behind `held` tokens; the logits [vocabulary] are good until the next step."""
        self._token.copy_(token)
        self._position.fill_(held)
        looked = min(-(-(held + 1) // PART_TOKENS) * PART_TOKENS, self.room_tokens)
        if self._record and looked not in self._graphs:
            self._capture(self._record, looked)
        if looked not in self._graphs:
            return self._pass(looked)
        replay, logits = self._graphs[looked]
        replay()
        return logits

    def hold(self, length: int) -> None:
        """The layers hold so many tokens from now on."""
        for layer in self._layers:
            layer.hold(length)

    def _pass(self, looked: int) -> Tensor:
        layers = [
            _Fixed(keys=keys[:, :, :looked], values=values[:, :, :looked], position=self._position)
            for keys, values in (layer.room for layer in self._layers)
        ]
        mask = (torch.arange(looked, device=self._llama.device) <= self._position)[None, None, None]
        inputs = self._llama.embedded(self._token[None])
        hidden = self._llama.read(inputs, layers, positions=self._position[None], mask=mask, attend=in_parts)
        return self._llama.logits(hidden[0, 0])

    def _capture(self, record: Recorder, looked: int) -> None:
        """Records the step; the first one is held against the same step call by call."""
        try:
            replay, logits = record(lambda: self._pass(looked))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as exc:
            self._give_up(str(exc).partition("\n")[0])
            return
        if not self._is_compared and not self._agrees(replay, logits, looked):
            self._give_up("a captured step gave other numbers")
            self._notice("vllava: this GPU's captured steps give other numbers than its plain ones: going on without.")
            return
        self._is_compared = True
        self._graphs[looked] = replay, logits

    def _agrees(self, replay: Replay, logits: Tensor, looked: int) -> bool:
        """Whether a captured step gives the logits of the plain one, up to rounding. Both write the same cache."""
        replay()
        captured, plain = logits.clone(), self._pass(looked)
        bound = ROUNDINGS * torch.finfo(plain.dtype).eps * float(plain.abs().max())
        return bool(torch.allclose(captured, plain, rtol=0, atol=bound, equal_nan=True))

    def _give_up(self, fault: str) -> None:
        self._record, self.fault = None, fault
        self._graphs.clear()


class CudaRecorder:
    """Records a step as a CUDA graph, behind one run for what libraries set up at first."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        """The step, to be run again, and where it leaves its result. Errors: RuntimeError where that is impossible."""
        cuda: Any = torch.cuda
        self._pool = self._pool or cuda.graph_pool_handle()
        aside = cuda.Stream()
        aside.wait_stream(cuda.current_stream())
        with cuda.stream(aside):
            run()
        cuda.current_stream().wait_stream(aside)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph, pool=self._pool):
            result = run()
        return graph.replay, result
