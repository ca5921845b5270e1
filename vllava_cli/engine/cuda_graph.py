"""Decodes over a cache that doesn't move, so that the host can give the GPU a whole step at once.

On CUDA a step is captured as a graph, one for each cache length that is a multiple of `PART_TOKENS`: then the host
makes one call instead of a thousand. If a step can't be captured, and on other devices, it runs call by call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vllava_cli.engine.kv_cache import KVCache
from vllava_cli.engine.llama import Llama, by_torch
from vllava_cli.interrupt import NEVER, Cancel

PART_TOKENS = 256
"""The number of keys in a part; a GPU reads the parts of a cache side by side."""
_UNSEEN = -30000.0
"""Used instead of -inf so that a fully masked part has a finite logarithm of its sum; its weight underflows to 0."""
Replay = Callable[[], object]
"""Runs a recorded step once more."""
Recorder = Callable[[Callable[[], Tensor]], tuple[Replay, Tensor]]
"""Records a function: returns the step, and the tensor that it leaves its result in."""
ROUNDINGS = 64
"""A captured step may differ from the plain one by this many roundings of the largest logit."""


@dataclass(kw_only=True)
class _Fixed:
    """The part of a layer's buffers that a step reads. A token goes to a position that only the device knows."""

    keys: Tensor
    """[1, kv heads, L, size], of which the positions after `position` hold nothing yet."""
    values: Tensor
    position: Tensor

    def update(self, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]:
        self.keys.index_copy_(2, self.position, key_states)
        self.values.index_copy_(2, self.position, value_states)
        return self.keys, self.values


class CudaGraphDecoder:
    """Feeds one token after another into a cache of one row, whose buffers don't move.

    The layers don't count the tokens that are fed: the caller sets their length at the end, by `KVCache.set_length`.
    """

    def __init__(
        self,
        llama: Llama,
        cache: KVCache,
        *,
        record: Recorder | None,
        notice: Callable[[str], object] = str,
    ) -> None:
        self._llama, self.cache = llama, cache
        self._record, self._notice = record, notice
        self._token = torch.zeros(1, dtype=torch.long, device=llama.device)
        self._position = torch.zeros(1, dtype=torch.long, device=llama.device)
        self.graphs: dict[int, tuple[Replay, Tensor]] = {}
        """A captured step for each length of cache, with the tensor that it leaves the logits in."""

    @torch.inference_mode()
    def step(self, token: Tensor, held: int, cancel: Cancel = NEVER) -> Tensor:
        """Feeds an id [1] after `held` tokens; returns the logits [vocabulary], which are valid until the next step.

        Errors: CancelError, but only for a step that isn't captured.
        """
        self._token.copy_(token)
        self._position.fill_(held)
        looked = min(-(-(held + 1) // PART_TOKENS) * PART_TOKENS, self.cache.layers[0].capacity)
        if self._record and looked not in self.graphs:
            self._capture(self._record, looked)
        if looked not in self.graphs:
            return self._pass(looked, cancel)
        replay, logits = self.graphs[looked]
        replay()
        return logits

    def _pass(self, looked: int, cancel: Cancel = NEVER) -> Tensor:
        layers = [
            _Fixed(keys=keys[:, :, :looked], values=values[:, :, :looked], position=self._position)
            for keys, values in (layer.buffers for layer in self.cache.layers)
        ]
        mask = (torch.arange(looked, device=self._llama.device) <= self._position)[None, None, None]
        inputs = self._llama.embedded(self._token[None])
        position = self._position[None]
        hidden = self._llama(inputs, layers, positions=position, mask=mask, attend=in_parts, cancel=cancel)
        return self._llama.logits(hidden[0, 0])

    def _capture(self, record: Recorder, looked: int) -> None:
        """Captures a step that reads `looked` positions; after a failure or an inexact first step, captures no more."""
        try:
            replay, logits = record(lambda: self._pass(looked))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # some operations can't be captured
            self.graphs.clear()
        else:
            if self.graphs or self._agrees(replay, logits, looked):
                self.graphs[looked] = replay, logits
                return
            self._notice("vllava: this GPU's captured steps differ from its plain ones: continuing without them.")
        self._record = None

    def _agrees(self, replay: Replay, logits: Tensor, looked: int) -> bool:
        """Returns True if a captured step gives the plain step's logits, up to rounding. Runs both."""
        replay()
        captured, plain = logits.clone(), self._pass(looked)
        bound = ROUNDINGS * torch.finfo(plain.dtype).eps * float(plain.abs().max())
        return bool(torch.allclose(captured, plain, rtol=0, atol=bound, equal_nan=True))


class CudaRecorder:
    """Records a step as a CUDA graph, after a plain run in which libraries set themselves up."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        """Returns a function that replays the step, and the tensor with its result.

        Errors: RuntimeError if an operation can't be captured.
        """
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


def in_parts(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Computes attention of one query to many keys, in parts of PART_TOKENS keys that a GPU reads side by side.

    Whole heads would keep few of its cores busy. Each part gives an average and the logarithm of its softmax's sum, by
    which the averages are weighed. The query is [1, heads, 1, size] with as many kv heads, L is a multiple of
    PART_TOKENS, and there is a mask; `by_torch` takes anything else.
    """
    heads, held = keys.shape[1], keys.shape[2]
    if mask is None or query.shape[1] != heads or held % PART_TOKENS:
        return by_torch(query, keys, values, mask)
    parts = held // PART_TOKENS
    some_keys, some_values = (each.view(heads, parts, PART_TOKENS, -1).transpose(0, 1) for each in (keys, values))
    bias = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, _UNSEEN).view(parts, 1, 1, PART_TOKENS)
    query, bias = query.expand(parts, -1, -1, -1), bias.expand(-1, heads, -1, -1)
    kernels = torch.ops.aten
    if query.device.type == "cpu":
        averages, sums = kernels._scaled_dot_product_flash_attention_for_cpu(
            query, some_keys, some_values, attn_mask=bias
        )
    else:
        averages, sums = kernels._scaled_dot_product_efficient_attention(query, some_keys, some_values, bias, True)[:2]
    # sums: the logarithm of the sum of each part's softmax, [parts, heads, 1 or more] in float32.
    weights = sums[:, :, :1, None].softmax(dim=0).to(averages.dtype)
    merged: Tensor = (averages * weights).sum(dim=0, keepdim=True)
    return merged
