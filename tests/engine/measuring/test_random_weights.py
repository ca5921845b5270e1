"""Random models have the published shapes, and only what learns is random in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import bitsandbytes
import pytest
import torch
from torch import nn

from tests.engine.engines import EXACT
from tests.engine.measuring.conftest import Making
from vllava_cli.engine.checkpoint import DEFAULT_CHECKPOINT
from vllava_cli.engine.load import load
from vllava_cli.engine.measuring.measured_tools import empty_model, random_config, random_tokens
from vllava_cli.engine.measuring.model_benchmark import ModelBenchmark
from vllava_cli.engine.tokens import Tokens
from vllava_cli.nouns import Dtype, Quantisation

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.fixture(scope="module")
def tiny(making: Making) -> ModelBenchmark:
    return making.loaded("tiny")


def test_7b_has_the_published_shapes() -> None:
    checkpoint = random_tokens("7b").checkpoint
    assert checkpoint == replace(
        DEFAULT_CHECKPOINT,
        model="random 7b",
        folder=checkpoint.folder,
        other_parameters=checkpoint.other_parameters,
        tower_parameters=checkpoint.tower_parameters,
    )
    # The published file counts an embedding more than is there, once for each tower.
    assert abs(checkpoint.other_parameters - DEFAULT_CHECKPOINT.other_parameters) < 1e4
    assert 1.0e9 < random_tokens("1b").checkpoint.language_parameters < 1.2e9


def test_a_skeleton_takes_no_memory_and_ids_without_text_have_none() -> None:
    assert all(parameter.is_meta for parameter in empty_model(random_config("7b"), EXACT, ()).parameters())
    assert random_tokens("7b").tokenizer.decode([32063, 1500]) == ""


def test_weights_are_normal_norms_are_one_and_what_is_not_learned_is_not_random(tiny: ModelBenchmark) -> None:
    model = tiny.ours.engine.model
    weight = model.model.language_model.layers[1].mlp.down_proj.weight
    assert abs(float(weight.mean())) < 1e-3
    assert abs(float(weight.std()) - 0.02) < 1e-3
    assert torch.equal(model.model.language_model.norm.weight, torch.ones(256))
    norm = next(each for each in model.model.video_tower.modules() if isinstance(each, nn.LayerNorm))
    assert torch.equal(norm.weight, torch.ones(128))
    assert torch.equal(norm.bias, torch.zeros(128))
    buffers = dict(model.named_buffers())
    (frequencies,) = [each for name, each in buffers.items() if name.endswith(".inv_freq")]
    assert torch.allclose(frequencies, 10000.0 ** (-torch.arange(0, 32, 2) / 32))
    (positions,) = [each for name, each in buffers.items() if name.endswith("position_ids")]
    assert positions.tolist() == [list(range(17))]


def test_the_seed_is_always_the_same_and_the_snippet_has_the_parts_that_ours_leaves_out(
    tiny: ModelBenchmark, making: Making
) -> None:
    mine, snippet = tiny.ours.engine.model, tiny.snippet
    for one, other in zip(mine.parameters(), making.loaded("tiny").ours.engine.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert mine.model.image_tower is None
    assert snippet.own_bytes(mine) > sum(each.nbytes for each in snippet.model.model.image_tower.parameters()) > 0
    assert snippet.model.model.language_model is mine.model.language_model


@pytest.mark.parametrize(
    ("dtype", "quantisation", "kind"),
    [
        ("float32", None, nn.Linear),
        ("bfloat16", None, nn.Linear),
        ("bfloat16", "4bit", bitsandbytes.nn.Linear4bit),
        ("bfloat16", "8bit", bitsandbytes.nn.Linear8bitLt),
    ],
)
def test_everything_is_made_and_quantised_as_in_loading(
    dtype: Dtype, quantisation: Quantisation | None, kind: type, making: Making, tokens: Tokens
) -> None:
    plan = replace(EXACT, dtype=dtype, quantisation=quantisation)
    made = making.loaded("tiny", plan=plan)
    random, loaded = made.ours.engine.model, load(plan, tokens, {"video"}).model
    assert list(_kinds(random)) == list(_kinds(loaded))
    assert {each for name, each in _kinds(random) if "language_model" in name} == {kind}
    for model in (random, made.snippet.model):
        assert not any(each.is_meta for each in (*model.parameters(), *model.buffers()))
        plain = {each.dtype for each in model.parameters() if type(each) is nn.Parameter}
        assert plain == {NAMES[dtype]}
    if quantisation:
        assert [name for name, each in _kinds(made.snippet.model) if each is nn.Linear] == ["lm_head"]


def _kinds(model: nn.Module) -> Iterator[tuple[str, type]]:
    """The linear layers, with what they became."""
    linear = (nn.Linear, bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
    return ((name, type(each)) for name, each in model.named_modules() if isinstance(each, linear))
