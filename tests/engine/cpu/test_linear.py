"""Layers that unpack their weights slice by slice equal a linear layer, and stop between two slices."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.engine.engines import EXACT, after, available, tokens_of
from vllava_cli.demo import CHECKPOINT
from vllava_cli.engine.cpu import linear as cpu_linear
from vllava_cli.engine.cpu.linear import FEW_ROWS, CpuLinear, Workspace, joined
from vllava_cli.engine.cpu.products import CompiledProducts, Matrix, TorchProducts
from vllava_cli.engine.kv_cache import KVCache
from vllava_cli.engine.load import load
from vllava_cli.interrupt import Cancel, CancelError


@pytest.fixture(params=[CompiledProducts, TorchProducts])
def workspace(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Slices have ten rows of 96 numbers, so that the last one of 33 rows is a short one."""
    monkeypatch.setattr(cpu_linear, "SLICE_VALUES", 1000)
    return Workspace(products=available(request.param))


def held(linear: nn.Linear, workspace: Workspace) -> CpuLinear:
    weight = linear.weight.detach().half()
    matrix = Matrix(
        form="fp16", values=weight, scales=torch.empty(0), outputs=linear.out_features, inputs=linear.in_features
    )
    linear.weight.data = weight.float()
    return CpuLinear(matrix, None if linear.bias is None else linear.bias.detach(), workspace)


@torch.inference_mode()
@pytest.mark.parametrize("wide_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [(1,), (2, 4), (3, 5), (2, 20)])
def test_any_number_of_rows_gives_what_a_linear_layer_gives(
    rows: tuple[int, ...], wide_dtype: torch.dtype, workspace: Workspace
) -> None:
    torch.manual_seed(0)
    workspace.wide_dtype = wide_dtype
    linear, other, x = nn.Linear(96, 33), nn.Linear(96, 7, bias=False), torch.randn(*rows, 96)
    ours = [held(each, workspace) for each in (linear, other)]
    found = joined(ours, x)
    dtype = wide_dtype if math.prod(rows) > FEW_ROWS[ours[0].matrix.form] else torch.float32
    assert (found.dtype, found.shape) == (dtype, (*rows, 40))
    most = 1e-4 if wide_dtype == torch.float32 and isinstance(workspace.products, CompiledProducts) else 0.03
    torch.testing.assert_close(found.float(), torch.cat((linear(x), other(x)), dim=-1), rtol=0, atol=most)
    assert torch.equal(ours[0](x), found[..., :33])


class Counted(TorchProducts):
    unpacked = 0

    def unpack(self, matrix: Matrix, start: int, out: Tensor) -> bool:
        self.unpacked += 1
        return super().unpack(matrix, start, out)


def test_work_stops_between_two_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_linear, "SLICE_VALUES", 960)
    products = Counted()
    workspace = Workspace(products=products, cancel=Cancel(after(2)))
    layer = held(nn.Linear(96, 33), workspace)
    with torch.inference_mode(), pytest.raises(CancelError):
        layer(torch.randn(20, 96))
    assert products.unpacked == 2


def test_a_pass_of_the_model_is_stopped_within_a_layer() -> None:
    engine = load(replace(EXACT, dtype="float16", is_held=True), tokens_of(CHECKPOINT), {"video"})
    llama = engine.llama
    asked = 0

    def is_asked() -> bool:
        nonlocal asked
        asked += 1
        return asked > 1

    layers = KVCache(len(llama.blocks)).layers
    with torch.inference_mode(), pytest.raises(CancelError):
        llama(torch.randn(1, 30, 192), layers, cancel=Cancel(is_asked))
    assert (asked, len(layers[0])) == (2, 0)
