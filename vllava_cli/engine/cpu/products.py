"""Products with weights that a CPU holds in 16, 8 or 4 bits: by products.c where it was compiled, else by torch.

products.c is compiled when the package is installed, if there is a C compiler, and needs AVX2. All tensors here are
contiguous and on the CPU; activations are fp32.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

Form = Literal["fp32", "fp16", "bf16", "int8", "int4"]
"""How a matrix holds its weights: int8 has a scale for each row, int4 one for each group of a row."""
FORMS: dict[torch.dtype, Form] = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
GROUP = 32
"""The weights of a group in int4. The width of each matrix must be a multiple of it."""
LIBRARY = Path(__file__).with_name("libproducts.so")
TRIES = 3
"""The scales that torch tries for each group of an int4 matrix; nine, as products.c tries, would take ten minutes."""
ROWS_AT_ONCE = 256
TORCH_ROWS = 16
"""torch packs int4 matrices whose outputs are a multiple of this."""

_NUMBERS: dict[Form, int] = {"fp32": 0, "fp16": 1, "bf16": 2, "int8": 3, "int4": 4}
_ARGUMENTS = {
    "few_rows": (c_int, c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_int64, c_void_p, c_int64, c_void_p, c_int),
    "unpack": (c_int, c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_int, c_int),
    "quantise": (c_int, c_void_p, c_int, c_int64, c_int64, c_void_p, c_void_p, c_void_p, c_int),
    "attend": (*(c_void_p,) * 3, *(c_int64,) * 7, *(c_void_p,) * 3, c_int),
}


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A matrix [outputs, inputs] in a form; `values` and `scales` are as the products that made them lay them out."""

    form: Form
    values: Tensor
    scales: Tensor
    outputs: int
    inputs: int

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.scales.nbytes


class Products(Protocol):
    """Computes with matrices of these forms."""

    layout: str
    """Names how int8 and int4 matrices are made and laid out. Kept ones of another layout aren't used: its number goes
    up whenever the same weights would be quantised to other bytes."""

    def quantised(self, weight: Tensor, form: Form) -> Matrix:
        """Quantises a weight [outputs, inputs] in fp32, fp16 or bf16 to int8 or int4."""

    def few(self, matrix: Matrix, x: Tensor, y: Tensor) -> None:
        """Multiplies a few rows: y [N, outputs] = x [N, inputs] * matrix; the rows of y may be further apart."""

    def unpack(self, matrix: Matrix, start: int, out: Tensor) -> bool:
        """Writes rows of a matrix, from `start` on, into `out` [rows, inputs], fp32 or bf16; False if it can't."""


