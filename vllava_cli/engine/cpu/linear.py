"""Linear layers that hold their weights in 16, 8 or 4 bits on the CPU, and compute in fp32 or, where faster, in bf16.

Few rows, as in decoding, are multiplied by the weights as they are held. Many rows, as in a prefill, are multiplied by
a slice of the weights at a time, unpacked into a buffer that all layers of a model share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from vllava_cli.engine.cpu.products import Form, Matrix, Products, products
from vllava_cli.interrupt import NEVER, Cancel

FEW_ROWS: dict[Form, int] = {"fp32": 4, "fp16": 4, "bf16": 4, "int8": 8, "int4": 16}
"""The most rows that are multiplied without unpacking; with more, unpacking was measured to take less time."""
SLICE_VALUES = 1 << 22
"""The values of a slice: 16 MiB in fp32, which stay in a processor's cache until they are multiplied."""


@dataclass(kw_only=True, eq=False)
class Workspace:
    """The layers of a model share it: products, the buffer for unpacked slices, and how to stop between slices."""

    wide_dtype: torch.dtype = torch.float32
    """The dtype in which many rows are multiplied."""
    products: Products = field(default_factory=products)
    cancel: Cancel = NEVER
    """Checked between slices; the model sets it for each pass."""
    _buffer: Tensor | None = None

    def buffer(self, rows: int, inputs: int) -> Tensor:
        """Returns [rows, inputs] in `wide_dtype`, which the next call overwrites."""
        if self._buffer is None or self._buffer.numel() < rows * inputs:
            self._buffer = torch.empty(rows * inputs, dtype=self.wide_dtype)
        return self._buffer[: rows * inputs].view(rows, inputs)


class CpuLinear(nn.Module):
    """A linear layer without gradients: [..., inputs] → [..., outputs], whatever the form of its weights."""

    def __init__(self, matrix: Matrix, bias: Tensor | None, workspace: Workspace) -> None:
        super().__init__()
        self.matrix, self.bias, self.workspace = matrix, bias, workspace
        self.in_features, self.out_features = matrix.inputs, matrix.outputs

    def forward(self, x: Tensor) -> Tensor:
        return joined([self], x)

    def dtype_for(self, rows: int) -> torch.dtype:
        """Returns the dtype of inputs and outputs: that of large products for many rows, else fp32."""
        return self.workspace.wide_dtype if rows > FEW_ROWS[self.matrix.form] else torch.float32

    def into(self, x: Tensor, y: Tensor) -> None:
        """Computes y [N, outputs] from x [N, inputs], in `dtype_for` N rows. Errors: CancelError."""
        matrix, workspace = self.matrix, self.workspace
        if len(x) <= FEW_ROWS[matrix.form] or not self._multiply_unpacked(x, y):
            workspace.products.few(matrix, x, y)
        if self.bias is not None:
            y += self.bias

    def _multiply_unpacked(self, x: Tensor, y: Tensor) -> bool:
        """Multiplies slice by slice; returns False if the products can't unpack this matrix."""
        matrix, workspace = self.matrix, self.workspace
        rows = max(1, SLICE_VALUES // matrix.inputs)
        for start in range(0, matrix.outputs, rows):
            workspace.cancel.check()
            slice_ = workspace.buffer(min(rows, matrix.outputs - start), matrix.inputs)
            if not workspace.products.unpack(matrix, start, slice_):
                return False
            torch.mm(x, slice_.t(), out=y[:, start : start + len(slice_)])
        return True


class ExactLinear(nn.Module):
    """A linear layer in fp32, for a matrix of a width that can't be held otherwise; inputs may have any dtype."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._weight = linear.weight.detach().float()
        self._bias = None if linear.bias is None else linear.bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x.float(), self._weight, self._bias)


def joined(layers: Sequence[CpuLinear], x: Tensor) -> Tensor:
    """Computes several layers of the same inputs and form: [..., inputs] → [..., the sum of their outputs]."""
    rows = x.reshape(-1, x.shape[-1])
    rows = rows.to(layers[0].dtype_for(len(rows))).contiguous()
    found = torch.empty(len(rows), sum(layer.out_features for layer in layers), dtype=rows.dtype)
    start = 0
    for layer in layers:
        layer.into(rows, found[:, start : start + layer.out_features])
        start += layer.out_features
    return found.view(*x.shape[:-1], -1)
