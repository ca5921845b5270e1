"""Products with weights of 32 to 4 bits equal numpy's in float64, whether they are compiled or torch's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from tests.engine.engines import available
from vllava_cli.engine.cpu import products as cpu_products
from vllava_cli.engine.cpu.products import FORMS, CompiledProducts, Form, Matrix, Products, TorchProducts
from vllava_cli.engine.llama import by_torch, over_held

Array = npt.NDArray[np.float64]
SHAPES = ((1, 32), (7, 96), (16, 352), (33, 352), (48, 96), (300, 64))
EXACT: tuple[Form, ...] = ("fp32", "fp16", "bf16")
ALL: tuple[Form, ...] = (*EXACT, "int8", "int4")


@pytest.fixture(params=[CompiledProducts, TorchProducts])
def products(request: pytest.FixtureRequest) -> Products:
    return available(request.param)


@pytest.fixture
def compiled() -> CompiledProducts:
    found = available(CompiledProducts)
    assert isinstance(found, CompiledProducts)
    return found


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rows_of(count: int, inputs: int) -> Tensor:
    """Whole numbers from -127 to 127, which every form of activations holds exactly; 127 is in each group of 32."""
    x = torch.randint(-127, 128, (count, inputs), generator=torch.Generator().manual_seed(count)).float()
    x[:, ::32] = 127
    return x


def matrix_of(products: Products, weight: Tensor, form: Form) -> Matrix:
    if form in ("int8", "int4"):
        return products.quantised(weight, form)
    dtype = next(dtype for dtype, name in FORMS.items() if name == form)
    outputs, inputs = weight.shape
    return Matrix(form=form, values=weight.to(dtype), scales=torch.empty(0), outputs=outputs, inputs=inputs)


def decoded(matrix: Matrix, weight: Tensor) -> Array:
    """The weights as products.c documents their bytes; as torch packs int4, from numbers that weren't packed."""
    if matrix.form in EXACT:
        return matrix.values.double().numpy()
    values = matrix.values.numpy()
    if matrix.form == "int8":
        return values.view(np.int8) * matrix.scales.numpy().view(np.float32).reshape(-1, 1).astype(np.float64)
    if matrix.scales.dtype == torch.uint8:
        pairs = values.reshape(len(values), -1, 16)
        numbers = np.concatenate((pairs & 15, pairs >> 4), axis=-1).astype(np.float64) - 8
        steps = matrix.scales.numpy().view(np.float16).astype(np.float64)
    else:
        made, found = cpu_products.rounded_groups(weight)
        numbers, steps = made.numpy().reshape(len(weight), -1, 32), found.bfloat16().double().numpy()
    return (numbers * steps[..., None]).reshape(weight.shape)


