"""Both tools compute with the same weights and say the same, and a check finds out where they don't.

Random models have the published shapes, and only what learns is random in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import bitsandbytes
import pytest
import torch
from torch import nn

from tests.engine.engines import EXACT
from tests.engine.measuring.conftest import Making
from vllava_cli import demo
from vllava_cli.engine.checkpoint import DEFAULT_CHECKPOINT
from vllava_cli.engine.load import load, load_documented
from vllava_cli.engine.measuring.measured_tools import MeasuredSnippet, empty_model, random_config, random_tokens
from vllava_cli.engine.measuring.model_benchmark import ModelBenchmark
from vllava_cli.engine.tokens import Tokens
from vllava_cli.errors import CheckpointError
from vllava_cli.nouns import Dtype, Quantisation

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def test_the_snippet_has_towers_of_its_own_and_our_language_model(demo_tools: ModelBenchmark) -> None:
    snippet, ours = demo_tools.snippet, demo_tools.ours.engine.model
    others = {name for name, _ in snippet.model.model.named_children()} - {"language_model"}
    numbers = sum(each.numel() for name in others for each in getattr(snippet.model.model, name).parameters())
    assert snippet.own_bytes(ours) == 4 * numbers
    theirs = dict(snippet.model.model.language_model.named_parameters())
    assert all(theirs[name] is value for name, value in ours.model.language_model.named_parameters())
    assert snippet.model.lm_head.weight is ours.lm_head.weight
    whole = snippet.model.config
    assert (whole.vision_config.num_hidden_layers, whole.vision_feature_layer) == (4, -2)
    assert len(ours.model.video_tower.encoder.layers) == 3


def test_both_say_the_same_whoever_was_asked_before(demo_tools: ModelBenchmark) -> None:
    snippet, ours, asked = demo_tools.snippet, demo_tools.ours, demo_tools.asked
    said, _ = snippet.answer(asked)
    looks = ours.engine.vision.calls
    for _ in range(2):
        ours.forget()
        assert ours.answer(asked)[0] == said
    assert ours.engine.vision.calls == looks + 2
    assert snippet.answer(asked, 3)[0] == said
    assert len(said) == 12


def test_an_answer_goes_on_behind_its_end(demo_tools: ModelBenchmark, tokens: Tokens) -> None:
    (end,) = tokens.stop_ids
    assert end in demo_tools.snippet.answer(demo_tools.asked)[0][:-1]


@pytest.mark.parametrize("name", [None, "tiny"])
def test_in_fp32_all_tokens_are_equal(name: str | None, making: Making) -> None:
    found = making.loaded(name).check()
    assert (found.tokens, found.equal_tokens, found.tolerance, found.must_be_equal) == (12, 12, 1e-3, True)
    assert found.largest_difference is not None and found.largest_difference < 1e-4
    assert found.is_met


@pytest.mark.parametrize(("dtype", "quantisation"), [("bfloat16", None), ("bfloat16", "4bit"), ("float32", "8bit")])
def test_in_fewer_bits_the_difference_is_found_and_not_judged(
    dtype: Dtype, quantisation: Quantisation | None, making: Making
) -> None:
    found = making.loaded(plan=replace(EXACT, dtype=dtype, quantisation=quantisation)).check()
    assert (found.tokens, found.must_be_equal, found.is_met) == (12, False, True)
    assert found.largest_difference is not None and 0 < found.largest_difference < 0.5


def test_another_head_and_a_token_that_is_fed_wrongly_are_found_out(making: Making) -> None:
    made = making.loaded()
    usual = made.snippet
    for part in ("lm_head.weight", "model.language_model.rotary_emb.inv_freq"):
        other = load_documented(EXACT, made.tokens.checkpoint)
        values = other.get_parameter(part) if "weight" in part else other.get_buffer(part)
        with torch.no_grad():
            values.mul_(-1.0 if "weight" in part else 1.01)
        made.snippet = MeasuredSnippet(model=other, plan=EXACT)
        found = made.check()
        assert found.largest_difference is not None and found.largest_difference > 1e-3
        assert not found.is_met
    made.snippet = usual
    assert made.check().is_met


def test_an_interruption_ends_a_check(making: Making) -> None:
    made = making.loaded()
    made.is_interrupted = lambda: True
    with pytest.raises(KeyboardInterrupt):
        made.check()


def test_ids_that_an_answer_may_not_hold_are_not_in_the_snippets_either(making: Making, tokens: Tokens) -> None:
    said = tokens.answer_ids("A red circle moves left.")
    made = making.loaded(tokens=replace(tokens, banned_ids=said))
    assert made.check().is_met
    assert not set(made.snippet.answer(made.asked, suppressed=said)[0]) & set(said)


def test_weights_that_transformers_refuses_are_a_sentence(tokens: Tokens, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((demo.CHECKPOINT / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match=r"The weights in .* can't be loaded: .*header"):
        load_documented(EXACT, replace(tokens.checkpoint, folder=tmp_path))


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
    buffers = dict(tiny.snippet.model.named_buffers())
    (frequencies,) = [each for name, each in buffers.items() if name.endswith(".inv_freq")]
    assert torch.allclose(frequencies, 10000.0 ** (-torch.arange(0, 32, 2) / 32))
    positions = [each for name, each in buffers.items() if name.endswith("position_ids")]
    assert [each.tolist() for each in positions] == [[list(range(17))]] * 2


def test_the_seed_is_always_the_same_and_the_snippet_has_the_parts_that_ours_leaves_out(
    tiny: ModelBenchmark, making: Making
) -> None:
    mine, snippet = tiny.ours.engine.model, tiny.snippet
    for one, other in zip(mine.parameters(), making.loaded("tiny").ours.engine.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert mine.model.image_tower is None
    assert snippet.own_bytes(mine) > sum(each.nbytes for each in snippet.model.model.image_tower.parameters()) > 0
    theirs = dict(snippet.model.model.language_model.named_parameters())
    assert all(theirs[name] is value for name, value in mine.model.language_model.named_parameters())


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
