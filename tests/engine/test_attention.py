"""Every kernel gives what softmax(q k / √size) v says, for what a row may see."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from vllava_cli.engine.cuda_graph import PART_TOKENS, in_parts
from vllava_cli.engine.llama import Attend, attention_of, by_flash, by_torch, causal_mask, padded_mask, written_out
from vllava_cli.nouns import Attention

YES, NO = True, False


def states(heads: int, kv_heads: int, new: int, held: int, rows: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(new * 31 + held)
    return (
        torch.randn(rows, heads, new, 8),
        torch.randn(rows, kv_heads, held, 8),
        torch.randn(rows, kv_heads, held, 8),
    )


def plain(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """In float64, one query at a time."""
    groups = query.shape[1] // keys.shape[1]
    out = torch.zeros_like(query, dtype=torch.float64)
    seen = mask.expand(len(query), 1, query.shape[2], keys.shape[2])
    for row, head, place in torch.cartesian_prod(*map(torch.arange, query.shape[:3])).tolist():
        near, far = keys[row, head // groups].double(), values[row, head // groups].double()
        scores = near @ query[row, head, place].double() / 8**0.5
        out[row, head, place] = scores.masked_fill(~seen[row, 0, place], -torch.inf).softmax(0) @ far
    return out.float()


@pytest.mark.parametrize(("new", "held"), [(1, 1), (1, 9), (5, 5), (3, 9)])
@pytest.mark.parametrize("kv_heads", [4, 2], ids=["a key for each query", "shared keys"])
@pytest.mark.parametrize("attend", [by_torch, written_out])
def test_without_a_mask_a_row_sees_all_up_to_itself(attend: Attend, kv_heads: int, new: int, held: int) -> None:
    given = states(4, kv_heads, new, held)
    torch.testing.assert_close(attend(*given, None), plain(*given, causal_mask(new, held, torch.device("cpu"))))


@pytest.mark.parametrize("attend", [by_torch, written_out])
def test_rows_see_what_their_masks_say(attend: Attend) -> None:
    given = states(2, 2, 3, 6, rows=2)
    mask = padded_mask(torch.tensor([[NO, NO, YES, YES, YES, YES], [YES] * 6]), 3)
    assert mask is not None
    torch.testing.assert_close(attend(*given, mask), plain(*given, mask))


def test_padding_sees_itself_and_others_see_no_padding() -> None:
    mask = padded_mask(torch.tensor([[YES, NO, NO, YES]]), 3)
    assert mask is not None
    assert mask[0, 0].tolist() == [[YES, YES, NO, NO], [YES, NO, YES, NO], [YES, NO, NO, YES]]
    step = padded_mask(torch.tensor([[YES, NO, YES]]), 1)
    assert step is not None
    assert step.tolist() == [[[[YES, NO, YES]]]]
    assert padded_mask(torch.ones(2, 4, dtype=torch.bool), 2) is None


@pytest.mark.parametrize("seen", [1, 200, PART_TOKENS, PART_TOKENS + 1, 3 * PART_TOKENS - 1])
def test_in_parts_it_is_the_same(seen: int) -> None:
    given = states(4, 4, 1, 3 * PART_TOKENS)
    mask = (torch.arange(3 * PART_TOKENS) < seen)[None, None, None]
    torch.testing.assert_close(in_parts(*given, mask), by_torch(*given, mask))


@pytest.mark.parametrize(
    ("kv_heads", "held"), [(2, 2 * PART_TOKENS), (4, PART_TOKENS + 8)], ids=["shared keys", "an odd length"]
)
def test_what_has_no_equal_parts_is_read_whole(kv_heads: int, held: int) -> None:
    given = states(4, kv_heads, 1, held)
    mask = (torch.arange(held) < 100)[None, None, None]
    torch.testing.assert_close(in_parts(*given, mask), plain(*given, mask))


@pytest.fixture
def flash_attn() -> Iterator[list[bool]]:
    """A package with flash-attn's function, which has heads behind positions, and notes whether it was causal."""
    calls: list[bool] = []

    def flash_attn_func(query: Tensor, keys: Tensor, values: Tensor, *, causal: bool) -> Tensor:
        calls.append(causal)
        return written_out(*(each.transpose(1, 2) for each in (query, keys, values)), None).transpose(1, 2)

    module = ModuleType("flash_attn")
    module.flash_attn_func = flash_attn_func  # type: ignore[attr-defined]
    sys.modules["flash_attn"] = module
    yield calls
    del sys.modules["flash_attn"]


def test_flash_attn_reads_what_has_no_mask(flash_attn: list[bool]) -> None:
    given = states(4, 2, 3, 9)
    torch.testing.assert_close(by_flash(*given, None), plain(*given, causal_mask(3, 9, torch.device("cpu"))))
    assert flash_attn == [True]
    mask = padded_mask(torch.tensor([[NO] + [YES] * 8]), 3)
    assert mask is not None
    torch.testing.assert_close(by_flash(*given, mask), plain(*given, mask))
    assert flash_attn == [True]


@pytest.mark.parametrize(
    ("name", "wanted"), [("sdpa", by_torch), ("eager", written_out), ("flash_attention_2", by_flash)]
)
def test_each_attention_of_a_plan_has_its_kernel(name: Attention, wanted: Attend) -> None:
    assert attention_of(name) is wanted
