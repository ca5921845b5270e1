"""Both tools compute with the same weights, held once, say the same, and a check finds out where they don't."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.engine.engines import EXACT
from tests.engine.measuring.conftest import Making
from vllava_cli import demo
from vllava_cli.engine.load import load_documented
from vllava_cli.engine.measuring.measured_tools import MeasuredSnippet
from vllava_cli.engine.measuring.model_benchmark import ModelBenchmark
from vllava_cli.engine.tokens import Tokens
from vllava_cli.errors import CheckpointError
from vllava_cli.nouns import Dtype, Quantisation

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_snippet_has_towers_of_its_own_and_our_language_model(demo_tools: ModelBenchmark) -> None:
    snippet, ours = demo_tools.snippet, demo_tools.ours.engine.model
    others = (
        snippet.model.model.image_tower,
        snippet.model.model.video_tower,
        snippet.model.model.multi_modal_projector,
    )
    assert snippet.own_bytes(ours) == 4 * sum(each.numel() for part in others for each in part.parameters())
    assert snippet.model.model.language_model is ours.model.language_model
    whole, trimmed = snippet.model.config, ours.config
    assert (whole.vision_config.num_hidden_layers, whole.vision_feature_layer) == (4, -2)
    assert (trimmed.vision_config.num_hidden_layers, trimmed.vision_feature_layer) == (3, -1)


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