def error(found: Array | Tensor, wanted: Array | Tensor) -> float:
    """Root of the mean square of the difference, relative to what was wanted."""
    wanted = np.asarray(wanted, np.float64)
    return float(np.linalg.norm(np.asarray(found, np.float64) - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("form", ALL)
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_a_few_rows_or_many_are_multiplied(outputs: int, inputs: int, form: Form, products: Products) -> None:
    weight = normal(outputs, inputs)
    matrix = matrix_of(products, weight, form)
    weights = decoded(matrix, weight)
    most = 1e-6 if form == "fp32" or isinstance(products, CompiledProducts) else 0.005
    for count in (1, 2, 3, 5, 16, 17, 40):
        x, wide = rows_of(count, inputs), torch.full((count, outputs + 5), 9.0)
        products.few(matrix, x, wide[:, 3:-2])
        assert error(wide[:, 3:-2], x.double().numpy() @ weights.T) < most
        assert torch.all(wide[:, :3] == 9) and torch.all(wide[:, -2:] == 9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", ALL)
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_slices_are_unpacked(outputs: int, inputs: int, form: Form, dtype: torch.dtype, products: Products) -> None:
    weight = normal(outputs, inputs)
    matrix = matrix_of(products, weight, form)
    start = outputs // 3
    out = torch.full((outputs - start, inputs), 9.0, dtype=dtype)
    if not products.unpack(matrix, start, out):
        assert (form, type(products)) == ("int4", TorchProducts)
        return
    wanted = torch.from_numpy(decoded(matrix, weight)[start:]).float()
    assert error(out.float(), wanted) < (1e-6 if dtype == torch.float32 else 0.004)
    if dtype == torch.bfloat16 and isinstance(products, CompiledProducts):
        assert torch.equal(out, wanted.bfloat16())  # ties go to the even one


def test_activations_of_any_size_are_rounded_to_eight_bits_at_most(products: Products) -> None:
    weight, x = normal(64, 352), normal(3, 352, seed=1) * torch.tensor([[1e-4], [1.0], [1e4]])
    matrix, y = products.quantised(weight, "int4"), torch.empty(3, 64)
    products.few(matrix, x, y)
    for found, row in zip(y, x, strict=True):
        assert error(found, row.double().numpy() @ decoded(matrix, weight).T) < 0.01
    products.few(matrix, torch.zeros(3, 352), y)
    assert not y.any()


def test_four_bits_err_less_than_the_plain_scale_and_than_nf4(products: Products) -> None:
    """On normal weights; per group of 32 against its largest number / -8, which is one of the scales that are tried."""
    functional = pytest.importorskip("bitsandbytes").functional
    weight = normal(64, 352)
    groups = weight.double().numpy().reshape(-1, 32)
    most = np.take_along_axis(groups, np.abs(groups).argmax(axis=1, keepdims=True), axis=1)
    plain = np.clip(np.round(groups * -8 / most), -8, 7) * most / -8
    found = decoded(products.quantised(weight, "int4"), weight).reshape(-1, 32)
    squares = [((each - groups) ** 2).sum(axis=1) for each in (found, plain)]
    assert np.all(squares[0] <= squares[1] * 1.02)  # scales are rounded to 16 bits
    nf4 = functional.dequantize_4bit(*functional.quantize_4bit(weight, quant_type="nf4", blocksize=64))
    assert error(found, groups) < 0.97 * error(plain, groups)
    assert error(found, groups) < error(nf4, weight)


@pytest.mark.parametrize("dtype", FORMS)
def test_eight_bits_err_by_less_than_a_hundredth(dtype: torch.dtype, products: Products) -> None:
    weight = normal(64, 352).to(dtype)
    assert error(decoded(products.quantised(weight, "int8"), weight), weight.float()) < 0.01


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_weights_that_are_no_bell_are_quantised(form: Form, products: Products) -> None:
    weight = torch.zeros(16, 96)
    weight[1], weight[2], weight[3, 40], weight[4, :32] = 1.5, -1.5, 3.0, torch.arange(32.0)
    weight[5] = normal(96) * 1e-3
    found = decoded(products.quantised(weight, form), weight)
    assert np.abs(found - weight.numpy()).max(axis=1) == pytest.approx(np.zeros(16), abs=2 if form == "int4" else 0.13)
    assert not found[0].any() and not found[6:].any()
    assert error(found[1:4], weight[1:4]) < 0.005
    assert error(found[5], weight[5]) < 0.12


def test_what_is_compiled_rounds_as_torch_does(compiled: CompiledProducts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_products, "TRIES", 9)  # as many scales as products.c tries
    weight = normal(64, 352)
    numbers, steps = cpu_products.rounded_groups(weight)
    theirs = (numbers.view(64, -1, 32) * steps[..., None]).view(64, 352)
    ours = decoded(compiled.quantised(weight, "int4"), weight)
    assert error(ours, weight) == pytest.approx(error(theirs, weight), rel=1e-3)
    made, scales = cpu_products.rounded_rows(weight)
    assert error(decoded(compiled.quantised(weight, "int8"), weight), made * scales[:, None]) < 1e-4


@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("form", ["int8", "int4"])
def test_numbers_that_are_no_numbers_never_become_some(form: Form, odd: float, products: Products) -> None:
    weight, x, y = normal(16, 96), normal(3, 96, seed=1), torch.empty(3, 16)
    weight[2, 40] = odd
    products.few(products.quantised(weight, form), x, y)
    assert y.isfinite().all(dim=0).tolist() == [row != 2 for row in range(16)]
    x[1, 70] = odd
    products.few(products.quantised(normal(16, 96), form), x, y)
    assert y.isfinite().all(dim=1).tolist() == [True, False, True]


@pytest.mark.parametrize("what", [0, 1, 2])
@pytest.mark.parametrize("length", [3, 8, 21])
def test_attention_to_what_is_no_number_gives_none(what: int, length: int, compiled: CompiledProducts) -> None:
    query, keys, values = normal(2, 1, 1, 32), normal(2, 1, length, 32).half(), normal(2, 1, length, 32).half()
    (query, keys, values)[what][1, ..., -1, 5] = torch.nan
    assert compiled.attend(query, keys, values, None).isfinite().flatten(1).any(dim=1).tolist() == [True, what == 2]


@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(4, 4, 32), (8, 2, 64), (6, 3, 96), (2, 1, 128)])
def test_attention_equals_a_softmax_in_float64(
    heads: int, kv_heads: int, size: int, compiled: CompiledProducts
) -> None:
    rows, capacity = 3, 130
    query = normal(rows, heads, 1, size)
    keys, values = (normal(rows, kv_heads, capacity, size, seed=seed).half() for seed in (1, 2))
    for length in (1, 2, 7, 8, 9, 31, 64, 127, 130):
        for mask in (None, torch.zeros(rows, 1, 1, length)):
            if mask is not None:
                mask[1, ..., : length // 2] = mask[2, ..., 1 : length - 1] = -torch.inf
            found = compiled.attend(query, keys[:, :, :length], values[:, :, :length], mask)
            wanted = attention(query, keys[:, :, :length], values[:, :, :length], mask)
            assert error(found, wanted) < 1e-6


@pytest.mark.parametrize("tokens", [1, 3])
def test_a_cache_in_fp16_is_attended_to_through_masks(tokens: int, compiled: CompiledProducts) -> None:
    query, mask = normal(2, 4, tokens, 32), torch.ones(2, 1, tokens, 20, dtype=torch.bool)
    keys, values = (normal(2, 2, 20, 32, seed=seed).half() for seed in (1, 2))
    mask[1, ..., :9] = False
    added = torch.zeros(mask.shape).masked_fill_(~mask, -torch.inf)
    wanted = attention(query, keys, values, added)
    for given in (mask, added):
        assert error(over_held(by_torch, compiled, torch.float32)(query, keys, values, given), wanted) < 1e-6


def test_attention_stays_within_the_largest_scores(compiled: CompiledProducts) -> None:
    query, keys = torch.full((1, 1, 1, 32), 200.0), normal(1, 1, 50, 32).half() * 10
    values = normal(1, 1, 50, 32, seed=3).half()
    assert error(compiled.attend(query, keys, values, None), attention(query, keys, values, None)) < 1e-4


def attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Array:
    groups = query.shape[1] // keys.shape[1]
    q, k, v = (each.double().numpy() for each in (query, keys, values))
    scores = np.einsum("bhqd,bhtd->bhqt", q, np.repeat(k, groups, axis=1)) / np.sqrt(q.shape[-1])
    scores += 0 if mask is None else mask.double().numpy()
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    found: Array = np.einsum("bhqt,bhtd->bhqd", weights / weights.sum(axis=-1, keepdims=True), np.repeat(v, groups, 1))
    return found


def test_without_a_library_that_runs_here_torch_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError):
        CompiledProducts(tmp_path / "none.so")

    def missing() -> Products:
        raise OSError("not compiled")

    monkeypatch.setattr(cpu_products, "CompiledProducts", missing)
    assert isinstance(cpu_products.products.__wrapped__(), TorchProducts)
