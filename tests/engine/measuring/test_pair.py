"""Both models compute with the same weights, held once, and neither disturbs the other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.engines import EXACT
from tests.engine.measuring.conftest import ONCE
from vllava_cli import demo
from vllava_cli.engine.checkpoint import describe
from vllava_cli.engine.measuring.asked import Asked
from vllava_cli.engine.measuring.contest import Subject
from vllava_cli.engine.measuring.ours import Ours
from vllava_cli.engine.measuring.pair import Pair, load_pair, reading_s
from vllava_cli.engine.measuring.snippet_load import loaded_snippet
from vllava_cli.errors import CheckpointError
from vllava_cli.interrupt import never
from vllava_cli.nouns import Source

pytestmark = pytest.mark.usefixtures("one_thread")
VISION_LAYER = 4 * (128 * 128 + 128) + 2 * 128 * 256 + 256 + 128 + 4 * 128
"""The numbers of a layer of the demo's towers: attention, MLP, two norms."""


def test_the_snippet_holds_only_what_ours_leaves_out(pair: Pair) -> None:
    image_tower = sum(each.numel() for each in pair.snippet.model.model.image_tower.parameters())
    assert pair.snippet_bytes == 4 * (VISION_LAYER + image_tower)
    assert pair.snippet.model.model.language_model is pair.engine.model.model.language_model
    assert pair.snippet.model.lm_head is pair.engine.model.lm_head


def test_the_snippets_towers_are_whole(pair: Pair) -> None:
    whole, trimmed = pair.snippet.model.config, pair.engine.model.config
    assert (whole.vision_config.num_hidden_layers, whole.vision_feature_layer) == (4, -2)
    assert (trimmed.vision_config.num_hidden_layers, trimmed.vision_feature_layer) == (3, -1)


def test_both_see_the_same_whoever_looked_before(pair: Pair, question: Asked) -> None:
    def ours() -> torch.Tensor:
        pair.engine.vision.forget()
        return pair.engine.vision.features(question.frames, "crop")

    first = ours()
    assert all(torch.equal(each, first) for each in (pair.snippet.features(question), ours(), ours()))
    assert torch.equal(pair.snippet.features(question), first)


def test_both_say_the_same(pair: Pair, question: Asked) -> None:
    ours = Ours(engine=pair.engine, is_interrupted=never)
    said = pair.snippet.generate(question, new_tokens=question.new_tokens)
    assert len(said) == question.new_tokens
    assert tuple(said) == ours.answer_ids(question)
    assert said == pair.snippet.generate(question, new_tokens=question.new_tokens, rows=3)


def test_every_token_of_an_answer_is_seen(pair: Pair, question: Asked) -> None:
    seen: list[str] = []
    said = pair.snippet.generate(question, new_tokens=12, rows=2, see=lambda: seen.append("token"))
    assert len(seen) == len(said) == 12
    assert said == pair.snippet.generate(question, new_tokens=12)


def test_an_answer_goes_on_behind_its_end(pair: Pair, question: Asked, subject: Subject) -> None:
    (end,) = subject.tokens.stop_ids
    assert end in pair.snippet.generate(question, new_tokens=question.new_tokens)[:-1]


def test_the_language_model_is_freed_before_ours_is_loaded() -> None:
    snippet = loaded_snippet(describe(Source(model="demo", folder=demo.CHECKPOINT)), EXACT)
    matrices = {each.data_ptr() for each in snippet.model.model.language_model.parameters()}
    snippet.strip()
    assert snippet.model.model.language_model is None
    assert not matrices & {each.data_ptr() for each in snippet.model.parameters()}


def test_loading_is_timed_beside_reading_the_files(question: Asked) -> None:
    _, loads = load_pair(question.tokens, EXACT, ONCE)
    assert len(loads.ours.values) == len(loads.snippet.values) == 1
    assert 0 < loads.limit < loads.snippet.median


def test_all_files_of_weights_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "other.bin"):
        (tmp_path / name).write_bytes(b"x" * 10)
    index = {"weight_map": {"b": "model-00002-of-00002.safetensors", "a": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    usual = Path.open

    def noting(path: Path, *words: Any, **named: Any) -> Any:
        opened.append(path.name)
        return usual(path, *words, **named)

    monkeypatch.setattr(Path, "open", noting)
    assert reading_s(tmp_path) > 0
    assert opened[-2:] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def test_weights_that_transformers_refuses_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((demo.CHECKPOINT / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    checkpoint = replace(describe(Source(model="demo", folder=demo.CHECKPOINT)), folder=tmp_path)
    with pytest.raises(CheckpointError, match=r"transformers can't load the weights in .*: .*header"):
        loaded_snippet(checkpoint, EXACT)


def test_nothing_but_the_end_is_unset(pair: Pair) -> None:
    assert pair.snippet.model.generation_config.eos_token_id is None
    assert pair.snippet.model.generation_config.pad_token_id == 3
