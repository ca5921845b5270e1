"""Random models have the published shapes, and only what learns is random in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import bitsandbytes
import pytest
import torch
from torch import nn

from tests.engine.engines import EXACT
from vllava_cli.engine.checkpoint import DEFAULT_CHECKPOINT
from vllava_cli.engine.measuring.asked import Asked, asked
from vllava_cli.engine.measuring.ours import Ours
from vllava_cli.engine.measuring.pair import Pair, random_pair
from vllava_cli.engine.measuring.random_shapes import SHAPES
from vllava_cli.engine.measuring.random_weights import fill, random_config, random_tokens, skeleton
from vllava_cli.errors import UsageError
from vllava_cli.interrupt import never
from vllava_cli.nouns import Dtype, Frames, Quantisation

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def made(dtype: Dtype = "float32", quantisation: Quantisation | None = None) -> Pair:
    return random_pair("tiny", random_tokens("tiny"), replace(EXACT, dtype=dtype, quantisation=quantisation))


@pytest.fixture(scope="module")
def tiny() -> Pair:
    return made()


@pytest.fixture(scope="module")
def quantised() -> Pair:
    return made("bfloat16", "4bit")


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


@pytest.mark.parametrize("name", SHAPES)
def test_all_shapes_count_their_parameters(name: str) -> None:
    shape, checkpoint = SHAPES[name], random_tokens(name).checkpoint
    assert checkpoint.language_parameters == shape.layers * shape.hidden * (4 * shape.hidden + 3 * shape.inner)
    model = skeleton(random_config(name), EXACT)
    small = 2 * (2 * shape.vision_layers + 3) * 10 * shape.vision_hidden + 6 * shape.vision_inner * shape.vision_layers
    norms = (2 * shape.layers + 5) * shape.hidden
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert 0 <= counted - checkpoint.parameters < small + norms
    assert checkpoint.tokens_per_video == 8 * ((shape.image_side // shape.patch_side) ** 2 + 1)


def test_1b_has_a_billion() -> None:
    assert 1.0e9 < random_tokens("1b").checkpoint.language_parameters < 1.2e9


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UsageError) as caught:
        random_tokens("8b")
    assert str(caught.value) == 'There are no random weights "8b": choose 7b, 1b, tiny.'


def test_a_skeleton_takes_no_memory() -> None:
    assert all(parameter.is_meta for parameter in skeleton(random_config("7b"), EXACT).parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_everything_is_made_in_the_planned_type(dtype: Dtype) -> None:
    pair = made(dtype)
    for model in (pair.engine.model, pair.snippet.model):
        assert {each.dtype for each in model.parameters()} == {NAMES[dtype]}
        assert not any(each.is_meta for each in (*model.parameters(), *model.buffers()))


def test_weights_are_normal_and_norms_are_one(tiny: Pair) -> None:
    language = tiny.engine.model.model.language_model
    weight = language.layers[1].mlp.down_proj.weight
    assert abs(float(weight.mean())) < 1e-3
    assert abs(float(weight.std()) - 0.02) < 1e-3
    assert torch.equal(language.norm.weight, torch.ones(256))
    norm = next(each for each in tiny.engine.model.model.video_tower.modules() if isinstance(each, nn.LayerNorm))
    assert torch.equal(norm.weight, torch.ones(128))
    assert torch.equal(norm.bias, torch.zeros(128))


def test_the_seed_is_always_the_same(tiny: Pair) -> None:
    again = made()
    for mine, other in zip(tiny.engine.model.parameters(), again.engine.model.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_what_is_not_learned_is_not_random(tiny: Pair) -> None:
    buffers = dict(tiny.engine.model.named_buffers())
    (frequencies,) = [each for name, each in buffers.items() if name.endswith(".inv_freq")]
    assert torch.allclose(frequencies, 10000.0 ** (-torch.arange(0, 32, 2) / 32))
    (positions,) = [each for name, each in buffers.items() if name.endswith("position_ids")]
    assert positions.tolist() == [list(range(17))]


def test_the_snippet_has_the_parts_that_ours_leaves_out(tiny: Pair) -> None:
    assert tiny.engine.model.model.image_tower is None
    image_tower = sum(each.nbytes for each in tiny.snippet.model.model.image_tower.parameters())
    assert tiny.snippet_bytes > image_tower > 0
    assert tiny.snippet.model.model.language_model is tiny.engine.model.model.language_model


@pytest.mark.parametrize(
    ("quantisation", "kind"), [("4bit", bitsandbytes.nn.Linear4bit), ("8bit", bitsandbytes.nn.Linear8bitLt)]
)
def test_the_same_layers_are_quantised_as_in_loading(quantisation: Quantisation, kind: type, question: Asked) -> None:
    from vllava_cli.engine.load import load

    plan = replace(EXACT, dtype="bfloat16", quantisation=quantisation)
    loaded = load(plan, question.tokens, {"video"}).model
    random = made("bfloat16", quantisation).engine.model
    assert list(_kinds(random)) == list(_kinds(loaded))
    assert {each for name, each in _kinds(random) if "language_model" in name} == {kind}


def test_quantised_weights_are_quantised(quantised: Pair) -> None:
    layer = quantised.engine.model.model.language_model.layers[0].mlp.down_proj
    assert (layer.weight.dtype, layer.weight.numel()) == (torch.uint8, 688 * 256 // 2)
    assert (layer.weight.quant_state.quant_type, layer.compute_dtype) == ("nf4", torch.bfloat16)


def test_the_snippets_towers_are_quantised_as_well(quantised: Pair) -> None:
    kinds = {name: kind for name, kind in _kinds(quantised.snippet.model) if kind is nn.Linear}
    assert list(kinds) == ["lm_head"]


def test_both_say_the_same(tiny: Pair, frames: Frames) -> None:
    tokens = replace(random_tokens("tiny"), stop_ids=frozenset(), banned_ids=())
    question = asked(tokens, frames, "What happens?", 8)
    engine = replace(tiny.engine, tokens=tokens)
    said = tiny.snippet.generate(question, new_tokens=8)
    assert tuple(said) == Ours(engine=engine, is_interrupted=never).answer_ids(question)


def test_ids_that_the_tokenizer_lacks_have_no_text() -> None:
    assert random_tokens("7b").text_of([32063, 1500]) == ""


def test_what_is_made_already_stays() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    before = model[0].weight.clone()
    fill(model, EXACT, is_kept_whole=lambda _: False)
    assert torch.equal(model[0].weight, before)
    assert not model[1].weight.is_meta


def _kinds(model: nn.Module) -> Iterator[tuple[str, type]]:
    """The linear layers, with what they became."""
    linear = (nn.Linear, bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
    return ((name, type(each)) for name, each in model.named_modules() if isinstance(each, linear))
