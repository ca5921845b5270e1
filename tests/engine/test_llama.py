"""The language model's pass gives what transformers' modules give, whatever kind of Llama a checkpoint has."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaModel

from vllava_cli.engine.cuda_graph import in_parts
from vllava_cli.engine.kv_cache import KVCache
from vllava_cli.engine.llama import (
    Attend,
    Llama,
    Norm,
    by_flash,
    by_torch,
    causal_mask,
    padded_mask,
    written_out,
)
from vllava_cli.nouns import Attention

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 60,
    "max_position_embeddings": 64,
}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "shared keys": {"num_key_value_heads": 2},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "heads wider than the model": {"head_dim": 16},
    "another activation": {"hidden_act": "gelu"},
    "positions scaled": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
    "positions that depend on the length": {
        "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    },
}


class Holder(nn.Module):
    """A language model where Video-LLaVA has it."""

    def __init__(self, kind: str, attention: str = "sdpa") -> None:
        super().__init__()
        torch.manual_seed(len(kind))
        config = LlamaConfig(**SMALL | KINDS[kind], attn_implementation=attention)
        self.model = nn.Module()
        self.model.language_model = LlamaModel(config)
        for name, parameter in self.named_parameters():
            nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
        self.lm_head = nn.Linear(32, 60, bias=False)
        self.eval()


def llama_of(holder: Holder, attention: Attention = "sdpa") -> Llama:
    return Llama(holder, attention)  # type: ignore[arg-type]  # it looks at these two parts alone


@torch.inference_mode()
def passes(holder: Holder, llama: Llama, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """The hidden states of transformers and ours, for prompts read in pieces of these lengths."""
    theirs, mine = [], []
    their_cache, my_cache = DynamicCache(), KVCache(2)
    for length in lengths:
        inputs = llama.embedded(torch.randint(60, (1, length)))
        start = their_cache.get_seq_length()
        theirs.append(holder.model.language_model(inputs_embeds=inputs, past_key_values=their_cache)[0])
        mine.append(llama(inputs, my_cache.layers, start=start))
    return torch.cat(theirs, dim=1), torch.cat(mine, dim=1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_and_its_steps_are_read_alike(kind: str, attention: Attention) -> None:
    holder = Holder(kind)
    theirs, mine = passes(holder, llama_of(holder, attention), [9, 5, 1, 1, 30, 1])
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_transformers_modules_compute_as_before_with_views_of_the_joined_matrices() -> None:
    holder = Holder("biases")
    ids = torch.randint(60, (1, 7))
    before = holder.model.language_model(ids)[0]
    names = {name: tuple(value.shape) for name, value in holder.state_dict().items()}
    llama_of(holder)
    layer = holder.model.language_model.layers[0]
    assert {name: tuple(value.shape) for name, value in holder.state_dict().items()} == names
    torch.testing.assert_close(holder.model.language_model(ids)[0], before)
    query, key = layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight
    assert query.untyped_storage().data_ptr() == key.untyped_storage().data_ptr()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_are_as_near_to_32_as_transformers_are(dtype: torch.dtype) -> None:
    errors = torch.tensor([errors_of(seed, dtype) for seed in range(8)]).mean(dim=0)
    assert errors[0] <= 1.1 * errors[1]


@torch.inference_mode()
def errors_of(seed: int, dtype: torch.dtype) -> tuple[float, float]:
    """How far from float32 our hidden states are, and transformers': root of the mean square."""
    torch.manual_seed(seed)
    holder, ids = Holder("plain"), torch.randint(60, (1, 20))
    exact = holder.model.language_model(ids)[0]
    holder.to(dtype)
    llama = llama_of(holder)
    mine = llama(llama.embedded(ids), KVCache(2).layers)
    theirs = holder.model.language_model(ids)[0]
    return float((mine - exact).square().mean().sqrt()), float((theirs - exact).square().mean().sqrt())


class Doubled(nn.Linear):
    """Stands for a quantised matrix: no plain Linear, so that its weights mustn't be touched."""

    def forward(self, states: Tensor) -> Tensor:
        return 2 * super().forward(states)


def test_matrices_of_another_kind_are_asked_themselves() -> None:
    holder = Holder("plain")
    for layer in holder.model.language_model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, child in list(part.named_children()):
                if isinstance(child, nn.Linear):
                    doubled = Doubled(child.in_features, child.out_features, bias=False)
                    doubled.weight = child.weight
                    setattr(part, name, doubled)
    theirs, mine = passes(holder, llama_of(holder), [9, 5, 1])
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-20, 1e-4, 1.0, 1e15])
def test_a_norm_is_exact_also_for_tiny_and_huge_rows(scale: float) -> None:
    module = Holder("plain").model.language_model.norm
    rows = torch.randn(5, 32) * scale
    with torch.inference_mode():
        torch.testing.assert_close(Norm(module)(rows), module(rows), rtol=1e-5, atol=0)
        assert not Norm(module)(torch.zeros(1, 32)).any()


YES, NO = True, False


def states(heads: int, kv_heads: int, new: int, held: int, rows: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(new * 31 + held)
    query, (keys, values) = torch.randn(rows, heads, new, 8), torch.randn(2, rows, kv_heads, held, 8)
    return query, keys, values


def plain(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """In float64."""
    near, far = (each.repeat_interleave(query.shape[1] // each.shape[1], dim=1).double() for each in (keys, values))
    scores = query.double() @ near.transpose(2, 3) / 8**0.5
    return (scores.masked_fill(~mask, -torch.inf).softmax(-1) @ far).float()


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


@pytest.mark.parametrize(
    ("kv_heads", "held", "seen"),
    [(4, 768, 1), (4, 768, 200), (4, 768, 256), (4, 768, 257), (4, 768, 767), (2, 512, 100), (4, 264, 100)],
)
def test_in_parts_it_is_the_same(kv_heads: int, held: int, seen: int) -> None:
    """Shared keys, and a length that makes no equal parts, are read whole."""
    given = states(4, kv_heads, 1, held)
    mask = (torch.arange(held) < seen)[None, None, None]
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