class CompiledProducts:
    """The products of products.c."""

    layout = "rows 1"

    def __init__(self, path: Path = LIBRARY) -> None:
        """Loads the library. Errors: OSError."""
        self._library: Any = ctypes.CDLL(str(path))
        if not self._library.is_supported():
            raise OSError("this processor has no AVX2")
        for name, arguments in _ARGUMENTS.items():
            getattr(self._library, name).argtypes = arguments
            getattr(self._library, name).restype = None

    def quantised(self, weight: Tensor, form: Form) -> Matrix:
        outputs, inputs = weight.shape
        width, scale_bytes = (inputs, 4) if form == "int8" else (inputs // 2, inputs // GROUP * 2)
        values = torch.empty(outputs, width, dtype=torch.uint8)
        scales = torch.empty(outputs, scale_bytes, dtype=torch.uint8)
        threads = torch.get_num_threads()
        room = torch.empty(threads, inputs)
        source = _NUMBERS[FORMS[weight.dtype]]
        self._library.quantise(
            _NUMBERS[form], _at(weight), source, outputs, inputs, _at(values), _at(scales), _at(room), threads
        )
        return Matrix(form=form, values=values, scales=scales, outputs=outputs, inputs=inputs)

    def few(self, matrix: Matrix, x: Tensor, y: Tensor) -> None:
        rows, inputs = x.shape
        room = torch.empty(rows * (inputs + inputs // GROUP * 8) if matrix.form == "int4" else 0, dtype=torch.uint8)
        self._library.few_rows(
            *(_NUMBERS[matrix.form], _at(matrix.values), _at(matrix.scales), matrix.outputs, inputs),
            *(_at(x), rows, _at(y), y.stride(0), _at(room), torch.get_num_threads()),
        )

    def unpack(self, matrix: Matrix, start: int, out: Tensor) -> bool:
        values, scales = matrix.values[start:], matrix.scales[start:]
        is_bf16 = out.dtype == torch.bfloat16
        self._library.unpack(
            *(_NUMBERS[matrix.form], _at(values), _at(scales), len(out), matrix.inputs),
            *(_at(out), is_bf16, torch.get_num_threads()),
        )
        return True

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Computes attention of one token a row: query [B, heads, 1, size] over keys and values in fp16.

        Keys and values are [B, kv heads, L, size], the first L positions of larger buffers; mask is as in `Attend`, in
        fp32.
        """
        rows, heads, _, size = query.shape
        length, threads = keys.shape[2], torch.get_num_threads()
        query, out = query.contiguous(), torch.empty(rows, heads, 1, size)
        if mask is not None:
            mask = mask.expand(rows, 1, 1, length).contiguous()
        room = torch.empty(threads, -(-length // 8) * 8)
        self._library.attend(
            *(_at(query), _at(keys), _at(values), keys.stride(0), keys.stride(1), rows, heads, keys.shape[1]),
            *(length, size, None if mask is None else _at(mask), _at(out), _at(room), threads),
        )
        return out


class TorchProducts:
    """The products that torch has, for a machine where products.c wasn't compiled or has no AVX2.

    int4 is packed as torch's own kernel wants it, which depends on the processor's instructions, and can't be unpacked.
    """

    def __init__(self) -> None:
        self.layout = f"torch {torch.backends.cpu.get_cpu_capability()}"

    def quantised(self, weight: Tensor, form: Form) -> Matrix:
        outputs, inputs = weight.shape
        if form == "int8":
            values, scales = rounded_rows(weight)
        else:
            pad = -outputs % TORCH_ROWS
            padded = functional.pad(weight, (0, 0, 0, pad))
            numbers, steps = rounded_groups(padded)
            values = torch.ops.aten._convert_weight_to_int4pack_for_cpu(numbers.int() + 8, 2)
            scales = torch.stack((steps, torch.zeros_like(steps)), dim=-1).transpose(0, 1).contiguous().bfloat16()
        return Matrix(form=form, values=values, scales=scales, outputs=outputs, inputs=inputs)

    def few(self, matrix: Matrix, x: Tensor, y: Tensor) -> None:
        if matrix.form == "int8":
            scales = matrix.scales.bfloat16()
            y.copy_(torch.ops.aten._weight_int8pack_mm(x.bfloat16(), matrix.values, scales))
        elif matrix.form == "int4":
            packed = matrix.values, GROUP, matrix.scales
            y.copy_(torch.ops.aten._weight_int4pack_mm_for_cpu(x.bfloat16(), *packed)[:, : matrix.outputs])
        else:
            y.copy_(functional.linear(x.to(matrix.values.dtype), matrix.values))

    def unpack(self, matrix: Matrix, start: int, out: Tensor) -> bool:
        if matrix.form == "int4":
            return False
        out.copy_(matrix.values[start : start + len(out)])
        if matrix.form == "int8":
            out *= matrix.scales[start : start + len(out), None].to(out.dtype)
        return True


@cache
def products() -> Products:
    """Returns the compiled products, or torch's if those weren't compiled or can't be used here."""
    try:
        return CompiledProducts()
    except OSError:
        return TorchProducts()


def rounded_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds each row to 8 bits: weight [O, I] → numbers [O, I] int8, scales [O] fp32."""
    scales = weight.abs().amax(dim=1).float() / 127
    return (weight / scales.clamp(min=1e-30)[:, None]).round_().to(torch.int8), scales


def rounded_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds each group to 4 bits: weight [O, I] → numbers [O, I] int8 from -8 to 7, scales [O, I / GROUP] fp32.

    Of several scales near the largest weight / -8, the one with the least error is taken, fitted by least squares.
    """
    outputs, inputs = weight.shape
    numbers = torch.empty(outputs, inputs, dtype=torch.int8)
    scales = torch.empty(outputs, inputs // GROUP)
    parts = (torch.split(tensor, ROWS_AT_ONCE) for tensor in (weight, numbers, scales))
    for rows, found, steps in zip(*parts, strict=True):
        groups = rows.float().view(len(rows), -1, GROUP)
        most = groups.gather(-1, groups.abs().argmax(dim=-1, keepdim=True))
        best, chosen, kept = torch.zeros_like(most), torch.zeros_like(most), torch.zeros_like(groups)
        for number in range(TRIES):
            up = (-8.0 - 0.2 * (number - TRIES // 3)) / most.where(most != 0, 1.0)
            tried = (groups * up).round_().clamp_(-8, 7)
            product = (tried * groups).sum(dim=-1, keepdim=True)
            square = (tried * tried).sum(dim=-1, keepdim=True).clamp_(min=1e-30)
            gain = product * product / square
            is_better = gain > best
            best, chosen = gain.where(is_better, best), (product / square).where(is_better, chosen)
            kept = tried.where(is_better, kept)
        found.copy_(kept.view(len(rows), -1))
        steps.copy_((chosen + 0 * most).view(len(rows), -1))  # what isn't finite becomes no number
    return numbers, scales


def _at(tensor: Tensor) -> int:
    return tensor.data_ptr()
